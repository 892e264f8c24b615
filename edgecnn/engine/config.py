"""What an engine is built for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from edgecnn.errors import SpecError

__all__ = ["FLAVOURS", "Batch", "BuildConfig", "Flavour", "Hardware", "parse_bytes"]

Flavour = Literal["tensorrt", "tensorrt-rtx"]
Hardware = Literal["this", "ampere+", "same-compute-capability"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)


@dataclass(frozen=True)
class Batch:
    """Batch sizes that an engine takes: at least ``low``, at most ``high``, fastest at ``best``."""

    low: int
    best: int
    high: int

    def __post_init__(self) -> None:
        """Check the order."""
        if not 1 <= self.low <= self.best <= self.high:
            raise SpecError(f"batch {self}: the sizes must rise from 1, as in 1:8:32 (least:best:most)")

    def __str__(self) -> str:
        """Return ``8``, or ``1:8:32``."""
        return str(self.low) if self.fixed else f"{self.low}:{self.best}:{self.high}"

    @property
    def fixed(self) -> bool:
        """Whether there is one size only."""
        return self.low == self.high

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``8`` or ``1:8:32``. Raises SpecError."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
            raise SpecError(f"batch {text!r} is neither a size, such as 8, nor least:best:most, such as 1:8:32")
        sizes = [int(part) for part in parts]
        return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build an engine. There is no precision here: it stands in the graph (Q/DQ, Cast), which is always strongly typed.

    Attributes:
        target: the flavour.
        batch: None takes the graph's own size, or 1 where that is open.
        workspace: bytes of device memory that a layer may use while it works; 0 leaves the builder's own limit.
        level: how long the builder searches, 0 to 5 (its own default is 3).
        strip_weights: leave out weights, which a session puts back from the graph when it loads the plan.
        dla: number of the DLA core to build for, with layers that it lacks on the GPU; None builds for the GPU.
        timing_cache: file of measured kernels, read and written; None measures anew.
        version_compatible: let later versions of the same major one load the plan.
        hardware: GPUs beside this one that load the plan, TensorRT only.
        gpus: compute capabilities to build for, such as ``("8.6", "12.0")``, TensorRT-RTX only; empty: its default.
        plugins: shared libraries of operators that the graph uses.
    """

    target: Flavour
    batch: Batch | None = None
    workspace: int = 0
    level: int = 3
    strip_weights: bool = False
    dla: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: Hardware = "this"
    gpus: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        for name, choices in (("target", FLAVOURS), ("hardware", get_args(Hardware))):
            if getattr(self, name) not in choices:
                raise SpecError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        if self.workspace < 0:
            raise SpecError(f"workspace must be a number of bytes, asked for {self.workspace}")
        if not 0 <= self.level <= 5:
            raise SpecError(f"level must be between 0 and 5, asked for {self.level}")
        if self.dla is not None and self.dla < 0:
            raise SpecError(f"dla must be the number of a core, counted from 0, asked for {self.dla}")
        for gpu in self.gpus:
            if not re.fullmatch(r"[0-9]{1,2}\.[0-9]", gpu):
                raise SpecError(f"gpu {gpu!r} is not a compute capability, such as 8.6")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict of what decides the plan; paths are left out."""
        return {
            "target": self.target,
            "batch": None if self.batch is None else str(self.batch),
            "workspace": self.workspace,
            "level": self.level,
            "strip_weights": self.strip_weights,
            "dla": self.dla,
            "version_compatible": self.version_compatible,
            "hardware": self.hardware,
            "gpus": list(self.gpus),
            "plugins": [path.name for path in self.plugins],
        }


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_bytes(text: str) -> int:
    """Read a number of bytes: ``512M``, ``1G``, ``1.5GiB``. Units are powers of 1024. Raises SpecError."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise SpecError(f"{text!r} is not an amount of memory, such as 512M or 1G")
    return int(float(found[1]) * _UNITS[found[2].upper()])
