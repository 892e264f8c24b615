"""Benchmarks of a real bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import CLASSES, PREPROCESS, SPEC, photos, write_model, write_tiny

from edgecnn.bench import BenchConfig, BenchResult, Candidate, Rate, bench
from edgecnn.bench.requests import calls, inputs_of, take_apart
from edgecnn.errors import BundleUnverifiedError, DataError, UserError
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, FakeSession

QUICK: dict[str, Any] = {"threads": (1,), "duration": 0.15, "warmup": 0.3, "roofline": False, "telemetry": False}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle of an fp32 and an int8-cpu variant."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def test_a_run_has_every_part(tiny: Bundle) -> None:
    result = bench([tiny], BenchConfig(**QUICK))
    (run,) = result.runs
    assert (run.variant, run.backend, run.batch, run.model) == ("int8-cpu", "onnxruntime", 1, "tiny")
    found = run.latency
    assert (
        0
        < found.min_ms
        <= found.p50_ms
        <= found.p90_ms
        <= found.p95_ms
        <= found.p99_ms
        <= found.p99_9_ms
        <= found.max_ms
    )
    assert found.count >= 3
    assert run.throughput == pytest.approx(found.count / run.seconds)
    assert sum(run.histogram.counts) == found.count
    assert run.start_up.load_ms > 0
    assert run.start_up.first_ms > 0
    assert set(run.stages) == {"preprocess", "compute", "postprocess"}
    assert run.stages["preprocess"].p50_ms > run.stages["postprocess"].min_ms > 0
    memory = run.memory
    assert memory.rss_before_mb is not None
    assert memory.rss_peak_mb is not None
    assert 10 < memory.rss_before_mb <= memory.rss_peak_mb
    assert result.device.cores >= 1
    assert result.device.versions["numpy"] == np.__version__
    assert BenchResult.from_json(result.to_json()).runs == result.runs


def test_the_matrix_has_every_cell_once(tiny: Bundle) -> None:
    config = BenchConfig(
        candidates=(Candidate(variant="fp32"), Candidate(variant="int8-cpu"), Candidate(variant="fp32", backend="onnxruntime")),
        **(QUICK | {"batches": (1, 2), "threads": (1, 2), "count": 5}),
    )  # fmt: skip
    result = bench([tiny], config)
    assert len(result.runs) == 8
    assert len({run.label for run in result.runs}) == 8
    assert {run.latency.count for run in result.runs} == {5}
    assert "fp32@onnxruntime batch 2 threads 1" in {run.label for run in result.runs}


def test_end_to_end_holds_preprocessing(tiny: Bundle) -> None:
    alone, whole = (
        bench([tiny], BenchConfig(end_to_end=flag, candidates=(Candidate(variant="fp32"),), **QUICK)).runs[0] for flag in (False, True)
    )  # fmt: skip
    assert whole.latency.min_ms > alone.latency.min_ms + 0.5 * whole.stages["preprocess"].min_ms


def test_a_load_counts_deadlines(tiny: Bundle) -> None:
    easy = bench([tiny], BenchConfig(rate=Rate(rate=50), deadline_ms=1000, **QUICK)).runs[0]
    assert easy.load is not None
    assert (easy.load.requests, easy.load.served, easy.load.misses) == (7, 7, 0)
    assert easy.latency.mean_ms == pytest.approx(easy.load.service.mean_ms + easy.load.queue.mean_ms)
    hard = bench([tiny], BenchConfig(rate=Rate(rate=1e6, pattern="poisson"), count=3000, **QUICK)).runs[0]
    assert hard.load is not None
    assert hard.load.misses > 2900
    assert hard.load.utilisation > 1
    assert any("cannot keep up with" in text for text in hard.warnings)
    assert hard.load.queue.p99_ms > hard.load.queue.p50_ms > hard.load.service.p50_ms


def test_streams_share_one_session(tiny: Bundle) -> None:
    run = bench([tiny], BenchConfig(streams=3, count=60, **QUICK)).runs[0]
    assert (run.streams, run.latency.count) == (3, 60)


def test_a_comparison_is_of_two_in_turns(tiny: Bundle) -> None:
    config = BenchConfig(
        candidates=(Candidate(variant="fp32", backend="onnxruntime"), Candidate(variant="fp32", backend="openvino")), compare=True, **QUICK
    )  # fmt: skip
    result = bench([tiny], config)
    (found,) = result.comparisons
    assert (found.baseline, found.candidate) == ("fp32@onnxruntime", "fp32@openvino")
    assert found.rounds >= 20
    assert found.low <= found.ratio <= found.high
    one, other = result.runs
    assert min(one.latency.count, other.latency.count) >= found.rounds


def test_the_same_twice_is_told_apart_by_number_and_may_have_no_verdict(tiny: Bundle) -> None:
    pair = (Candidate(variant="fp32"), Candidate(variant="fp32"))
    with pytest.raises(UserError, match="each once"):
        BenchConfig(candidates=pair)
    config = BenchConfig(candidates=(pair[0], Candidate(variant="fp32", backend="onnxruntime")), compare=True, **QUICK)
    result = bench([tiny], config)
    assert [run.label for run in result.runs] == ["fp32@onnxruntime #1", "fp32@onnxruntime #2"]
    assert 0.5 < result.comparisons[0].ratio < 2


def test_two_bundles_are_named_apart(tiny: Bundle, tmp_path: Path) -> None:
    other = write_tiny(tmp_path, "other")
    config = BenchConfig(candidates=(Candidate(), Candidate(bundle=1)), **QUICK)
    assert [run.label for run in bench([tiny, other.path], config).runs] == [
        "bundle:int8-cpu@onnxruntime",
        "other:int8-cpu@onnxruntime",
    ]


def test_two_bundles_of_one_name_are_told_apart_by_their_paths(tiny: Bundle, tmp_path: Path) -> None:
    other = write_tiny(tmp_path, tiny.path.name)
    config = BenchConfig(candidates=(Candidate(variant="fp32"), Candidate(variant="fp32", bundle=1)), **QUICK)
    labels = [run.label for run in bench([tiny, other], config).runs]
    assert labels == [f"{one.path}:fp32@onnxruntime" for one in (tiny, other)]


def test_a_cell_that_cannot_be_is_left_out_and_the_only_one_is_an_error(tmp_path: Path) -> None:
    packed = [VariantContents(model=write_model(tmp_path, "fp32", batch=1), verified=True)]
    bundle = write_tiny(tmp_path, variants=packed, ranges={}, golden={"images": np.stack(photos())})
    result = bench([bundle], BenchConfig(batches=(1, 4), **QUICK))
    assert [run.batch for run in result.runs] == [1]
    assert any("batch 4: batch 4 was asked for" in text for text in result.warnings)
    with pytest.raises(UserError, match="takes a batch of 1"):
        bench([bundle], BenchConfig(batches=(4,), **QUICK))
    with pytest.raises(UserError, match="no variant 'int4'"):
        bench([bundle], BenchConfig(candidates=(Candidate(variant="int4"),), **QUICK))


def test_what_is_unverified_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    bundle = write_tiny(
        tmp_path, verified=False, variants=[VariantContents(model=write_model(tmp_path, "fp32"))], ranges={}
    )
    with pytest.raises(BundleUnverifiedError):
        bench([bundle.path], BenchConfig(**QUICK))
    result = bench([bundle.path], BenchConfig(allow_unverified=True, **QUICK))
    assert any("UNVERIFIED" in text for text in result.warnings)


@pytest.mark.parametrize("uint8", [False, True])
def test_requests_run_the_golden_pictures_each_batch_another(tmp_path: Path, uint8: bool) -> None:
    changes: dict[str, Any] = {}
    if uint8:
        from edgecnn.runtime.manifest import Embedded

        changes["embedded"] = Embedded(preprocess=True)
    packed = [VariantContents(model=write_model(tmp_path, "fp32", uint8=uint8), verified=True)]
    bundle = write_tiny(tmp_path, variants=packed, ranges={}, **changes)
    spec = bundle.variants["fp32"].inputs[0]
    inputs = inputs_of(bundle, spec, 4)
    assert inputs.note == ""
    assert len(inputs.feeds) == 3
    arrays = [feed["input"] for feed in inputs.feeds]
    assert all(len(array) == 4 and array.std() > 0.1 and array.dtype == spec.dtype for array in arrays)
    assert not np.array_equal(arrays[0], arrays[1])
    golden = bundle.golden()["tensors"]
    if not uint8:
        assert np.allclose(arrays[1][0], golden[1], atol=1e-6)
        assert np.allclose(arrays[1][3], golden[1], atol=1e-6)


def test_a_bundle_without_golden_pictures_says_so(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "golden", lambda self: {})
    inputs = inputs_of(tiny, tiny.variants["fp32"].inputs[0], 1)
    assert "random pixels" in inputs.note
    assert inputs.feeds[0]["input"].std() > 0.1
    monkeypatch.setattr(Bundle, "golden", lambda self: {"images": np.zeros((2, 40, 40, 3), np.uint8)})
    with pytest.raises(DataError, match="one colour"):
        inputs_of(tiny, tiny.variants["fp32"].inputs[0], 1)


def test_streams_begin_with_different_pictures(tiny: Bundle) -> None:
    session = FakeSession(SPEC.inputs, SPEC.outputs, {"logits": np.zeros((1, CLASSES), np.float32)})
    inputs = inputs_of(tiny, session.inputs[0], 1)
    for call in calls(tiny, session, inputs, streams=2, end_to_end=False):
        call()
    first, second = session.calls
    assert not np.array_equal(first["input"], second["input"])


def test_stages_add_up(tiny: Bundle) -> None:
    session = FakeSession(SPEC.inputs, SPEC.outputs, {"logits": np.zeros((1, CLASSES), np.float32)})
    found = take_apart(tiny, session, inputs_of(tiny, session.inputs[0], 1), seconds=0.01)
    assert set(found) == {"preprocess", "compute", "postprocess"}
    assert all(len(times) >= 3 and min(times) > 0 for times in found.values())
    assert np.median(found["preprocess"]) > np.median(found["compute"])  # the session answers at once
    assert PREPROCESS.size == (32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": ()}, "candidates must be"),
        ({"batches": (0,)}, "batch must be whole numbers of at least 1"),
        ({"threads": (-1,)}, "threads must be"),
        ({"streams": 0}, "streams must be"),
        ({"count": -1}, "count must be"),
        ({"duration": 0}, "duration must be seconds"),
        ({"warmup": float("nan")}, "warmup must be seconds"),
        ({"deadline_ms": 5.0}, "give a rate too"),
        ({"compare": True}, "of two candidates, found 1"),
        ({"compare": True, "candidates": (Candidate(), Candidate(variant="a")), "streams": 2}, "back to back"),
        ({"compare": True, "candidates": (Candidate(), Candidate(variant="a")), "batches": (1, 2)}, "one batch size"),
    ],
)
def test_options_that_do_not_go(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BenchConfig(**changes)


@pytest.mark.parametrize("text", ["", "0", "fast", "poisson:", "poisson:0", "uniform:3", "-3", "1e3", "9999999999"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        Rate.parse(text)


def test_rates() -> None:
    assert Rate.parse("30") == Rate(pattern="fixed", rate=30.0)
    assert Rate.parse("poisson:12.5") == Rate(pattern="poisson", rate=12.5)
