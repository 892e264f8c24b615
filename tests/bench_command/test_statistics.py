"""Percentiles, histogram, and the interval of a ratio: does it hold the truth as often as it says?"""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.bench.compare import judge
from edgecnn.bench.statistics import histogram_of, latency_of, ratio_interval


def rounds(draw: np.random.Generator, count: int, ratio: float, together: float) -> tuple[list[float], list[float]]:
    """Return times in turns whose ratio scatters by 5 %, each round like the one before, one in twenty disturbed."""
    noise = np.zeros(count)
    for index in range(count):
        noise[index] = together * noise[index - 1] + draw.standard_normal()
    drift = np.exp(0.3 * np.sin(np.arange(count) / 9))  # both slow down and recover
    disturbed = np.where(draw.random(count) < 0.05, 1.6, 1.0)
    return list(drift), list(drift * ratio * np.exp(0.05 * noise) * disturbed)


def test_latency_of_known_times() -> None:
    found = latency_of([index * 1_000_000 for index in range(1001)])
    assert (found.count, found.min_ms, found.max_ms, found.p50_ms) == (1001, 0.0, 1000.0, 500.0)
    assert (found.p90_ms, found.p95_ms, found.p99_ms) == pytest.approx((900.0, 950.0, 990.0))
    assert found.p99_9_ms == pytest.approx(999.0)
    assert found.mean_ms == pytest.approx(500.0)
    assert found.std_ms == pytest.approx(np.std(np.arange(1001), ddof=1))


def test_one_time_is_a_distribution_too() -> None:
    found = latency_of([2_500_000])
    assert (found.p50_ms, found.p99_9_ms, found.std_ms) == (2.5, 2.5, 0.0)
    assert sum(histogram_of([2_500_000]).counts) == 1


def test_the_histogram_counts_everything_and_its_last_bin_the_slow_ones() -> None:
    found = histogram_of([*range(1_000_000, 2_000_000, 1000), 50_000_000, 90_000_000])
    assert sum(found.counts) == 1002
    assert len(found.edges_ms) == len(found.counts) + 1
    assert found.edges_ms[0] == pytest.approx(1.0)
    assert found.edges_ms[-1] < 2.1


@pytest.mark.parametrize("together", [0.0, 0.5])
@pytest.mark.parametrize("count", [20, 60])
def test_the_interval_holds_the_true_ratio(count: int, together: float) -> None:
    draw = np.random.default_rng(3)
    trials = 150
    hits = 0
    for _ in range(trials):
        middle, low, high = ratio_interval(*rounds(draw, count, 0.5, together))
        assert low <= middle <= high
        hits += low <= 0.5017 <= high  # one disturbed round in twenty moves the median by 0.3 %
    assert hits / trials >= 0.87  # 95 % promised; 150 trials scatter by 2 % around it


def test_equal_candidates_get_no_verdict() -> None:
    draw = np.random.default_rng(5)
    verdicts = [judge("a", "b", *rounds(draw, 40, 1.0, 0.3)).verdict for _ in range(100)]
    assert verdicts.count("none") >= 86


def test_a_clear_difference_is_said_in_words_both_ways() -> None:
    draw = np.random.default_rng(6)
    faster = judge("fp32", "int8", *rounds(draw, 40, 0.5, 0.0))
    assert faster.verdict == "faster"
    assert faster.text.startswith("int8 is 1.9") or faster.text.startswith("int8 is 2.0")
    assert "x faster than fp32, 95% CI" in faster.text
    slower = judge("fp32", "int8", *rounds(draw, 40, 1.5, 0.0))
    assert (slower.verdict, slower.low > 1) == ("slower", True)
    assert "x slower than fp32" in slower.text
    none = judge("fp32", "int8", *rounds(draw, 40, 1.001, 0.0))
    assert none.verdict == "none"
    assert none.text.startswith("no verdict: int8 took")
    assert "the noise is larger than the difference" in none.text
