"""Memory of this process, from Linux's ``/proc/self``."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["peak_mb", "reset_peak", "rss_mb"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK_ONLY = "5"  # proc_pid_clear_refs(5): reset the peak resident set size to what it is now


def rss_mb() -> float | None:
    """Return the resident set in 10**6 bytes; None where the system does not say."""
    return _field("VmRSS")


def peak_mb() -> float | None:
    """Return the highest resident set since :func:`reset_peak`, else since the process began, in 10**6 bytes."""
    return _field("VmHWM")


def reset_peak() -> None:
    """Let the peak begin anew, where the system can."""
    try:
        _CLEAR.write_text(_PEAK_ONLY)
    except OSError:
        return


def _field(name: str) -> float | None:
    """Read a field of the status file, which counts in KiB."""
    try:
        text = _STATUS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 / 1e6 if found else None
