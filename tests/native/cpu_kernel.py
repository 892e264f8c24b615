"""The plugin's kernel compiled as plain C++, called with numpy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "edgecnn" / "native" / "plugin"
NAMES = [
    *("batch", "channels", "height", "width", "outputs", "out_height", "out_width", "kernel_h", "kernel_w"),
    *("stride_h", "stride_w", "pad_top", "pad_left", "dilation_h", "dilation_w", "groups", "offset_groups"),
]
COMPILER = shutil.which("g++") or shutil.which("c++")


class Problem(ctypes.Structure):
    """``Problem`` of problem.hpp."""

    _fields_ = [(name, ctypes.c_int32) for name in NAMES]


class Pointers(ctypes.Structure):
    """``Pointers`` of problem.hpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("image", "weight", "offset", "bias", "mask", "output")]


class CpuKernel:
    """The library; build it with :meth:`compiled`."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.deform_conv2d.restype = ctypes.c_char_p
        self.library.to_half.argtypes = self.library.from_half.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
        ]

    @classmethod
    def compiled(cls, folder: Path, *flags: str) -> CpuKernel:
        """Compile the header with the loop around it, warnings as errors."""
        assert COMPILER is not None
        path = folder / "deform_conv2d_cpu.so"
        source = Path(__file__).with_name("deform_conv2d_cpu.cpp")
        flags = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags)
        subprocess.run([COMPILER, *flags, f"-I{SOURCES}", str(source), "-o", str(path)], check=True, timeout=120)
        return cls(path)

    def half(self, values: np.ndarray) -> np.ndarray:
        """Round float32 to half precision by the header's own code."""
        source = np.ascontiguousarray(values, np.float32)
        out = np.empty(source.shape, np.float16)
        self.library.to_half(source.ctypes.data, out.ctypes.data, source.size)
        return out

    def from_half(self, values: np.ndarray) -> np.ndarray:
        """Widen half precision by the header's own code."""
        out = np.empty(values.shape, np.float32)
        self.library.from_half(values.ctypes.data, out.ctypes.data, values.size)
        return out

    def run(self, tensors, stride=(1, 1), pads=(0, 0, 0, 0), dilation=(1, 1), offset_groups=None, **changes):
        """Run the kernel; ``tensors`` are input, offset, weight and perhaps bias and mask, all float32 or all float16.

        ``pads`` are top, left, bottom, right. Returns (N, C_out, H_out, W_out). Raises ValueError with the text of fault().
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        (batch, channels, *size), (outputs, per_group, *kernel) = arrays["input"].shape, arrays["weight"].shape
        out = [
            self.library.out_length(size[i], pads[i] + pads[i + 2], kernel[i], stride[i], dilation[i]) for i in (0, 1)
        ]
        if offset_groups is None:
            offset_groups = arrays["offset"].shape[1] // (2 * kernel[0] * kernel[1])
        numbers = (
            batch,
            channels,
            *size,
            outputs,
            *out,
            *kernel,
            *stride,
            *pads[:2],
            *dilation,
            channels // per_group,
            offset_groups,
        )
        return self.launch({**dict(zip(NAMES, numbers, strict=True)), **changes}, arrays, (batch, outputs, *out))

    def launch(self, sizes, tensors, shape):
        """Run the kernel on a Problem of ``sizes`` (name -> number) and return the output, of ``shape``."""
        problem = Problem(**sizes)
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        dtype = arrays["input"].dtype
        assert {array.dtype for array in arrays.values()} == {dtype}
        output = np.full(shape, np.nan, dtype)
        order = (arrays.get(name) for name in ("input", "weight", "offset", "bias", "mask"))
        addresses = [None if array is None else array.ctypes.data for array in order]
        pointers = Pointers(*addresses, output.ctypes.data)
        half = ctypes.c_bool(dtype == np.float16)
        if fault := self.library.deform_conv2d(ctypes.byref(problem), ctypes.byref(pointers), half):
            raise ValueError(fault.decode())
        return output

    def grid(self, sizes):
        """Return (x, y), the blocks that the kernel is launched with."""
        blocks = (ctypes.c_int64 * 2)()
        self.library.grid(ctypes.byref(Problem(**sizes)), blocks)
        return tuple(blocks)
