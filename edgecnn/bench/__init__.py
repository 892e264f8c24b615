"""Measurements: latency as interleaved ratios, since absolute times of a shared machine mean little."""

from edgecnn.bench.timing import Timing, interleave

__all__ = ["Timing", "interleave"]
