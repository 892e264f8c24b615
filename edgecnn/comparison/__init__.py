"""Networks side by side: accuracy against operations or measured latency, parameters, and which of them no other one beats."""

from edgecnn.comparison.bundles import BundleConfig, Score, compare_bundles
from edgecnn.comparison.points import AXES, Axis, Comparison, LeftOut, Measured, Point, front
from edgecnn.comparison.zoo import ZooConfig, compare_zoo

__all__ = [
    "AXES",
    "Axis",
    "BundleConfig",
    "Comparison",
    "LeftOut",
    "Measured",
    "Point",
    "Score",
    "ZooConfig",
    "compare_bundles",
    "compare_zoo",
    "front",
]
