"""Two candidates in turns: a ratio with its interval, and a verdict where the noise allows one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from edgecnn.bench.loops import Call, Times
from edgecnn.bench.result import Comparison, Verdict
from edgecnn.bench.statistics import METHOD, ratio_interval
from edgecnn.progress import Progress, silent

__all__ = ["CONFIDENCE", "in_turns", "judge"]

CONFIDENCE = 0.95
_TURN_SECONDS = 0.02
_LONGEST_TURN = 100_000_000
"""Nanoseconds, whatever the warm-up promised: two sessions of small models may disturb each other."""
_ROUNDS = 20


def in_turns(
    requests: Sequence[Call],
    last: Sequence[float],
    *,
    seconds: float,
    count: int = 0,
    progress: Progress = silent,
) -> tuple[list[Times], list[list[float]]]:
    """Measure requests in turns, round after round; every other round goes the other way, so that neither is always the first.

    Args:
        requests: one a candidate, warmed up.
        last: seconds that one took at the end of its warm-up: a turn is so many of the slowest as fit into 20 ms.
        seconds: for each candidate, though there are twenty rounds. ``count``: requests of each instead.
        progress: called once a round.

    Returns:
        The times of each candidate, and its mean seconds in each round.
    """
    slowest = max(last)
    turn = max(1, int(_TURN_SECONDS / slowest))
    if count:
        turn = max(1, min(turn, count // _ROUNDS))
    total = max(_ROUNDS, count // turn if count else int(seconds / (slowest * turn)))
    taken: list[list[int]] = [[] for _ in requests]
    rounds: list[list[float]] = [[] for _ in requests]
    clock = time.perf_counter_ns
    until = time.perf_counter() + (seconds * len(requests) if not count else float("inf"))
    for index in itertools.count(1):
        order = range(len(requests)) if index % 2 else range(len(requests) - 1, -1, -1)
        for place in order:
            call, append = requests[place], taken[place].append
            if turn > 1:
                call()  # the other's idle threads still spin, and its data fill the caches
            begun = before = clock()
            enough, done = begun + _LONGEST_TURN, 0
            while done < turn and before < enough:
                call()
                after = clock()
                append(after - before)
                before = after
                done += 1
            rounds[place].append((before - begun) / done / 1e9)
        progress("compare", index, max(total, index))
        if index >= _ROUNDS and (time.perf_counter() > until or (count and index >= total)):
            break
    times = [Times(nanoseconds=tuple(found), seconds=sum(found) / 1e9) for found in taken]
    return times, rounds


def judge(baseline: str, candidate: str, base: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare two candidates by the times of their rounds.

    Args:
        baseline, candidate: their labels.
        base, other: mean seconds of each round.
    """
    ratio, low, high = ratio_interval(base, other, confidence=CONFIDENCE)
    verdict: Verdict = "faster" if high < 1 else "slower" if low > 1 else "none"
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        rounds=len(base),
        ratio=ratio,
        low=low,
        high=high,
        confidence=CONFIDENCE,
        method=METHOD,
        verdict=verdict,
        text=_text(baseline, candidate, verdict, (ratio, low, high)),
    )


def _text(baseline: str, candidate: str, verdict: Verdict, found: tuple[float, float, float]) -> str:
    """Say it in words."""
    share = f"{CONFIDENCE:.0%} CI"
    if verdict == "none":
        ratio, low, high = found
        return (
            f"no verdict: {candidate} took {ratio:.3f} of {baseline}'s time, {share} {low:.3f} to {high:.3f}, which holds 1: the noise is "
            "larger than the difference; measure longer, or on a quieter machine"
        )
    times = tuple(1 / value for value in found) if verdict == "faster" else found
    middle, low, high = times[0], min(times[1:]), max(times[1:])
    digits = 2 if low >= 1.05 else 4
    return (
        f"{candidate} is {middle:.{digits}f}x {verdict} than {baseline}, {share} {low:.{digits}f} to {high:.{digits}f}"
    )
