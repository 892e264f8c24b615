"""Calibration: samples (:mod:`.data`), streaming statistics (:mod:`.collect`), range methods and the ranges artefact."""

from edgecnn.calib.data import ArrayFile, ImageFolder, InMemory, Photos, Samples, open_samples
from edgecnn.calib.histogram import Histogram
from edgecnn.calib.methods import Entropy, Method, MinMax, Mse, Percentile, parse
from edgecnn.calib.ranges import Ranges, calibrate

__all__ = [
    "ArrayFile",
    "Entropy",
    "Histogram",
    "ImageFolder",
    "InMemory",
    "Method",
    "MinMax",
    "Mse",
    "Percentile",
    "Photos",
    "Ranges",
    "Samples",
    "calibrate",
    "open_samples",
    "parse",
]
