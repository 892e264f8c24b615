"""What device this is, in words and versions."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from edgecnn.bench.result import Device

__all__ = ["describe"]

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13", "cuda-bindings")


def describe(root: Path = Path("/"), gpus: tuple[str, ...] = ()) -> Device:
    """Describe this device; ``root`` is where its file system begins, ``gpus`` what telemetry found."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Device(
        name=_board(root) or _processor(root) or platform.processor() or "unknown",
        arch=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count() or 1,
        gpus=gpus,
        versions=versions,
    )


def _board(root: Path) -> str:
    """Return the name in a board's device tree, such as a Jetson's; "" where there is none."""
    try:
        return (root / "proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _processor(root: Path) -> str:
    """Return the processor's name; "" where Linux does not say."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""
