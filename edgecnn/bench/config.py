"""What a benchmark is told."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from edgecnn.errors import UserError

__all__ = ["BenchConfig", "Candidate", "Rate"]

Pattern = Literal["fixed", "poisson"]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How requests arrive when they do not follow each other.

    Attributes:
        pattern: ``fixed`` gaps, as of a camera, or ``poisson`` ones, as of many independent users.
        rate: requests a second.
    """

    pattern: Pattern = "fixed"
    rate: float = 30.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.pattern not in get_args(Pattern):
            raise UserError(f"pattern {self.pattern!r} is not one of {', '.join(get_args(Pattern))}")
        if not 0 < self.rate <= 1e6:
            raise UserError(f"rate must be requests a second above 0, found {self.rate!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``30`` or ``poisson:30``. Raises UserError."""
        found = re.fullmatch(r"(?:(fixed|poisson):)?(\d+(?:\.\d+)?)", text.strip())
        if not found:
            raise UserError(f"{text!r} is no rate: write requests a second, such as 30 or poisson:30")
        pattern: Pattern = "poisson" if found.group(1) == "poisson" else "fixed"
        return cls(pattern=pattern, rate=float(found.group(2)))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is measured: a variant ("" as the bundle chooses) of a bundle, by its place in the list, on a backend (``auto``: likewise)."""

    bundle: int = 0
    variant: str = ""
    backend: str = "auto"


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """How long, how, and what.

    Attributes:
        candidates: what is measured, at least one.
        batches, threads: every candidate is measured with each of both; 0 threads are as the backend chooses.
        streams: requests side by side.
        duration: seconds of measuring for each cell. ``count``: requests instead, 0 is by time.
        warmup: seconds at most until latency is steady.
        rate: requests by the clock; None is back to back. ``deadline_ms``: 0 is the gap between two requests.
        end_to_end: a request holds preprocessing of a decoded picture and postprocessing; else the inference alone.
        compare: the first two candidates are measured in turns, and a verdict is given.
        profile: measure layers too. ``roofline``: measure a matrix product too. ``telemetry``: read the device's sensors.
        provider: onnxruntime's execution provider, ``cpu`` or ``cuda``.
        plugins: libraries of an engine's operators. ``cuda_graph``: engines run as one CUDA graph.
        allow_unverified: measure what failed verification.
        seed: of Poisson arrivals.
    """

    candidates: tuple[Candidate, ...] = (Candidate(),)
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (0,)
    streams: int = 1
    duration: float = 3.0
    count: int = 0
    warmup: float = 5.0
    rate: Rate | None = None
    deadline_ms: float = 0.0
    end_to_end: bool = False
    compare: bool = False
    profile: bool = False
    roofline: bool = True
    telemetry: bool = True
    provider: str = "cpu"
    plugins: tuple[Path, ...] = ()
    cuda_graph: bool = False
    allow_unverified: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values and that they go together."""
        for name, least in (("candidates", 1), ("batches", 1), ("threads", 1)):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) < least or len(set(values)) != len(values):
                raise UserError(f"{name} must be one value or more, each once")
        for name, values, least in (
            ("batch", self.batches, 1),
            ("threads", self.threads, 0),
            ("streams", (self.streams,), 1),
            ("count", (self.count,), 0),
        ):
            if any(isinstance(value, bool) or not isinstance(value, int) or value < least for value in values):
                raise UserError(f"{name} must be whole numbers of at least {least}, found {list(values)}")
        for name in ("duration", "warmup"):
            if not 0 < getattr(self, name) <= 86_400:
                raise UserError(f"{name} must be seconds above 0, found {getattr(self, name)!r}")
        if not 0 <= self.deadline_ms < 1e9:
            raise UserError(f"the deadline must be milliseconds above 0, found {self.deadline_ms!r}")
        if self.deadline_ms and self.rate is None:
            raise UserError("a deadline counts from the arrival of a request: give a rate too")
        object.__setattr__(self, "plugins", tuple(Path(path) for path in self.plugins))
        if self.compare:
            self._check_comparison()

    def _check_comparison(self) -> None:
        """Check that a comparison is of two candidates, back to back, in one cell."""
        if len(self.candidates) != 2:
            raise UserError(f"a comparison is of two candidates, found {len(self.candidates)}")
        if self.rate is not None or self.streams > 1:
            raise UserError("a comparison is measured back to back in one stream: leave out the rate and the streams")
        if len(self.batches) > 1 or len(self.threads) > 1:
            raise UserError("a comparison takes one batch size and one number of threads")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dataclasses.asdict(self) | {"plugins": [str(path) for path in self.plugins]}
