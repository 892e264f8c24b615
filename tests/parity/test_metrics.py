"""Metrics against their formulas, at their edges, and streaming."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest

from edgecnn.errors import UserError
from edgecnn.parity.metrics import SQNR_FLOOR, Accumulator, Metrics, compare, logits_of, softmax

DRAW = np.random.default_rng(0)
REF = DRAW.standard_normal((16, 20)).astype(np.float32) * 3
CAND = REF + DRAW.standard_normal(REF.shape).astype(np.float32) * 0.3


def test_the_formulas() -> None:
    m = compare(REF, CAND)
    r, c = REF.astype(np.float64), CAND.astype(np.float64)
    d = r - c
    assert m.max_abs == pytest.approx(np.abs(d).max())
    assert m.mean_abs == pytest.approx(np.abs(d).mean())
    assert m.cosine == pytest.approx((r * c).sum() / np.linalg.norm(r) / np.linalg.norm(c))
    assert m.sqnr_db == pytest.approx(10 * np.log10((r**2).sum() / (d**2).sum()))
    assert m.worst_sqnr_db == pytest.approx((10 * np.log10((r**2).sum(1) / (d**2).sum(1))).min())
    assert m.noise_rms == pytest.approx(np.sqrt((d**2).mean()))
    assert m.worst_noise_rms == pytest.approx(np.sqrt((d**2).mean(1)).max())
    assert m.signal_rms == m.logit_rms == pytest.approx(np.sqrt((r**2).mean()))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (r, c))
    assert m.kl == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert m.top1 == pytest.approx(100 * (r.argmax(1) == c.argmax(1)).mean())
    five = np.argsort(-c, 1)[:, :5]
    assert m.top5 == pytest.approx(100 * np.mean([best in row for best, row in zip(r.argmax(1), five, strict=True)]))


def test_batches_give_what_all_at_once_gives() -> None:
    stream = Accumulator()
    for start, stop in ((0, 1), (1, 7), (7, 16)):
        stream.add(REF[start:stop], CAND[start:stop])
    one, all_at_once = stream.result(), compare(REF, CAND)
    for name, value in all_at_once.to_json().items():
        assert np.asarray(getattr(one, name)) == pytest.approx(np.asarray(value)), name


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    def peak(batches: int) -> int:
        stream = Accumulator()
        tracemalloc.start()
        for _ in range(batches):
            stream.add(REF, CAND)
        stream.result()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)
    assert peak(400) - peak(20) < 20_000  # the batches alone are 1 MB


def test_identical_outputs_have_an_infinite_ratio_which_json_calls_null() -> None:
    m = compare(REF, REF)
    assert m.sqnr_db == math.inf
    assert (m.max_abs, m.cosine, m.top1, m.top5, m.kl) == (0, pytest.approx(1), 100, 100, 0)
    data = json.loads(json.dumps(m.to_json(), allow_nan=False))
    assert data["sqnr_db"] is None
    assert data["finite"] is True
    assert Metrics.from_json(data) == m


def test_a_zero_reference() -> None:
    zero = np.zeros((2, 5), np.float32)
    same, other = compare(zero, zero), compare(zero, zero + 1e-3)
    assert (same.sqnr_db, same.cosine) == (math.inf, 1)
    assert (other.sqnr_db, other.cosine) == (SQNR_FLOOR, 0)
    assert same.top1 == other.top1 == 100  # every class of a tie is right
    json.dumps(other.to_json(), allow_nan=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_nonfinite_samples_are_counted_and_left_out(bad: float, side: str) -> None:
    one, two = REF.copy(), CAND.copy()
    (one if side == "reference" else two)[3, 7] = bad
    m, rest = compare(one, two), compare(np.delete(REF, 3, 0), np.delete(CAND, 3, 0))
    assert (m.samples, m.nonfinite, m.finite) == (16, 1, False)
    assert m.sqnr_db == pytest.approx(rest.sqnr_db)
    assert m.kl == pytest.approx(rest.kl)


def test_only_nonfinite_samples_give_no_numbers_and_still_json() -> None:
    m = compare(REF, np.full_like(REF, np.nan))
    assert m.nonfinite == 16
    assert math.isnan(m.sqnr_db)
    back = Metrics.from_json(json.loads(json.dumps(m.to_json(), allow_nan=False)))
    assert math.isnan(back.sqnr_db)
    assert math.isnan(back.max_abs)


def test_ties_of_the_reference_make_all_their_classes_right() -> None:
    ref = np.array([[1.0, 1.0, 0.0]])
    assert compare(ref, np.array([[0.0, 2.0, 1.0]])).top1 == 100
    assert compare(ref, np.array([[0.0, 1.0, 2.0]])).top1 == 0


def test_of_equal_values_of_the_candidate_the_first_counts() -> None:
    ref = np.array([[0.0, 1.0, 0.5]])
    assert compare(ref, np.array([[7.0, 7.0, 7.0]])).top1 == 0, "saturated logits are no agreement"
    assert compare(ref, np.array([[0.0, 7.0, 7.0]])).top1 == 100
    wide, flat = np.eye(1, 10, 5), np.zeros((1, 10))
    assert compare(wide, flat).top5 == 0, "the sixth of ten equal classes is not among the first five"
    assert compare(np.eye(1, 10, 4), flat).top5 == 100


def test_decided_counts_only_margins_above_the_noise_asked_for() -> None:
    ref = np.array([[3.0, 0.0, 0.0], [1.0, 0.999, 0.0], [1.0, 1.0, 0.0]])
    cand = np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    strict, lenient = compare(ref, cand), compare(ref, cand, margin=0.1)
    assert (strict.decided, strict.decided_top1, strict.flips) == (2, 50, 1)
    assert (lenient.decided, lenient.decided_top1, lenient.flips) == (1, 100, 0)
    assert strict.top1 == lenient.top1 == pytest.approx(200 / 3)


def test_one_class_always_agrees() -> None:
    m = compare(np.array([[1.0], [2.0]]), np.array([[1.5], [2.5]]))
    assert (m.top1, m.top5, m.kl, m.decided) == (100, 100, 0, 2)


def test_probabilities_are_compared_with_the_softmax_of_the_reference() -> None:
    m = compare(REF, softmax(REF), probabilities=True)
    assert m.sqnr_db > 250
    assert m.kl == pytest.approx(0, abs=1e-12)
    centred = REF.astype(np.float64) - REF.mean(axis=1, keepdims=True)
    assert m.logit_rms == pytest.approx(np.sqrt((centred**2).mean()))
    assert compare(REF + 50, softmax(REF), probabilities=True).logit_rms == pytest.approx(m.logit_rms, rel=1e-5)
    assert m.signal_rms == pytest.approx(np.sqrt((softmax(REF) ** 2).mean()))
    assert compare(REF, softmax(CAND), probabilities=True).kl == pytest.approx(compare(REF, CAND).kl)
    assert math.isfinite(compare(REF, np.eye(1, 20).repeat(16, 0), probabilities=True).kl), "a probability of 0"


def test_logits_of_inverts_the_softmax_but_for_a_constant() -> None:
    logits = REF.astype(np.float64)
    np.testing.assert_allclose(logits_of(softmax(logits)), logits - logits.mean(1, keepdims=True), atol=1e-9)


def test_large_logits_do_not_overflow() -> None:
    m = compare(REF * 1e30, CAND * 1e30)
    assert math.isfinite(m.kl)
    assert m.sqnr_db == pytest.approx(compare(REF, CAND).sqnr_db, abs=0.01)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_shapes_that_cannot_be_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match="cannot compare outputs of shapes"):
        compare(np.zeros(shapes[0]), np.zeros(shapes[1]))
