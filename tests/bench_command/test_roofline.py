"""The matrix product that shows the peak, the count of multiply-adds, and the share that a model reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_bundle import write_tiny

from edgecnn.bench import BenchConfig, Candidate, bench
from edgecnn.bench.gemm import gemm_model, measure_peak
from edgecnn.bench.layers import count_macs, layer_times, macs_of_trace, times_of_trace
from edgecnn.errors import BackendError, UserError
from edgecnn.runtime import Bundle, OpenVinoOptions, OrtOptions, OrtSession


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_model_written_without_onnx_is_what_onnx_reads(precision: str) -> None:
    model = onnx.load_model_from_string(gemm_model(precision, 48))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node][-2:] in (["MatMul", "QuantizeLinear"], ["MatMul"])
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    draw = np.random.default_rng(0)
    if precision == "fp32":
        given = draw.standard_normal((48, 48)).astype(np.float32)
        wanted = given @ held["b"]
        tolerance = 1e-4
    else:
        given = draw.integers(0, 256, (48, 48), dtype=np.uint8)
        product = ((given.astype(np.float64) - 128) * 0.02) @ (held["b"].astype(np.float64) * 0.01)
        wanted = np.clip(np.rint(product / 0.5) + 128, 0, 255)
        assert wanted.std() > 1
        tolerance = 1.0
    with OrtSession(gemm_model(precision, 48)) as session:
        found = session.run({"a": given})["c"]
    assert np.abs(found.astype(np.float64) - wanted).max() <= tolerance


@pytest.mark.parametrize(
    ("backend", "options"), [("onnxruntime", OrtOptions(threads=1)), ("openvino", OpenVinoOptions(threads=1))]
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_peak_is_a_speed(
    backend: str, options: OrtOptions | OpenVinoOptions, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.bench.gemm._SECONDS", 0.05)
    found = measure_peak(backend, options, precision, side=256)
    assert 0.5 < found.gmacs < 10_000
    assert (found.backend, found.threads, found.precision, found.shape) == (backend, 1, precision, (256, 256, 256))


def test_multiply_adds_of_a_network_counted_by_hand(tiny: Bundle) -> None:
    """Convolution 3 -> 8, 3x3, stride 2 without padding on 32x32: 15x15 places; a linear layer 8 -> 5."""
    image = {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    by_hand = 15 * 15 * 8 * 3 * 3 * 3 + 8 * 5
    assert count_macs(tiny.model_path("fp32"), image) == by_hand
    four = {"input": np.repeat(image["input"], 4, axis=0)}
    assert count_macs(tiny.model_path("fp32"), four) == 4 * by_hand


def test_the_share_of_the_peak(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.bench.gemm._SECONDS", 0.05)
    config = BenchConfig(
        candidates=(Candidate(variant="fp32"), Candidate(variant="int8-cpu")),
        threads=(1,),
        count=20,
        warmup=0.2,
        telemetry=False,
    )
    result = bench([tiny], config)
    assert [(peak.precision, peak.threads) for peak in result.peaks] == [("fp32", 1), ("int8", 1)]
    for run, peak in zip(result.runs, result.peaks, strict=True):
        line = run.roofline
        assert line is not None
        assert line.macs == 15 * 15 * 8 * 27 + 40
        assert line.gmacs == pytest.approx(line.macs / run.latency.p50_ms / 1e6)
        assert line.fraction == pytest.approx(line.gmacs / peak.gmacs)
        assert 0 < line.fraction < 1
        assert "onnxruntime saw in" in line.macs_source


def test_without_onnxruntime_the_zoo_is_asked(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.bench import roofline

    monkeypatch.setattr(roofline, "available", lambda name: False)
    with pytest.raises(UserError, match="the zoo has no such model"):
        roofline._macs(tiny)
    rows = [{"name": "tiny", "input_size": [3, 32, 32], "num_classes": 5, "macs": 123}]
    monkeypatch.setattr(roofline, "table", lambda: rows)
    assert roofline._macs(tiny) == (123, "the zoo's table")


def test_layers_of_a_real_run(tiny: Bundle) -> None:
    image = {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    found = layer_times(tiny.model_path("fp32"), OrtOptions(threads=1), image)
    assert {"Conv", "Gemm"} <= {layer.op for layer in found}
    assert all(layer.mean_ms >= 0 for layer in found)
    assert sum(layer.share for layer in found) == pytest.approx(1)


def test_the_profile_of_a_run(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = BenchConfig(candidates=(Candidate(variant="fp32"), Candidate(variant="fp32", backend="openvino")), threads=(1,), count=5,
                         warmup=0.1, profile=True, roofline=False, telemetry=False)  # fmt: skip
    one, other = bench([tiny], config).runs
    assert one.layers
    assert other.layers == ()
    assert any("layers are not profiled on openvino" in text for text in other.warnings)
    assert list(tmp_path.iterdir()) == []  # the trace is gone


def test_a_trace_is_averaged_without_its_first_runs() -> None:
    def event(name: str, micros: int, **arguments: object) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": {"op_name": "Conv", **arguments}}

    events = [
        event("a", 9000),
        event("b", 9000),
        event("a", 1000),
        event("b", 3000),
        event("a", 1000),
        event("b", 3000),
    ]
    found = times_of_trace([*events, {"cat": "Session", "name": "model_run", "dur": 1}, {}], skip=1)
    assert [(layer.name, layer.mean_ms, layer.share) for layer in found] == [("a", 1.0, 0.25), ("b", 3.0, 0.75)]
    shapes = {
        "input_type_shape": [{"float": [1, 4, 8, 8]}, {"float": [6, 4, 3, 3]}],
        "output_type_shape": [{"float": [1, 6, 8, 8]}],
    }
    assert macs_of_trace([event("a", 1, **shapes)]) == 6 * 64 * 4 * 9
    assert macs_of_trace([event("a", 1), {"cat": "Node", "name": "x_kernel_time", "args": None}]) == 0


def test_no_trace_was_asked_for(tiny: Bundle) -> None:
    with OrtSession(tiny.model_path("fp32")) as session, pytest.raises(UserError, match="keeps no trace"):
        session.end_trace()


def test_a_trace_that_cannot_be_read(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "trace.json"
    broken.write_text("[{")
    monkeypatch.setattr(OrtSession, "end_trace", lambda self: broken)
    image = {"input": np.zeros((1, 3, 32, 32), np.float32) + 0.5}
    with pytest.raises(BackendError, match="wrote no trace of"):
        count_macs(tiny.model_path("fp32"), image)
