"""What the quantizer is asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgecnn.calib.methods import Auto, Method, Mse
from edgecnn.errors import SpecError

__all__ = ["Concat", "Effort", "QuantizeConfig", "Scheme"]

Scheme = Literal["int8", "int8-cpu"]
Concat = Literal["separate", "shared"]
Effort = Literal["fast", "balanced", "max"]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """How to quantize.

    Attributes:
        scheme: ``int8`` is valid for TensorRT: symmetric int8 activations per tensor, zero point 0, float bias; Q/DQ at inputs
            alone. ``int8-cpu`` is for onnxruntime's integer kernels: uint8 activations with a zero point, int32 bias,
            Q/DQ at inputs and outputs, so that adds, pools and concats stay integer. Weights are symmetric int8 per
            channel in both.
        method: of the activations' ranges; an :class:`~edgecnn.calib.methods.Auto` chooses one by measurement.
        keep_float: regular expressions over node names; a node that one of them finds stays float.
        quantize_only: regular expressions over node names; where there are some, a node that none of them finds stays float.
        bias_correction: fold the mean error of weight rounding into the bias (Nagel et al. 2019, arXiv:1906.04721, sec. 4.2).
        first_layer: quantize the convolution that reads the image. In float it moved the logits' SQNR of EfficientNet-Lite0 to 2 by
            +0.4, +0.6 and 0.0 dB (``int8``), for the largest maps of the network in float.
        last_layer: quantize the classifier; its output, the logits, is float in any case. In float it gained 0.2, 0.2 and 0.1 dB
            there, for four times the bytes of its weights.
        depthwise: quantize depthwise convolutions.
        concat: ``shared`` gives the inputs and the output of a concatenation one scale, the largest of theirs, so that an engine
            copies INT8 values without rescaling them; ``separate`` gives each its own, which loses less.
        effort: ``fast`` rounds each weight to the nearest integer. ``balanced`` goes through the network once more, layer by layer, and
            rounds weights so that their errors cancel (:mod:`edgecnn.quantize.correct`); it reads the samples a second time. The
            quantized graph costs the same. ``max`` does so on more samples and positions, tries more scales, and improves what was
            rounded by coordinate descent, which takes several times as long and up to 3 GB.
        equalize: scale channels between two convolutions first, so that those of one tensor use its range alike
            (:mod:`edgecnn.quantize.equalization`).
    """

    scheme: Scheme = "int8"
    method: Method | Auto = field(default_factory=Mse)
    keep_float: tuple[str, ...] = ()
    quantize_only: tuple[str, ...] = ()
    bias_correction: bool = True
    first_layer: bool = True
    last_layer: bool = True
    depthwise: bool = True
    concat: Concat = "separate"
    effort: Effort = "balanced"
    equalize: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name, choices in (("scheme", get_args(Scheme)), ("concat", get_args(Concat)), ("effort", get_args(Effort))):
            if getattr(self, name) not in choices:
                raise SpecError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("bias_correction", "first_layer", "last_layer", "depthwise", "equalize"):
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"{name} must be True or False, found {getattr(self, name)!r}")
        if not isinstance(self.method, Method | Auto):
            raise SpecError(
                f"method must be a Method such as Mse(), or Auto(), found {self.method!r}: calib.parse reads names"
            )
        for name in ("keep_float", "quantize_only"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise SpecError(f"{name} {pattern!r} is not a regular expression: {error}") from error

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
            "quantize_only": list(self.quantize_only),
            "bias_correction": self.bias_correction,
            "first_layer": self.first_layer,
            "last_layer": self.last_layer,
            "depthwise": self.depthwise,
            "concat": self.concat,
            "effort": self.effort,
            "equalize": self.equalize,
        }
