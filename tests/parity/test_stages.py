"""verify: honest stages pass, every way of going wrong is found and put on the right stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_nets import (
    CLASSES,
    INPUT,
    PREPROCESS,
    images,
    network,
    pictures,
    put_inside,
    write_embedded,
    write_fp16,
    write_fp32,
    write_int8,
)

from edgecnn.errors import BackendError, UserError
from edgecnn.parity.report import ParityReport
from edgecnn.parity.samples import Sample, SampleSet, edge_inputs, from_pixels, gaussian
from edgecnn.parity.stages import Stage, verify
from edgecnn.parity.tolerance import DEFAULT_TOLERANCES, LogitTolerance
from edgecnn.parity.torch_runner import TorchSession
from edgecnn.runtime.fake import FakeSession
from edgecnn.runtime.ort import OrtSession
from edgecnn.runtime.session import Session
from edgecnn.spec import TensorSpec

LOGITS = (TensorSpec(name="logits", shape=("batch", CLASSES)),)
SETS = (images(8), gaussian(INPUT, PREPROCESS, count=4), edge_inputs(INPUT, PREPROCESS))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stages")
    fp32 = write_fp32(folder / "fp32.onnx")
    return {
        "fp32": fp32,
        "static": write_fp32(folder / "static.onnx", batch=3),
        "embedded": write_embedded(folder / "embedded.onnx"),
        "softmax": write_embedded(folder / "softmax.onnx", softmax=True),
        "fp16": write_fp16(folder / "fp16.onnx"),
        "int8": write_int8(folder / "int8.onnx", fp32),
    }


def torch_stage() -> Stage:
    return Stage("pytorch", "fp32", TorchSession(network(), (INPUT,)))


def fake(change: Any = lambda logits, feed: logits, batch: int | str = "batch") -> Session:
    """A session that answers with simple logits of its input, changed."""

    def respond(feed: Any) -> dict[str, np.ndarray]:
        x = feed["input"]
        logits = np.stack([x[:, 0, i].sum(1) for i in range(CLASSES)], axis=1)
        return {"logits": np.asarray(change(logits, x), np.float32)}

    return FakeSession([replace(INPUT, shape=(batch, 3, 32, 32))], LOGITS, respond)


def test_every_form_of_one_network_passes(files: dict[str, Path]) -> None:
    stages = [
        torch_stage(),
        Stage("onnx", "fp32", OrtSession(files["fp32"])),
        Stage("static", "fp32", OrtSession(files["static"]), exact=True),
        Stage("embedded", "fp32", OrtSession(files["embedded"]), after="onnx"),
        Stage("softmax", "fp32", OrtSession(files["softmax"]), after="embedded"),
        Stage("fp16", "fp16", OrtSession(files["fp16"]), after="onnx"),
        Stage("int8", "int8", OrtSession(files["int8"]), after="onnx"),
    ]
    seen: list[tuple[str, int, int]] = []
    report = verify(stages, SETS, progress=lambda *step: seen.append(step))
    assert report, "\n".join(report.lines())
    assert report.first_departure is None
    assert seen[-1][1] == seen[-1][2] == 6
    int8 = report.stage("int8")
    assert {c.reference for c in int8.comparisons} == {"int8", "onnx", "pytorch"}
    assert {c.samples for c in int8.comparisons} == {"images", "noise", "edge inputs"}
    comparison = int8.find("predecessor", "images")
    assert comparison is not None
    assert 25 < comparison.metrics.sqnr_db < 60
    assert comparison.metrics.samples == 8
    assert report.stage("onnx").find("first", "images") is report.stage("onnx").find("predecessor", "images")
    assert report.stage("softmax").comparisons[-1].metrics.probabilities
    assert report.stage("static").find("batch") is None
    assert len(report.stage("embedded").skipped) == 2
    assert ParityReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report


CHAIN = ("onnx", "fp32", "fp16", "int8", "int8-fp16", "int8-cpu")


def chain(files: dict[str, Path], folder: Path, *, softmax: bool, wrong: str = "") -> list[Stage]:
    """Return the stages of the main job with preprocessing inside all variants; ``wrong`` names one with swapped mean and std."""
    sources = {"onnx": "fp32", "fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-fp16": "int8", "int8-cpu": "int8"}
    after = {"onnx": "pytorch", "fp32": "onnx", "int8-fp16": "int8"}
    stages = [torch_stage()]
    for name in CHAIN:
        path = files[sources[name]]
        if name != "onnx":
            swapped = {"mean": PREPROCESS.std, "std": PREPROCESS.mean} if name == wrong else {}
            path = put_inside(folder / f"{name}.onnx", path, softmax=softmax, **swapped)
        precision = "fp32" if name == "onnx" else name
        exact = precision == "fp32"
        stages.append(Stage(name, precision, OrtSession(path), after=after.get(name, "fp32"), exact=exact))
    return stages


@pytest.mark.parametrize("softmax", [False, True])
def test_the_main_jobs_chain_with_pixels_in_and_probabilities_out(
    files: dict[str, Path], tmp_path: Path, softmax: bool
) -> None:
    sets = [images(8), gaussian(INPUT, PREPROCESS, count=4), edge_inputs(INPUT, PREPROCESS, pixels=True)]
    report = verify(chain(files, tmp_path, softmax=softmax), sets)
    assert report, "\n".join(report.lines())
    for name in CHAIN:
        stage = report.stage(name)
        assert not stage.skipped, "every sample has pixels"
        assert {c.samples for c in stage.comparisons} == {"images", "noise", "edge inputs"}
        assert {c.metrics.probabilities for c in stage.comparisons} == {softmax and name != "onnx"}
    assert report.stage("int8-fp16").after == "int8"
    fp32 = report.stage("fp32").find("predecessor", "images")
    assert fp32 is not None
    assert fp32.metrics.sqnr_db > 100


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("wrong", CHAIN[1:])
def test_of_the_main_jobs_chain_the_stage_with_swapped_mean_and_std_is_named(
    files: dict[str, Path], tmp_path: Path, wrong: str, softmax: bool
) -> None:
    report = verify(chain(files, tmp_path, softmax=softmax, wrong=wrong), [images(8)])
    assert report.first_departure is not None
    assert report.first_departure.name == wrong, "\n".join(report.lines())


def test_a_stage_that_takes_pixels_must_be_given_some(files: dict[str, Path]) -> None:
    stages = [torch_stage(), Stage("embedded", "fp32", OrtSession(files["embedded"]))]
    report = verify(stages, [gaussian(INPUT, count=2)])
    assert report.stage("embedded").problems == ("was not compared: the graph takes pixels, and no sample has any",)
    assert report.stage("embedded").skipped[0] == "noise: noise 0 (the graph takes pixels, and none give this tensor)"
    assert report.stage("pytorch").passed


def test_the_first_stage_that_departs_is_named_and_later_ones_that_inherit_are_not() -> None:
    stages = [
        Stage("a", "fp32", fake()),
        Stage("b", "fp32", fake()),
        Stage("c", "fp32", fake(lambda y, x: y + x[:, 1, 0, :1])),
        Stage("d", "fp32", fake(lambda y, x: y + x[:, 1, 0, :1])),
    ]
    report = verify(stages, SETS)
    assert not report
    assert report.first_departure is not None
    assert report.first_departure.name == "c"
    assert not report.stage("d").passed, "it is as far from the reference as c"
    assert not report.stage("d").departs, "but it did nothing wrong itself"
    assert next(iter(report.lines())) == "NOT verified: c (fp32) is the first stage that departs from b"


def test_stages_with_a_common_predecessor_do_not_blame_each_other() -> None:
    stages = [
        Stage("a", "fp32", fake()),
        Stage("bad", "fp16", fake(lambda y, x: -y), after="a"),
        Stage("good", "fp16", fake(), after="a"),
    ]
    report = verify(stages, SETS)
    assert (report.stage("bad").passed, report.stage("good").passed) == (False, True)


def test_drift_of_many_stages_is_reported_as_such() -> None:
    close = DEFAULT_TOLERANCES | {"fp32": replace(DEFAULT_TOLERANCES["fp32"], images=LogitTolerance(min_sqnr_db=30))}
    stages = [Stage(f"s{i}", "fp32", fake(lambda y, x, i=i: y * (1 + 0.02 * i))) for i in range(4)]
    report = verify(stages, [images(8)], tolerances=close)
    assert report.first_departure is not None
    assert report.first_departure.name == "s2"
    assert not report.first_departure.departs
    assert "drifted from s0" in next(iter(report.lines()))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["images", "noise", "edge"])
def test_nan_or_infinity_on_any_set_fails_the_stage_that_gives_it_first(bad: float, kind: str) -> None:
    culprit = next(iter(next(used for used in SETS if used.kind == kind))).feed["input"][0]

    def spoil(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.where((x == culprit).all(axis=(1, 2, 3))[:, None], bad, y)

    report = verify(
        [Stage("a", "fp32", fake()), Stage("b", "int8", fake(spoil)), Stage("c", "int8", fake(spoil))], SETS
    )
    assert report.first_departure is not None
    assert report.first_departure.name == "b"
    assert any("NaN or Inf" in problem for problem in report.first_departure.problems)
    json.dumps(report.to_json(), allow_nan=False)


def test_nan_in_the_reference_is_the_references_fault() -> None:
    report = verify([Stage("a", "fp32", fake(lambda y, x: y * np.nan)), Stage("b", "fp32", fake())], [images(3)])
    assert report.first_departure is not None
    assert report.first_departure.name == "a"


def test_a_batch_must_give_what_single_samples_give() -> None:
    def mix(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return y + 0.3 * (y.mean(axis=0, keepdims=True) - y)  # as a BatchNorm left in training mode

    report = verify([Stage("a", "fp32", fake()), Stage("b", "int8", fake(mix))], [images(8)])
    stage = report.stage("b")
    assert [c.against for c in stage.failures] == ["batch"]
    assert stage.departs
    assert verify([Stage("a", "fp32", fake()), Stage("b", "int8", fake(mix))], [images(8)], batch=1)


def test_a_static_batch_is_filled_up(files: dict[str, Path]) -> None:
    calls = fake(batch=3)
    report = verify([Stage("a", "fp32", fake()), Stage("b", "fp32", calls)], [images(5)], batch=2)
    assert report
    assert isinstance(calls, FakeSession)
    assert [len(call["input"]) for call in calls.calls] == [3, 3]
    comparison = report.stage("b").find("predecessor")
    assert comparison is not None
    assert comparison.metrics.samples == 5, "the filling is not counted"


def test_a_stage_that_cannot_run_fails_and_the_others_go_on() -> None:
    class Broken(FakeSession):
        def _run(self, feed: Any, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
            raise BackendError("out of memory")

    report = verify(
        [
            Stage("a", "fp32", fake()),
            Stage("b", "fp32", Broken([INPUT], LOGITS, {})),
            Stage("c", "fp32", fake(), after="a"),
        ],
        [images(3)],
    )
    assert report.first_departure is not None
    assert report.first_departure.name == "b"
    assert "out of memory" in report.stage("b").problems[0]
    assert report.stage("c").passed


def test_a_stage_that_refuses_batches_fails() -> None:
    class Single(FakeSession):
        def _run(self, feed: Any, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
            if len(feed["input"]) > 1:
                raise BackendError("Reshape: cannot reshape")
            return super()._run(feed, outputs)

    single = Single([INPUT], LOGITS, {"logits": np.ones((1, CLASSES), np.float32)})
    report = verify([Stage("a", "fp32", single)], [images(3)])
    assert report.stage("a").problems == ("cannot run images (batch 3): Reshape: cannot reshape",)


@pytest.mark.parametrize("cut", [lambda y, x: y[:, :5], lambda y, x: y[:1, :, None, None].repeat(2, 0)])
def test_outputs_of_another_shape_are_a_problem_not_a_crash(cut: Any) -> None:
    report = verify([Stage("a", "fp32", fake()), Stage("b", "fp32", fake(cut))], [images(3)])
    assert not report
    assert report.first_departure is not None
    assert report.first_departure.name == "b"


def test_an_exact_stage_is_held_to_the_tolerance_of_the_same_arithmetic() -> None:
    def coarse(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return y * 1.25  # 12 dB

    loose = [Stage("a", "fp32", fake()), Stage("b", "int8", fake(coarse))]
    exact = [loose[0], replace(loose[1], exact=True)]
    assert verify(loose, [images(8)])
    assert not verify(exact, [images(8)])


def test_int8_on_edge_inputs_is_weighed_against_the_size_of_logits_on_images() -> None:
    sets = [edge_inputs(INPUT), images(8)]  # in the wrong order on purpose

    def shifted(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return y + (0.5 if np.abs(x).max() == 0 else 0)

    assert verify([Stage("a", "fp32", fake()), Stage("b", "int8", fake(shifted))], sets)
    zeros = SampleSet("zeros", "edge", lambda: islice(edge_inputs(INPUT), 1))
    assert not verify([Stage("a", "fp32", fake()), Stage("b", "int8", fake(shifted))], [zeros])
    assert not verify([Stage("a", "fp32", fake()), Stage("b", "int8", fake(lambda y, x: shifted(y, x) * 100))], sets)


def test_probabilities_as_reference(files: dict[str, Path]) -> None:
    stages = [
        Stage("softmax", "fp32", OrtSession(files["softmax"])),
        Stage("again", "fp32", OrtSession(files["softmax"])),
        Stage("logits", "fp32", OrtSession(files["embedded"])),
    ]
    assert verify(stages, SETS), "a softmax and its logits are the same decision"


def test_samples_are_streamed() -> None:
    alive = peak = 0

    class Tracked(dict[str, np.ndarray]):
        def __init__(self, values: dict[str, np.ndarray]) -> None:
            nonlocal alive, peak
            super().__init__(values)
            alive += 1
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def source() -> Iterator[Sample]:
        for sample in from_pixels(pictures(1), PREPROCESS):
            for _ in range(60):
                yield Sample(Tracked(dict(sample.feed)))

    report = verify(
        [Stage("a", "fp32", fake(batch=1)), Stage("b", "fp32", fake(batch=1))], [SampleSet("many", "images", source)]
    )
    assert report.samples[0].count == 60
    assert peak < 12


@pytest.mark.parametrize(
    ("stages", "sets", "message"),
    [
        ([], SETS, "at least one stage"),
        ([Stage("a", "fp32", fake())], [], "at least one stage and one set"),
        ([Stage("a", "fp32", fake())] * 2, SETS, "two stages are called 'a'"),
        ([Stage("a", "fp32", fake()), Stage("b", "fp32", fake(), after="z")], SETS, "comes after 'z'"),
        ([Stage("a", "int3", fake())], SETS, "no tolerances for precision 'int3'"),
        ([Stage("a", "fp32", fake())], [images(2), images(2)], "two sample sets share a name"),
        (
            [Stage("a", "fp32", fake())],
            [SampleSet("none", "images", lambda: iter(()))],
            "the sample set 'none' is empty",
        ),
    ],
)
def test_what_cannot_be_verified_is_refused(stages: Any, sets: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        verify(stages, sets)
