"""edgecnn: from a PyTorch CNN classifier to a verified edge deployment in one command.

Importing this package imports nothing heavy: torch, onnx and the runtimes are imported inside the functions that use them.
The public modules are ``edgecnn.zoo``, ``edgecnn.export``, ``edgecnn.quantize``, ``edgecnn.calib``, ``edgecnn.parity``,
``edgecnn.pipeline``, ``edgecnn.runtime`` and ``edgecnn.testing``.
"""

from edgecnn._version import __version__

__all__ = ["__version__"]
