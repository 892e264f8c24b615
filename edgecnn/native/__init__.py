"""What edgecnn has in C++ and CUDA: the C++ runtime, and the TensorRT plugin for deformable convolution with its compilers' front.

``include/``, ``cmake/`` and ``example/`` are the C++ runtime (docs/CPP.md). ``plugin/`` holds the plugin's sources. All ship in the
wheel. :mod:`edgecnn.native.build` compiles the plugin against an installed TensorRT, :mod:`edgecnn.native.toolchain` finds nvcc and
the headers and turns compiler failures into errors. Only the standard library is imported.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CMAKE", "EXAMPLE", "INCLUDE", "SOURCES"]

SOURCES = Path(__file__).parent / "plugin"
"""The folder of the plugin's sources and of its CMakeLists.txt."""

INCLUDE = Path(__file__).parent / "include"
"""The folder of the C++ runtime's headers: ``#include <edgecnn/edgecnn.hpp>``."""

CMAKE = Path(__file__).parent / "cmake"
"""The folder of its CMake configuration: ``find_package(edgecnn)`` finds it as ``edgecnn_DIR``."""

EXAMPLE = Path(__file__).parent / "example"
"""The folder of the app ``classify`` and of its CMakeLists.txt."""
