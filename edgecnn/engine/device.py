"""The GPU and its driver, asked through the driver's own library: no package, and nothing where there is none."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Device", "device", "memory_available"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h)."""
_MODULE = Path("/sys/module/nvidia/version")
"""Where Linux says which version of NVIDIA's kernel module is loaded."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU: its name, compute capability (``8.7``), memory in bytes, the newest CUDA its driver takes (``13.0``), and the driver's
    version (``580.65.06``), "" where the system does not say (only Linux does).
    """

    name: str
    compute_capability: str
    memory: int
    driver_cuda: str
    driver: str = ""


def device() -> Device | None:
    """Return the first GPU, or None where there is no NVIDIA driver or no GPU. Makes no context on it."""
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    handle, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return None
    name = ctypes.create_string_buffer(128)
    parts = [ctypes.c_int(), ctypes.c_int()]
    failed = [
        cuda.cuDeviceGetName(name, len(name), handle),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
        *(
            cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle)
            for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True)
        ),
    ]
    if any(failed):
        return None
    return Device(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{parts[0].value}.{parts[1].value}",
        memory=memory.value,
        driver_cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        driver=_driver(),
    )


def _driver() -> str:
    """Return the driver's version."""
    try:
        return _MODULE.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def memory_available() -> int:
    """Return the bytes of host memory that new work can have; 0 where the system does not say (only Linux does)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:  # noqa: PTH123 -- no path of ours
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
