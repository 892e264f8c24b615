"""Measurements: latency, throughput, load, memory and power of bundles on this device; ratios in turns, since machines are noisy."""

from edgecnn.bench.config import BenchConfig, Candidate, Rate
from edgecnn.bench.result import BenchResult, read_result
from edgecnn.bench.run import bench
from edgecnn.bench.timing import Timing, interleave

__all__ = ["BenchConfig", "BenchResult", "Candidate", "Rate", "Timing", "bench", "interleave", "read_result"]
