"""Compiles the TensorRT plugin, and its kernels alone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifacts import sha256_file
from edgecnn.errors import OutputError
from edgecnn.native import SOURCES
from edgecnn.native.toolchain import find_headers, find_nvcc
from edgecnn.writing import check_writable, write_bytes

__all__ = ["KERNELS", "PluginBuild", "PluginLibrary", "build_plugin", "compile_ptx"]

KERNELS = {
    (False, "float32"): "edgecnn_deform_conv2d_float",
    (False, "float16"): "edgecnn_deform_conv2d_half",
    (True, "float32"): "edgecnn_modulated_deform_conv2d_float",
    (True, "float16"): "edgecnn_modulated_deform_conv2d_half",
}
"""(with a mask?, dtype) -> name of the kernel in deform_conv2d.cu."""


@dataclass(frozen=True, kw_only=True)
class PluginBuild:
    """What to compile.

    Attributes:
        out: the library to write.
        tensorrt_root: folder of TensorRT's headers, or with ``include/``; None looks in the usual places.
        architectures: GPUs such as ``("sm_87",)``; empty for all that nvcc knows.
        force: replace an existing file.
    """

    out: Path = Path("libedgecnn_plugin.so")
    tensorrt_root: Path | None = None
    architectures: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class PluginLibrary:
    """A compiled plugin: for GPUs of ``architectures``, and newer ones by way of PTX."""

    path: Path
    sha256: str
    tensorrt: str
    nvcc: str
    architectures: tuple[str, ...]
    standard: int


def build_plugin(config: PluginBuild) -> PluginLibrary:
    """Compile the plugin's shared library with nvcc.

    The library needs TensorRT's headers to compile but no TensorRT library to link: it calls nothing of it by name. CUDA's
    runtime is linked statically. It exports ``getCreators`` and ``setLoggerFinder`` alone.

    Raises:
        MissingDependencyError: no nvcc, or no headers.
        SpecError: TensorRT older than 10, or an architecture that nvcc does not compile for.
        OutputError: the file exists, or cannot be written; checked before compiling.
        ToolError: nvcc failed, with its first errors.
    """
    if config.out.exists() and not config.force:
        raise OutputError(f"{config.out} exists already: choose another file, or replace it with --force")
    check_writable(config.out)
    headers, nvcc = find_headers(config.tensorrt_root), find_nvcc()
    architectures = nvcc.choose(config.architectures)
    with tempfile.TemporaryDirectory(prefix="edgecnn-plugin-") as folder:
        built = Path(folder) / "plugin.so"
        nvcc.run(
            *("-shared", f"-std=c++{headers.standard}", "-O3", "--threads", "0"),
            *("-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xlinker", "--no-undefined"),
            *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures),
            f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}",
            *("-isystem", headers.path, SOURCES / "plugin.cpp", SOURCES / "deform_conv2d.cu", "-o", built),
        )
        write_bytes(config.out, built.read_bytes())
    return PluginLibrary(
        path=config.out,
        sha256=sha256_file(config.out),
        tensorrt=".".join(map(str, headers.version)),
        nvcc=nvcc.version,
        architectures=tuple(f"sm_{number}" for number in architectures),
        standard=headers.standard,
    )


def compile_ptx(architecture: str = "") -> str:
    """Compile the kernels of :data:`KERNELS` to PTX and return its text.

    Args:
        architecture: the GPU that it is for, such as ``sm_87``; empty for the oldest that nvcc knows, which every newer GPU
            runs too.

    Raises:
        MissingDependencyError, SpecError, ToolError: as :func:`build_plugin`.
    """
    nvcc = find_nvcc()
    number = nvcc.choose((architecture,) if architecture else ())[0]
    with tempfile.TemporaryDirectory(prefix="edgecnn-plugin-") as folder:
        built = Path(folder) / "kernels.ptx"
        nvcc.run("-ptx", "-std=c++17", "-O3", f"-arch=compute_{number}", SOURCES / "deform_conv2d.cu", "-o", built)
        return built.read_text(encoding="ascii")
