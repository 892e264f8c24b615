"""onnxruntime.quantization, as its documentation says to use it, on our models and images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds samples one by one."""

    def __init__(self, samples: Iterable[Mapping[str, Any]]) -> None:
        self._samples: Iterator[Mapping[str, Any]] = iter(samples)

    def get_next(self) -> Any:
        return next(self._samples, None)


def ort_static(
    model: Path, samples: Iterable[Mapping[str, Any]], to: Path, *, method: str = "minmax", unsigned: bool = False
) -> Path:
    """Quantize: S8S8 symmetric, or U8S8 (``unsigned``), per-channel weights, Q/DQ format.

    Args:
        model: float file. ``samples``: calibration feeds.
        to: the file to write.
        method: minmax, entropy or percentile.
        unsigned: uint8 activations with a zero point, which onnxruntime's own kernels want.
    """
    prepared = to.with_suffix(".prepared.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(to),
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=METHODS[method],
                extra_options={"ActivationSymmetric": not unsigned, "WeightSymmetric": True},
            )
        finally:
            logging.disable(logging.NOTSET)
    return to
