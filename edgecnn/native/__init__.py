"""What edgecnn has in C++ and CUDA, and its compilers' front: the TensorRT plugin for deformable convolution.

``plugin/`` holds the sources, which ship in the wheel; :mod:`edgecnn.native.build` compiles them against an installed TensorRT,
:mod:`edgecnn.native.toolchain` finds nvcc and the headers and turns compiler failures into errors. Only the standard library
is imported.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["SOURCES"]

SOURCES = Path(__file__).parent / "plugin"
"""The folder of the plugin's sources and of its CMakeLists.txt."""
