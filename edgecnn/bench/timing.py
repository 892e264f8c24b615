"""Latency of several sessions side by side: measured in turns in one run, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecnn.errors import UserError
from edgecnn.progress import Progress, silent
from edgecnn.runtime.session import Array, Session

__all__ = ["Timing", "interleave"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One candidate's latency.

    Attributes:
        name: of the candidate.
        runs: measured inferences.
        median_ms, min_ms: of one inference, milliseconds.
        ratio: median over the rounds of (this candidate's time / the baseline's time in the same round).
        spread: half the interquartile range of these ratios; a ratio within ``spread`` of 1 says nothing.
    """

    name: str
    runs: int
    median_ms: float
    min_ms: float
    ratio: float
    spread: float

    @property
    def faster(self) -> bool | None:
        """Whether it beat the baseline; None where the difference drowns in the noise."""
        if abs(self.ratio - 1) <= self.spread:
            return None
        return self.ratio < 1

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "runs": self.runs,
            "median_ms": round(self.median_ms, 4),
            "min_ms": round(self.min_ms, 4),
            "ratio": round(self.ratio, 4),
            "spread": round(self.spread, 4),
        }


def interleave(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Mapping[str, Array]],
    *,
    baseline: str,
    seconds: float = 1.0,
    min_rounds: int = 5,
    progress: Progress = silent,
) -> dict[str, Timing]:
    """Measure every session in turn, round after round, for about ``seconds`` a session.

    Args:
        sessions: candidate -> session.
        feeds: candidate -> its input; real-valued, since zeros and denormals run at another speed.
        baseline: the candidate that ratios refer to.
        seconds: measuring time for each candidate, after one warm-up second at most.
        min_rounds: rounds measured even where they take longer than that.

    Raises:
        UserError: the baseline is not among the sessions.
    """
    if baseline not in sessions:
        raise UserError(f"baseline {baseline!r} is not among the sessions {sorted(sessions)}")
    slowest = max(_warm_up(session, feeds[name]) for name, session in sessions.items())
    # Several inferences a turn, so that clock and cache effects of switching stay below a few percent.
    turn = max(1, int(0.02 / slowest))
    rounds = max(min_rounds, int(seconds / (slowest * turn)))
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(rounds):
        for name, session in sessions.items():
            started = time.perf_counter()
            for _ in range(turn):
                session.run(feeds[name])
            samples[name].append((time.perf_counter() - started) / turn)
        progress("measure", index + 1, rounds)
    return {name: _summarise(name, times, samples[baseline], turn) for name, times in samples.items()}


def _warm_up(session: Session, feed: Mapping[str, Array]) -> float:
    """Run until two runs in a row are within 10 %, for at most one second; return the last run's seconds."""
    ends = time.perf_counter() + 1.0
    last = float("inf")
    while True:
        started = time.perf_counter()
        session.run(feed)
        took = time.perf_counter() - started
        if abs(took - last) < 0.1 * last or time.perf_counter() > ends:
            return max(took, 1e-6)
        last = took


def _summarise(name: str, times: list[float], base: list[float], turn: int) -> Timing:
    """Turn one candidate's times into a record."""
    ratios = sorted(mine / other for mine, other in zip(times, base, strict=True))
    quarter = len(ratios) // 4
    return Timing(
        name=name,
        runs=len(times) * turn,
        median_ms=statistics.median(times) * 1e3,
        min_ms=min(times) * 1e3,
        ratio=statistics.median(ratios),
        spread=(ratios[-1 - quarter] - ratios[quarter]) / 2,
    )
