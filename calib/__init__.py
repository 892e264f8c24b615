"""Calibration: samples (:mod:`.data`), one streaming pass (:mod:`.collect`), statistics, range methods and ranges."""

from edgecnn.calib.data import ArrayFile, ImageFolder, InMemory, Photos, Samples, Together, open_samples
from edgecnn.calib.histogram import Histogram
from edgecnn.calib.methods import Auto, Entropy, Method, MinMax, Mse, Percentile, PNorm, parse
from edgecnn.calib.ranges import Ranges
from edgecnn.calib.split import split
from edgecnn.calib.statistics import Statistics, calibrate, collect_statistics
from edgecnn.calib.synthetic import Synthetic, SyntheticConfig, synthesize

__all__ = [
    "ArrayFile",
    "Auto",
    "Entropy",
    "Histogram",
    "ImageFolder",
    "InMemory",
    "Method",
    "MinMax",
    "Mse",
    "PNorm",
    "Percentile",
    "Photos",
    "Ranges",
    "Samples",
    "Statistics",
    "Synthetic",
    "SyntheticConfig",
    "Together",
    "calibrate",
    "collect_statistics",
    "open_samples",
    "parse",
    "split",
    "synthesize",
]
