"""The loops that measure: back to back in any number of threads, or by the clock whether the model keeps up or not."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

__all__ = ["Call", "Served", "Times", "Warm", "arrivals", "back_to_back", "open_loop", "warm_up"]

T = TypeVar("T")
Call = Callable[[], object]
"""One request."""

_STEADY = 0.05
_WINDOWS = 3
_WINDOW_SECONDS, _WINDOW_RUNS = 0.05, 5
_LEAST = 3
"""Runs of a stream, though its time be over."""


@dataclass(frozen=True, kw_only=True)
class Warm:
    """The warm-up: runs, seconds, whether latency was steady at its end, and the seconds of one run then."""

    runs: int
    seconds: float
    steady: bool
    last: float


@dataclass(frozen=True, kw_only=True)
class Times:
    """Requests back to back: nanoseconds of each, and the seconds from the first's start to the last's end."""

    nanoseconds: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Served:
    """Requests by the clock, in the order of arrival: nanoseconds of waiting and of service; those that were given up are not here."""

    queue: tuple[int, ...]
    service: tuple[int, ...]
    seconds: float


def warm_up(call: Call, seconds: float) -> Warm:
    """Run until the medians of three windows of runs in a row lie within 5 %, for at most ``seconds``."""
    clock = time.perf_counter
    started, runs = clock(), 0
    medians: list[float] = []
    while True:
        times: list[float] = []
        begun = clock()
        while len(times) < _WINDOW_RUNS or clock() - begun < _WINDOW_SECONDS:
            before = clock()
            call()
            times.append(clock() - before)
            if clock() - started > seconds:
                break
        runs += len(times)
        medians.append(statistics.median(times))
        last = medians[-_WINDOWS:]
        steady = len(last) == _WINDOWS and max(last) <= (1 + _STEADY) * min(last)
        if steady or clock() - started > seconds:
            return Warm(runs=runs, seconds=clock() - started, steady=steady, last=max(medians[-1], 1e-7))


def back_to_back(calls: Sequence[Call], *, seconds: float = 0.0, count: int = 0) -> Times:
    """Run requests one after another in as many threads as there are calls.

    Args:
        calls: one for each stream; a stream uses its own alone.
        seconds: how long requests are begun, though each stream runs three.
        count: of all requests together, in place of ``seconds``.

    Raises:
        Exception: whatever a call raises, once all threads have ended.
    """
    tickets: Iterator[int] = iter(range(count)) if count else itertools.repeat(0)
    least = 0 if count else _LEAST

    def stream(call: Call, started: int) -> list[int]:
        clock, times = time.perf_counter_ns, list[int]()
        until = started + int(seconds * 1e9)
        append, before = times.append, clock()
        while (count or before < until or len(times) < least) and next(tickets, None) is not None:
            call()
            after = clock()
            append(after - before)
            before = after
        return times

    found, spent = _in_threads([partial(stream, call) for call in calls])
    return Times(nanoseconds=tuple(itertools.chain.from_iterable(found)), seconds=spent)


def arrivals(pattern: str, rate: float, *, seconds: float = 0.0, count: int = 0, seed: int = 0) -> tuple[int, ...]:
    """Return when requests arrive, in nanoseconds from the start.

    Args:
        pattern: ``fixed``: every ``1 / rate`` seconds; ``poisson``: with independent exponential gaps of that mean.
        rate: requests a second.
        seconds, count: how long, or how many; at least one.
        seed: of the gaps.
    """
    total = count or max(1, int(seconds * rate))
    if pattern == "fixed":
        return tuple(round(index * 1e9 / rate) for index in range(total))
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, total)
    return tuple(int(moment) for moment in np.cumsum(gaps))


def open_loop(calls: Sequence[Call], moments: Sequence[int], *, limit: float) -> Served:
    """Serve requests in the order of their arrival, each as soon as it is there and a stream is free.

    Times count from the intended arrival, so that a slow request shows in all that wait behind it (no coordinated omission).

    Args:
        calls: one for each stream.
        moments: of arrival, nanoseconds from the start, ascending.
        limit: seconds after which no request is begun: those left are given up.

    Raises:
        Exception: whatever a call raises, once all threads have ended.
    """
    tickets = iter(enumerate(moments))

    def stream(call: Call, started: int) -> list[tuple[int, int, int]]:
        clock, done = time.perf_counter_ns, list[tuple[int, int, int]]()
        until = started + int(limit * 1e9)
        while (ticket := next(tickets, None)) is not None:
            index, moment = ticket
            due = started + moment
            if (wait := due - clock()) > 0:
                time.sleep(wait / 1e9)
            begun = clock()
            if begun > until:
                break
            call()
            done.append((index, begun - due, clock() - begun))
        return done

    found, spent = _in_threads([partial(stream, call) for call in calls])
    rows = sorted(itertools.chain.from_iterable(found))
    return Served(queue=tuple(row[1] for row in rows), service=tuple(row[2] for row in rows), seconds=spent)


def _in_threads(works: Sequence[Callable[[int], T]]) -> tuple[list[T], float]:
    """Run functions of the common start at once; return their results and the seconds until the last ended."""
    started = time.perf_counter_ns()
    if len(works) == 1:
        return [works[0](started)], (time.perf_counter_ns() - started) / 1e9
    gate = threading.Barrier(len(works) + 1)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def work(index: int) -> None:
        gate.wait()
        try:
            results[index] = works[index](begin[0])
        except BaseException as error:  # noqa: BLE001 -- raised again where it can be seen
            failures.append(error)

    begin = [0]
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    begin[0] = time.perf_counter_ns()
    gate.wait()
    for thread in threads:
        thread.join()
    spent = (time.perf_counter_ns() - begin[0]) / 1e9
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(works))], spent
