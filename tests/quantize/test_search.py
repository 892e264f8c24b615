"""The search for the layers that return to float."""

from __future__ import annotations

import math

import pytest

from edgecnn.errors import SpecError
from edgecnn.quantize.search import Budget, Search, search

ORDER = tuple(f"layer{index}" for index in range(40))


def run(needed: int) -> tuple[Search, list[int]]:
    """Search where ``needed`` layers in float give 20 dB, and each further one a dB more."""
    asked: list[int] = []

    def measure(kept: tuple[str, ...]) -> tuple[float, float]:
        assert kept == ORDER[: len(kept)], "layers return in their order"
        asked.append(len(kept))
        return 0.0, 20.0 + len(kept) - needed

    return search(ORDER, measure, Budget(min_sqnr_db=20)), asked


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 7, 8, 9, 31, 38, 39])
def test_the_fewest_layers_that_keep_the_budget_return_to_float(needed: int) -> None:
    found, asked = run(needed)
    assert found
    assert found.restored == ORDER[:needed]
    assert found.best.sqnr_db == 20.0
    assert len(asked) == len(set(asked)) <= 2 * math.log2(len(ORDER)) + 2, (
        "nothing is measured twice, and little at all"
    )


def test_without_a_need_one_measurement_is_enough() -> None:
    assert run(0)[1] == [0]


def test_what_cannot_be_reached_is_a_result_with_the_best_that_was() -> None:
    found, asked = run(60)
    assert not found
    assert found.restored == ORDER[:39], "one layer stays INT8"
    assert found.best.sqnr_db == max(trial.sqnr_db for trial in found.trials)
    assert asked[-1] == 39


def test_both_limits_count() -> None:
    budget = Budget(max_drop=0.5, min_sqnr_db=20)
    found = search(ORDER, lambda kept: (0.6 if len(kept) < 5 else 0.5, 18.0 + len(kept)), budget)
    assert found.restored == ORDER[:5], "0.5 points need five layers, 20 dB two"
    assert str(budget) == "a drop of at most 0.5 points and at least 20 dB"


def test_identical_logits_keep_every_budget_and_make_json() -> None:
    found = search(ORDER, lambda _: (0.0, math.inf), Budget(min_sqnr_db=100))
    assert found.to_json()["trials"] == [{"restored": 0, "drop": 0.0, "sqnr_db": None, "holds": True}]


@pytest.mark.parametrize("bad", [{"max_drop": -1}, {"max_drop": math.nan}, {"min_sqnr_db": math.nan}])
def test_bad_budgets(bad: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        Budget(**bad)
    assert not Budget()
