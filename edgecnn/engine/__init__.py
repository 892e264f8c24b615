"""Engines: TensorRT 10, TensorRT 11 and TensorRT-RTX from one strongly typed ONNX graph, with one builder over their one API."""

from edgecnn.engine.builder import build, ready
from edgecnn.engine.config import Batch, BuildConfig, Flavour, parse_bytes

__all__ = ["Batch", "BuildConfig", "Flavour", "build", "parse_bytes", "ready"]
