"""What the processor can do, as far as the numbers depend on it; nothing is imported or started to find out."""

from __future__ import annotations

import platform
import re
from pathlib import Path

__all__ = ["EXACT_INSTRUCTIONS", "cpu_flags", "saturates"]

EXACT_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Instructions that add products of 8 bits in 32: VNNI on x86, the dot product on Arm."""


def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def saturates(flags: frozenset[str], arch: str | None = None) -> bool:
    """Whether the fast kernels of a processor add pairs of uint8 x int8 products in 16 bits; False where flags are not known.

    Args:
        flags: of :func:`cpu_flags`.
        arch: as :func:`platform.machine` names it; None is this machine.
    """
    return (arch or platform.machine()) == "x86_64" and bool(flags) and not flags & EXACT_INSTRUCTIONS
