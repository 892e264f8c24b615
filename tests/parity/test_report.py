"""Reports: JSON there and back, schema, text, summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecnn.errors import UserError
from edgecnn.parity.metrics import compare
from edgecnn.parity.report import SCHEMA, Comparison, ParityReport, SamplesUsed, StageResult
from edgecnn.parity.tolerance import DEFAULT_TOLERANCES

REF = np.random.default_rng(1).standard_normal((8, 10))


def comparison(
    noise: float, against: str = "predecessor", reference: str = "pytorch", precision: str = "int8"
) -> Comparison:
    tolerance = DEFAULT_TOLERANCES[precision].images
    metrics = compare(REF, REF * (1 + noise), margin=tolerance.margin)
    return Comparison(
        reference=reference,
        against=against,  # type: ignore[arg-type]
        samples="photos",
        kind="images",
        metrics=metrics,
        tolerance=tolerance,
        verdict=tolerance.judge(metrics),
    )


def report(noise: float = 0.01) -> ParityReport:
    return ParityReport(
        stages=(
            StageResult(name="pytorch", precision="fp32", backend="torch"),
            StageResult(
                name="onnx", precision="fp32", backend="onnxruntime", after="pytorch", comparisons=(comparison(0),)
            ),
            StageResult(
                name="int8",
                precision="int8",
                backend="onnxruntime",
                after="onnx",
                comparisons=(comparison(noise, reference="onnx"), comparison(noise, "first")),
                skipped=("edge inputs: all zeros",),
            ),
        ),
        samples=(SamplesUsed(name="photos", kind="images", count=8, note="calibration images: no others were given"),),
        notes=("a note",),
    )


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.9, np.nan])
def test_json_there_and_back(noise: float, tmp_path: Path) -> None:
    made = report(noise)
    made.save(tmp_path / "parity.json")
    back = ParityReport.load(tmp_path / "parity.json")
    assert back.to_json() == made.to_json()
    assert bool(back) is bool(made) is (noise < 0.5)
    if not np.isnan(noise):  # NaN is not equal to itself
        assert back == made
    json.loads((tmp_path / "parity.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_it_is_truthy_when_passed_and_names_the_culprit_otherwise() -> None:
    assert report(0.01)
    assert report(0.01).first_departure is None
    failed = report(0.9)
    assert not failed
    assert failed.first_departure is failed.stage("int8")
    assert failed.to_json()["first_departure"] == "int8"
    assert len(failed.stage("int8").failures) == 2


def test_the_text_says_what_failed_and_what_would_have_passed() -> None:
    text = "\n".join(report(0.9).lines())
    assert "NOT verified: int8 (int8) is the first stage that departs from onnx" in text
    assert "against onnx on photos: FAILED: SQNR 0.9 dB is below 10.0 dB (would pass: min_sqnr_db=0.91" in text
    assert "onnx (fp32, onnxruntime): passed" in text
    assert "SQNR inf dB" in text
    assert "skipped: edge inputs: all zeros" in text
    assert "note: photos: calibration images: no others were given" in text
    assert "note: a note" in text
    assert next(iter(report().lines())).startswith("verified")


def test_the_summary_has_the_gist() -> None:
    summary = report(0.01).summary()
    json.dumps(summary, allow_nan=False)
    assert (summary["passed"], summary["reference"], summary["first_departure"]) == (True, "pytorch", None)
    assert summary["stages"]["pytorch"] == {"precision": "fp32", "passed": True}
    assert summary["stages"]["onnx"]["sqnr_db"] is None
    assert summary["stages"]["int8"]["sqnr_db"] == pytest.approx(40)
    assert summary["stages"]["int8"]["on"] == "photos"


def test_a_newer_schema_and_other_json_are_refused(tmp_path: Path) -> None:
    data = report().to_json()
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1}; this edgecnn reads up to {SCHEMA}"):
        ParityReport.from_json(data | {"schema": SCHEMA + 1})
    for wrong in ({}, {"schema": 1}, {"schema": "1"}, data | {"stages": [{"name": "x"}]}, data | {"stages": 3}):
        with pytest.raises(UserError, match="not a parity report"):
            ParityReport.from_json(wrong)
    for text in ("", "[]", "{"):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(UserError, match="is not a"):
            ParityReport.load(tmp_path / "p.json")
    with pytest.raises(UserError, match="not a readable parity report"):
        ParityReport.load(tmp_path / "absent.json")


def test_a_problem_fails_a_stage_and_an_empty_report_is_none() -> None:
    made = report()
    broken = replace(
        made, stages=(*made.stages, StageResult(name="engine", precision="int8", problems=("cannot be loaded",)))
    )
    assert broken.first_departure is not None
    assert broken.first_departure.name == "engine"
    assert "  cannot be loaded" in list(broken.lines())
    with pytest.raises(UserError, match="at least one stage"):
        ParityReport(stages=(), samples=())
    with pytest.raises(UserError, match="no stage 'x'; there are pytorch, onnx, int8"):
        made.stage("x")
