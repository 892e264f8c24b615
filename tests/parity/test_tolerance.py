"""Policies: verdicts, the tolerance that would have passed, and agreement counted with a margin."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from edgecnn.errors import UserError
from edgecnn.parity.metrics import compare, softmax
from edgecnn.parity.tolerance import (
    DEFAULT_TOLERANCES,
    GrossErrorTolerance,
    LogitTolerance,
    Tolerance,
    Tolerances,
    tolerances_for,
)

DRAW = np.random.default_rng(5)


def trained(count: int, classes: int = 100) -> np.ndarray:
    """Logits like a trained network's: one class stands out."""
    logits = DRAW.standard_normal((count, classes))
    logits[np.arange(count), DRAW.integers(0, classes, count)] += 8
    return logits


def noisy(logits: np.ndarray, db: float) -> np.ndarray:
    return logits + DRAW.standard_normal(logits.shape) * np.sqrt((logits**2).mean()) * 10 ** (-db / 20)


def judge(tolerance: Tolerance, ref: np.ndarray, cand: np.ndarray, scale: float = 0.0, **options: bool):
    return tolerance.judge(compare(ref, cand, margin=tolerance.margin, **options), scale)


def test_the_ratio_is_judged_and_what_would_have_passed_passes() -> None:
    ref = trained(64)
    cand = noisy(ref, 20)
    assert judge(LogitTolerance(min_sqnr_db=19), ref, cand)
    verdict = judge(LogitTolerance(min_sqnr_db=25), ref, cand)
    assert not verdict
    assert re.fullmatch(r"SQNR (19\.\d|20\.\d) dB is below 25\.0 dB", verdict.reasons[0])
    assert isinstance(verdict.would_pass, LogitTolerance)
    assert 19.8 < verdict.would_pass.min_sqnr_db < 20.2
    assert judge(verdict.would_pass, ref, cand)


@pytest.mark.parametrize("precision", DEFAULT_TOLERANCES)
@pytest.mark.parametrize("kind", ["images", "noise", "edge", "same"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_tolerance_passes_nan_or_infinity(precision: str, kind: str, bad: float) -> None:
    ref = trained(4)
    cand = ref.copy()
    cand[2, 5] = bad
    verdict = judge(getattr(DEFAULT_TOLERANCES[precision], kind), ref, cand)
    assert not verdict
    assert verdict.reasons == ("1 of 4 samples give NaN or Inf",)
    assert verdict.would_pass is None


def test_untrained_logits_are_not_failed_for_flips_that_the_allowed_noise_explains() -> None:
    ref = DRAW.standard_normal((200, 1000))  # the two best of 1000 are a hair apart
    cand = noisy(ref, 12)
    metrics = compare(ref, cand)
    assert metrics.top1 < 75, "the plain count looks alarming"
    assert judge(DEFAULT_TOLERANCES["int8"].images, ref, cand)


def test_the_same_share_of_flips_on_decided_logits_fails() -> None:
    ref = trained(200)
    cand = ref.copy()
    rows = np.arange(60)
    cand[rows, ref[rows].argmax(1)] -= 9  # few values, so the ratio alone would pass
    verdict = judge(LogitTolerance(min_sqnr_db=2, min_agreement=95, noise_db=10), ref, cand)
    assert not verdict
    assert "top-1 agrees on 70.0 % of 200 decided samples" in verdict.reasons[0]
    assert isinstance(verdict.would_pass, LogitTolerance)
    assert judge(verdict.would_pass, ref, cand)


def test_a_worse_candidate_does_not_get_a_smaller_exam() -> None:
    ref, tolerance = trained(100), LogitTolerance(min_sqnr_db=10)
    decided = {compare(ref, noisy(ref, db), margin=tolerance.margin).decided for db in (0, 10, 40)}
    assert decided == {100}


@pytest.mark.parametrize(
    ("flips", "count", "fails"),
    [(1, 16, False), (2, 16, False), (4, 16, True), (1, 1, False), (8, 100, False), (12, 100, True)],
)
def test_a_share_of_flips_must_be_significant(flips: int, count: int, fails: bool) -> None:
    ref = trained(count)
    cand = ref.copy()
    rows = np.arange(flips)
    cand[rows, ref[rows].argmax(1)] = -1
    tolerance = LogitTolerance(min_sqnr_db=-10, min_agreement=95, noise_db=30)
    assert bool(judge(tolerance, ref, cand)) is not fails


def test_full_agreement_means_full() -> None:
    ref = trained(1000)
    cand = ref.copy()
    cand[0, ref[0].argmax()] = -1
    assert not judge(LogitTolerance(min_sqnr_db=-10, min_agreement=100, noise_db=30), ref, cand)


def test_divergence_is_judged_when_asked_for() -> None:
    ref = trained(32)
    cand = ref * 0.5
    assert judge(LogitTolerance(min_sqnr_db=5), ref, cand)
    verdict = judge(LogitTolerance(min_sqnr_db=5, max_kl=0.001), ref, cand)
    assert "KL" in verdict.reasons[0]
    assert verdict.would_pass is not None
    assert judge(verdict.would_pass, ref, cand)


def test_several_breaches_are_all_named_and_loosened() -> None:
    ref = trained(64)
    cand = -ref
    verdict = judge(LogitTolerance(min_sqnr_db=10, max_kl=0.1), ref, cand)
    assert len(verdict.reasons) == 3
    assert verdict.would_pass is not None
    assert judge(verdict.would_pass, ref, cand)


def test_negligible_differences_pass_whatever_their_ratio() -> None:
    zero = np.zeros((3, 10))
    assert judge(DEFAULT_TOLERANCES["fp32"].images, zero, zero + 1e-7)
    assert not judge(DEFAULT_TOLERANCES["fp32"].images, zero, zero + 1e-3)


def test_gross_errors_are_weighed_against_the_usual_size_of_outputs() -> None:
    ref = DRAW.standard_normal((4, 10)) * 0.01  # bias-sized logits, as on a black image
    cand = ref + 0.1
    tolerance = DEFAULT_TOLERANCES["int8"].edge
    assert not judge(tolerance, ref, cand)
    assert judge(tolerance, ref, cand, scale=2.0), "a tenth of a logit is nothing where logits are 2"
    verdict = judge(tolerance, ref, ref + 5.0, scale=2.0)
    assert "the worst sample is off by 5" in verdict.reasons[0]
    assert verdict.would_pass is not None
    assert judge(verdict.would_pass, ref, ref + 5.0, scale=2.0)


def test_one_grossly_wrong_sample_is_not_averaged_away() -> None:
    ref = trained(50)
    cand = ref.copy()
    cand[7] += 10
    assert not judge(GrossErrorTolerance(min_headroom_db=0), ref, cand)


def test_an_outlier_may_be_off_by_its_own_size_and_the_others_by_the_usual_one() -> None:
    """An input far beyond the calibrated ranges is clipped to them; a wrong answer to an ordinary one is not excused by it."""
    ref = trained(6)
    ref[5] *= 14
    clipped = ref.copy()
    clipped[5] /= 10
    gross = GrossErrorTolerance(min_headroom_db=0)
    assert judge(gross, ref, clipped, scale=1.0)
    assert not judge(gross, ref, -ref, scale=1.0)
    usual = float(np.sqrt((ref[:5] ** 2).mean()))
    beside = clipped.copy()
    beside[2] += 20 * usual
    verdict = judge(gross, ref, beside, scale=usual)
    assert not verdict, "off by less than the outlier is, yet by far more than its own size"
    assert f"off by {20 * usual:.3g}" in verdict.reasons[0]


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_probabilities_pass_and_fail_with_their_logits(size: float, offset: float) -> None:
    """Whatever the size of the logits, and whatever all of them have in common."""
    draw = np.random.default_rng(4)
    ref = draw.standard_normal((200, 10)) * size
    noise = draw.standard_normal(ref.shape) * size
    tolerance = LogitTolerance(min_sqnr_db=20, min_agreement=0)
    for share, passes in ((0.05, True), (0.25, False)):
        cand = ref + share * noise
        assert bool(tolerance.judge(compare(ref, cand))) is passes
        assert bool(tolerance.judge(compare(ref + offset, softmax(cand), probabilities=True))) is passes


def test_a_gross_error_of_a_logit_is_one_of_its_probability() -> None:
    ref = np.random.default_rng(5).standard_normal((50, 10)) * 4
    gross = GrossErrorTolerance(min_headroom_db=30)
    for cand, passes in ((ref * 1.005, True), (np.roll(ref, 1, axis=1), False)):
        metrics = compare(ref, softmax(cand), probabilities=True)
        verdict = gross.judge(metrics)
        assert bool(verdict) is passes
        assert verdict.would_pass is not None
        assert verdict.would_pass.judge(metrics)


def test_probabilities_of_large_logits_are_given_the_room_that_the_softmax_needs() -> None:
    ref = trained(64) * 10
    cand = noisy(ref, 60)  # a fine float stage; its softmax is off by the absolute noise of the logits
    tolerance = LogitTolerance(min_sqnr_db=50)
    metrics = compare(ref, softmax(cand), probabilities=True, margin=tolerance.margin)
    assert metrics.logit_rms > 10
    assert tolerance.judge(metrics)
    wrong = compare(ref, softmax(np.roll(ref, 1, axis=1)), probabilities=True, margin=tolerance.margin)
    verdict = tolerance.judge(wrong)
    assert not verdict
    assert verdict.would_pass is not None
    assert verdict.would_pass.judge(wrong)


@pytest.mark.parametrize("precision", DEFAULT_TOLERANCES)
def test_json_there_and_back(precision: str) -> None:
    tolerances = DEFAULT_TOLERANCES[precision]
    assert Tolerances.from_json(json.loads(json.dumps(tolerances.to_json(), allow_nan=False))) == tolerances


def test_unknown_types_and_precisions_are_named() -> None:
    with pytest.raises(UserError, match="tolerance type 'psychic' is not one of logits, gross-error"):
        Tolerance.from_json({"type": "psychic"})
    with pytest.raises(
        UserError, match="no tolerances for precision 'int4'; there are some for fp32, fp16, int8, int8-fp16, int8-cpu"
    ):
        tolerances_for("int4")


@pytest.mark.parametrize(
    "values", [{"min_sqnr_db": math.nan}, {"min_sqnr_db": 1, "min_agreement": 101}, {"min_sqnr_db": 1, "max_kl": -1}]
)
def test_nonsense_is_no_tolerance(values: dict[str, float]) -> None:
    with pytest.raises(UserError):
        LogitTolerance(**values)
