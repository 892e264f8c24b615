"""What a device is and has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgecnn.errors import EdgecnnError
from edgecnn.remote.fleet import Answer, each
from edgecnn.remote.inventory import Device
from edgecnn.remote.transport import Link

__all__ = ["probe", "probe_all"]

PACKAGES = ("edgecnn", "numpy", "tensorrt", "tensorrt-rtx", "tensorrt-cu12", "tensorrt-cu13", "onnxruntime",
            "onnxruntime-gpu", "openvino")  # fmt: skip


def probe(device: Device, *, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Return what a device says of itself, JSON-ready; nothing is installed there.

    Returns:
        ``arch``, ``os``, ``kernel``, ``model``, ``l4t``, ``jetpack``, ``gpu``, ``cores``, ``memory_mb``, ``free_mb``, ``rsync``,
        ``power_mode``, ``temperatures_c``, ``cpu_mhz``;
        ``python`` and ``packages`` (name -> version) of its interpreter. "" for what it has not.

    Raises:
        RemoteError: it cannot be reached.
    """
    with Link(device, say=say) as link:
        facts = link.call("facts")
        python = device.python or device.base_python
        try:
            inside = link.call("check", python=python, packages=list(PACKAGES))
        except EdgecnnError as error:
            inside = {"python": "", "packages": {}, "problem": str(error)}
        unwanted = ("bytes", "data")
        return {
            **{name: value for name, value in facts.items() if name not in unwanted},
            **{name: value for name, value in inside.items() if name not in unwanted},
            "root": link.root,
        }


def probe_all(devices: Sequence[Device]) -> tuple[Answer[dict[str, Any]], ...]:
    """Probe devices in parallel; one that cannot be reached is an answer with an error."""
    return each(devices, lambda device, _: probe(device))
