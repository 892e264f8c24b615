"""Sums that do not depend on the order or the parts in which they were made."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from edgecnn.errors import BackendError
from edgecnn.parity.metrics import compare
from edgecnn.parity.tally import MOST_REASONS, ExactSum, Tally

DRAW = random.Random(0)
VALUES = [
    *(DRAW.uniform(-1, 1) * 10.0 ** DRAW.randint(-300, 300) for _ in range(500)),
    5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 0.0, 2.5,
]  # fmt: skip


def outputs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    reference = draw.standard_normal((count, 10)).astype(np.float32)
    return reference, reference + 0.3 * draw.standard_normal((count, 10)).astype(np.float32)


def tally_of(reference: np.ndarray, candidate: np.ndarray, labels: list[int]) -> Tally:
    tally = Tally()
    for one, two, label in zip(reference, candidate, labels, strict=True):
        tally.add(two[None], one[None], label)
    return tally


def test_a_sum_is_the_float_nearest_to_the_true_one() -> None:
    total = ExactSum()
    for value in VALUES:
        total.add(value)
    assert Fraction(total.units, 1 << 1074) == sum(map(Fraction, VALUES))
    assert float(total) == float(sum(map(Fraction, VALUES)))


def test_a_sum_beyond_float64_is_infinite() -> None:
    total = ExactSum()
    for _ in range(3):
        total.add(-1.7e308)
    assert float(total) == -math.inf


def test_parts_in_any_order_give_the_same_bits() -> None:
    reference, candidate = outputs(200)
    labels = [index % 10 for index in range(200)]
    whole = tally_of(reference, candidate, labels)
    cuts = [slice(0, 1), slice(1, 90), slice(90, 91), slice(91, 200)]
    joined = Tally()
    for cut in (cuts[2], cuts[0], cuts[3], cuts[1]):
        part = tally_of(reference[cut], candidate[cut], labels[cut])
        joined.merge(Tally.from_json(json.loads(json.dumps(part.to_json()))))
    assert joined.to_json() == whole.to_json()
    assert joined.score("int8", referenced=True) == whole.score("int8", referenced=True)


def test_the_score_is_that_of_all_outputs_at_once() -> None:
    reference, candidate = outputs(50)
    labels = [int(row.argmax()) for row in candidate[:25]] + [int(row.argmin()) for row in candidate[25:]]
    score = tally_of(reference, candidate, labels).score("int8", referenced=True)
    metrics = compare(reference, candidate)
    assert (score.images, score.top1, score.top5, score.agreement) == (50, 50, 50, metrics.top1)
    assert score.sqnr_db == pytest.approx(metrics.sqnr_db, rel=1e-12)
    assert score.mean_kl == pytest.approx(metrics.kl, rel=1e-12)


def test_the_first_reasons_of_the_listing_are_kept_whatever_comes_first() -> None:
    one, two = Tally(), Tally()
    for position in range(100):
        (one if position % 3 else two).skip(position, f"{position}.png", "no picture")
    late, early = Tally(), Tally()
    for part in (one, two):
        early.merge(part)
    for part in (two, one):
        late.merge(part)
    assert early.to_json() == late.to_json()
    assert early.unreadable == 100
    assert [position for position, _, _ in early.reasons] == list(range(MOST_REASONS))


def test_a_file_whose_name_is_no_text_can_be_reported() -> None:
    tally = Tally()
    tally.skip(0, "caf\udce9.png", "caf\udce9.png: no picture")
    assert json.dumps(tally.to_json(), ensure_ascii=False).encode()


def test_nan_is_an_error() -> None:
    with pytest.raises(BackendError, match="NaN or infinity"):
        Tally().add(np.full((1, 3), np.nan), None, 0)


@pytest.mark.parametrize("text", ["{}", "[]", '{"images": 1}', '"x"'])
def test_what_is_no_tally_is_refused(text: str) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        Tally.from_json(json.loads(text))
