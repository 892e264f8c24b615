"""Benchmarks of engines, on TensorRT and CUDA as they are not here: recorded APIs over onnxruntime. No GPU has run this."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_tiny

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

import fake_tensorrt
from fake_cuda import FakeCuda

from edgecnn.bench import BenchConfig, Candidate, bench
from edgecnn.bench.requests import inputs_of
from edgecnn.engine import Batch, BuildConfig
from edgecnn.engine.device import Device
from edgecnn.errors import UserError
from edgecnn.pipeline.engines import build_into
from edgecnn.runtime import Bundle, TensorRtOptions, TensorRtSession

ORIN = Device(name="Orin", compute_capability="8.7", memory=32 << 30, driver_cuda="12.6")
ENGINE = Candidate(variant="fp32", backend="tensorrt")
QUICK: dict[str, Any] = {"duration": 0.1, "warmup": 0.1, "telemetry": False}


@pytest.fixture(params=["10.3.0", "11.1.0"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """Put a TensorRT and a CUDA in place."""
    fake = FakeCuda()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    module = fake_tensorrt.fake(request.param)
    module.cuda = fake
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    for place in ("edgecnn.engine.builder.device", "edgecnn.pipeline.engines.device"):
        monkeypatch.setattr(place, lambda: ORIN)
    return fake


@pytest.fixture
def bundle(cuda: FakeCuda, tmp_path: Path) -> Bundle:
    """Return a bundle with an engine for batches of 1 to 4."""
    plain = write_tiny(tmp_path)
    build_into(plain, BuildConfig(target="tensorrt", batch=Batch.parse("1:2:4")), variants=["fp32"])
    return Bundle.open(plain.path)


def test_copies_are_told_from_the_plans_work(bundle: Bundle, cuda: FakeCuda) -> None:
    result = bench([bundle], BenchConfig(candidates=(ENGINE,), **QUICK))
    (run,) = result.runs
    assert (run.backend, run.variant) == ("tensorrt", "fp32")
    assert set(run.stages) == {"preprocess", "copy", "compute", "postprocess"}
    assert all(found.min_ms > 0 for found in run.stages.values())
    assert run.roofline is None
    assert any("the peak of tensorrt is not measured" in text for text in result.warnings)
    assert cuda.held == 0


def test_layers_come_from_its_profiler(bundle: Bundle, cuda: FakeCuda) -> None:
    run = bench([bundle], BenchConfig(candidates=(ENGINE,), profile=True, roofline=False, **QUICK)).runs[0]
    assert [(layer.name, layer.mean_ms, layer.share) for layer in run.layers] == [
        ("conv", 0.25, 0.25),
        ("fc", 0.75, 0.75),
    ]
    assert not any("profiled" in text for text in run.warnings)
    assert cuda.held == 0


def test_a_context_for_each_stream(bundle: Bundle) -> None:
    run = bench(
        [bundle], BenchConfig(candidates=(ENGINE,), streams=3, count=30, warmup=0.1, roofline=False, telemetry=False)
    ).runs[0]
    assert run.latency.count == 30


def test_one_cuda_graph(bundle: Bundle, cuda: FakeCuda) -> None:
    config = BenchConfig(candidates=(ENGINE,), cuda_graph=True, roofline=False, **QUICK)
    run = bench([bundle], config).runs[0]
    assert cuda.calls.count("cudaGraphLaunch") >= run.latency.count
    assert set(run.stages) == {"preprocess", "copy", "compute", "postprocess"}
    assert cuda.held == 0


def test_a_batch_that_the_engine_does_not_take(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="takes batches of 1 to 4"):
        bench([bundle], BenchConfig(candidates=(ENGINE,), batches=(8,), **QUICK))
    with pytest.raises(UserError, match="threads are for CPUs"):
        bench([bundle], BenchConfig(candidates=(ENGINE,), threads=(2,), **QUICK))


def test_a_run_taken_apart_is_the_same_run(bundle: Bundle, cuda: FakeCuda) -> None:
    session = bundle.session("fp32", "tensorrt", options=TensorRtOptions())
    assert isinstance(session, TensorRtSession)
    with session:
        feed = inputs_of(bundle, session.inputs[0], 2).feeds[0]
        whole = session.run(feed)["logits"]
        before = cuda.calls.count("cudaMemcpyAsync")
        copy, compute = session.run_apart(feed)
        assert copy > 0
        assert compute > 0
        assert cuda.calls.count("cudaMemcpyAsync") == before + 2
        assert (session.run(feed)["logits"] == whole).all()
        times = session.layer_times(feed, 3)
        assert {name: len(found) for name, found in times.items()} == {"conv": 3, "fc": 3}
    with pytest.raises(UserError, match="is closed"):
        session.run_apart(feed)
