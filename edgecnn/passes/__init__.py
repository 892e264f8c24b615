"""ONNX transformations, one a file, each with a contract: what it requires, what it ensures, how much it changed."""

from edgecnn.passes._base import Pass, run_passes

__all__ = ["Pass", "run_passes"]
