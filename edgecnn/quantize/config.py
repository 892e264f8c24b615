"""What the quantizer is asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgecnn.calib.methods import Method, Mse
from edgecnn.errors import SpecError

__all__ = ["QuantizeConfig", "Scheme"]

Scheme = Literal["int8", "int8-cpu"]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """How to quantize.

    Attributes:
        scheme: ``int8`` is valid for TensorRT: symmetric int8 activations per tensor, zero point 0, float bias; Q/DQ at inputs
            alone. ``int8-cpu`` is for onnxruntime's integer kernels: uint8 activations with a zero point, int32 bias,
            Q/DQ at inputs and outputs, so that adds, pools and concats stay integer. Weights are symmetric int8 per
            channel in both.
        method: of the activations' ranges.
        keep_float: regular expressions over node names; a node that one of them finds stays float.
        bias_correction: fold the mean error of weight rounding into the bias (Nagel et al. 2019, arXiv:1906.04721, sec. 4.2).
    """

    scheme: Scheme = "int8"
    method: Method = field(default_factory=Mse)
    keep_float: tuple[str, ...] = ()
    bias_correction: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.scheme not in get_args(Scheme):
            raise SpecError(f"scheme {self.scheme!r} is not one of {', '.join(get_args(Scheme))}")
        for pattern in self.keep_float:
            try:
                re.compile(pattern)
            except re.error as error:
                raise SpecError(f"keep_float {pattern!r} is not a regular expression: {error}") from error

    @property
    def symmetric(self) -> bool:
        """Whether activations have zero point 0."""
        return self.scheme == "int8"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "scheme": self.scheme,
            "method": self.method.to_json(),
            "keep_float": list(self.keep_float),
            "bias_correction": self.bias_correction,
        }
