"""One reading of a device's sensors, and what a source of readings is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Sample", "Source"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One reading; what a source does not know is empty.

    Attributes:
        watts: power by rail. ``joules``: energy counters by name, which only grow.
        mhz: clocks by unit. ``celsius``: temperatures by sensor. ``load``: use by unit, 0 to 1.
        throttling: why clocks are held down at this moment.
        gpu_used_mb: device memory in use, 10**6 bytes.
    """

    watts: Mapping[str, float] = field(default_factory=dict)
    joules: Mapping[str, float] = field(default_factory=dict)
    mhz: Mapping[str, float] = field(default_factory=dict)
    celsius: Mapping[str, float] = field(default_factory=dict)
    load: Mapping[str, float] = field(default_factory=dict)
    throttling: tuple[str, ...] = ()
    gpu_used_mb: float | None = None


class Source(Protocol):
    """Something that can be read again and again, and must be closed."""

    name: str

    def read(self) -> Sample | None:
        """Return what it says now, None where there is nothing new."""

    def close(self) -> None:
        """Stop it."""
