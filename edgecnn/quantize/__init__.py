"""Post-training INT8 as explicit Q/DQ: placement (which tensor, and the reason), ranges, insertion, bias correction, lint."""

from edgecnn.quantize.config import QuantizeConfig, Scheme
from edgecnn.quantize.equalization import Equalized, equalize
from edgecnn.quantize.quantizer import QuantizeResult, quantize, statistics_for
from edgecnn.quantize.rules import Decision, Placement, plan

__all__ = [
    "Decision",
    "Equalized",
    "Placement",
    "QuantizeConfig",
    "QuantizeResult",
    "Scheme",
    "equalize",
    "plan",
    "quantize",
    "statistics_for",
]
