"""The loops, on work whose time is known: one stream by a clock that only the work moves, several by real naps."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgecnn.bench import compare, loops
from edgecnn.bench.compare import in_turns, judge
from edgecnn.bench.loops import arrivals, back_to_back, open_loop, warm_up


class Clock:
    """A clock that stands still but for sleeping, so that nothing else the machine does is measured."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def perf_counter(self) -> float:
        return self.now / 1e9

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the loops of one stream, and naps, go by a clock of their own."""
    found = Clock()
    for module in (loops, compare):
        monkeypatch.setattr(module, "time", found)
    monkeypatch.setitem(globals(), "time", found)
    return found


class Naps:
    """A request that sleeps, by default 2 ms; ``long``: which ones, twenty times as long. Counts calls, and threads inside at once."""

    def __init__(self, seconds: float = 0.002, long: tuple[int, ...] = ()) -> None:
        self.seconds, self.long = seconds, long
        self.calls = self.inside = self.most = 0
        self.lock = threading.Lock()

    def __call__(self) -> None:
        with self.lock:
            index, self.calls = self.calls, self.calls + 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep((20 if index in self.long else 1) * self.seconds)
        with self.lock:
            self.inside -= 1


@pytest.mark.usefixtures("clock")
def test_back_to_back_by_count_and_by_time() -> None:
    naps = Naps()
    found = back_to_back([naps], count=7)
    assert (found.nanoseconds, naps.calls) == ((2_000_000,) * 7, 7)
    assert found.seconds == 0.014
    found = back_to_back([Naps()], seconds=0.1)
    assert (len(found.nanoseconds), found.seconds) == (50, 0.1)


@pytest.mark.usefixtures("clock")
def test_a_slow_request_is_measured_three_times_though_the_time_is_over() -> None:
    assert len(back_to_back([Naps(0.02)], seconds=0.001).nanoseconds) == 3


def test_streams_run_side_by_side_and_share_the_count() -> None:
    naps = Naps(0.05)
    found = back_to_back([naps] * 4, count=20)
    assert (naps.calls, len(found.nanoseconds), naps.most) == (20, 20, 4)
    assert found.seconds < 20 * 0.05  # a quarter of it, on a machine that does nothing else


@pytest.mark.parametrize("streams", [1, 3])
def test_what_a_request_raises_comes_out(streams: int) -> None:
    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        back_to_back([fail] * streams, seconds=0.1)
    with pytest.raises(ValueError, match="broken"):
        open_loop([fail] * streams, [0, 1000], limit=1)


@pytest.mark.usefixtures("clock")
def test_warm_up_ends_when_latency_is_steady() -> None:
    slow_at_first = iter([0.05] * 6)
    found = warm_up(lambda: time.sleep(next(slow_at_first, 0.004)), 10)
    assert found.steady
    assert found.runs == 5 + 5 + 13 + 13  # a slow window; three of 50 ms, whose first begins with a slow run
    assert found.last == pytest.approx(0.004)


@pytest.mark.usefixtures("clock")
def test_warm_up_gives_up() -> None:
    length = iter(0.01 * 1.02**index for index in range(1000))  # slower and slower
    found = warm_up(lambda: time.sleep(next(length)), 0.4)
    assert not found.steady
    assert 0.4 <= found.seconds < 0.43


def test_arrivals() -> None:
    assert arrivals("fixed", 100, count=4) == (0, 10_000_000, 20_000_000, 30_000_000)
    assert len(arrivals("fixed", 30, seconds=2)) == 60
    moments = np.asarray(arrivals("poisson", 1000, count=20_000, seed=1))
    gaps = np.diff(moments)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1e6, rel=0.05)
    assert gaps.std() == pytest.approx(1e6, rel=0.05)  # an exponential's deviation is its mean
    assert arrivals("poisson", 1000, count=9, seed=1) == tuple(moments[:9])
    assert arrivals("poisson", 1000, count=9, seed=2) != tuple(moments[:9])
    assert len(arrivals("poisson", 0.01, seconds=1)) == 1


@pytest.mark.usefixtures("clock")
def test_one_slow_request_delays_those_behind_it() -> None:
    """A closed loop would show one slow request of forty milliseconds; by the clock, those that wait behind it are late too."""
    found = open_loop([Naps(0.002, long=(3,))], arrivals("fixed", 200, count=20), limit=10)
    assert found.service == (*[2_000_000] * 3, 40_000_000, *[2_000_000] * 16)
    # Each arrives 5 ms after the one before it, and takes 2 ms: the queue gets 3 ms shorter.
    assert found.queue == (*[0] * 4, *[(35 - 3 * place) * 1_000_000 for place in range(12)], *[0] * 4)


def test_a_second_stream_takes_the_wait_away() -> None:
    found = open_loop([Naps(0.02, long=(3,))] * 2, arrivals("fixed", 20, count=12), limit=30)
    assert np.median(found.queue[4:8]) < 150_000_000  # with one, 350, 320, 290 and 260 ms


@pytest.mark.usefixtures("clock")
def test_two_in_turns_have_the_ratio_of_their_times() -> None:
    order: list[str] = []
    short, long = Naps(0.004), Naps(0.012)
    calls = [lambda: (order.append("short"), short()), lambda: (order.append("long"), long())]
    times, rounds = in_turns(calls, [0.004, 0.012], seconds=0.1)
    assert rounds == [[0.004] * 20, [0.012] * 20]
    assert [found.seconds for found in times] == pytest.approx([0.08, 0.24])
    assert order[:4] == ["short", "long", "long", "short"]  # neither is always the first
    found = judge("short", "long", *rounds)
    assert (found.verdict, found.ratio) == ("slower", pytest.approx(3))


@pytest.mark.usefixtures("clock")
def test_several_fit_into_a_turn_and_the_count_is_kept() -> None:
    calls = [Naps(0.001), Naps(0.001)]
    times, rounds = in_turns(calls, [0.001, 0.001], seconds=9, count=60)
    assert len(rounds[0]) == 20
    assert [len(found.nanoseconds) for found in times] == [60, 60]
    assert [call.calls for call in calls] == [80, 80]  # one before each turn, while the other's data leave the caches


@pytest.mark.usefixtures("clock")
def test_what_cannot_be_served_is_given_up() -> None:
    moments = arrivals("fixed", 1000, count=200)
    found = open_loop([Naps(0.02)], moments, limit=0.2)
    assert len(found.service) == 11  # those begun at 0, 20 ... 200 ms
    assert found.queue[-1] == 190_000_000
