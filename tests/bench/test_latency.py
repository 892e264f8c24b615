"""Latency as ratios, all candidates in turns in one run: INT8 against FP32, and our session against a bare one.

Weights are rounded to the nearest: which way they are rounded does not change the time of a kernel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from peers import ort_static
from record import record

from edgecnn import zoo
from edgecnn.bench.timing import interleave
from edgecnn.calib import Photos
from edgecnn.export import export
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import OpenVinoOptions, OpenVinoSession, OrtOptions, OrtSession
from edgecnn.runtime.session import Session
from edgecnn.simplify import simplify

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3000)]

THREADS = 2


class Bare(Session):
    """``InferenceSession.run`` alone, with the options that our session sets."""

    backend = "bare"

    def __init__(self, path: Path) -> None:
        with OrtSession(path) as described:
            self.inputs, self.outputs = described.inputs, described.outputs
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.log_severity_level = 4
        self.inner = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, feed, outputs=None):  # type: ignore[no-untyped-def]
        return self.inner.run(None, feed)

    def _run(self, feed, outputs):  # type: ignore[no-untyped-def]
        raise AssertionError


@pytest.mark.parametrize(("name", "weights"), [("resnet50", "random"), ("efficientnet_lite0", "package")])
def test_int8_against_fp32(name: str, weights: str, tmp_path: Path) -> None:
    """Batch 1, 2 threads; beside onnxruntime.quantization's own U8S8 graph."""
    built = zoo.build(zoo.find(name), weights)
    model = simplify(export(built.module, built.spec, to=tmp_path / "a.onnx"), to=tmp_path / "fp32.onnx").model
    photos = Photos(built.spec.preprocess, limit=8)
    paths = {
        "fp32": model.path,
        "onnxruntime U8S8": ort_static(model.path, photos, tmp_path / "u8.onnx", unsigned=True),
    }
    for scheme in ("int8", "int8-cpu"):
        config = QuantizeConfig(scheme=scheme, effort="fast")  # type: ignore[arg-type]
        paths[scheme] = quantize(model, photos, config, to=tmp_path / f"{scheme}.onnx").model.path
    sessions: dict[str, Session] = {key: OrtSession(path, OrtOptions(threads=THREADS)) for key, path in paths.items()}
    feed = next(iter(photos))
    timings = interleave(sessions, dict.fromkeys(sessions, feed), baseline="fp32", seconds=6)
    record(f"latency_{name}", {key: timing.to_json() for key, timing in timings.items()})
    assert timings["int8-cpu"].ratio < 0.75


@pytest.mark.parametrize(("name", "weights"), [("resnet50", "random"), ("efficientnet_lite0", "package")])
def test_openvino_against_onnxruntime(name: str, weights: str, tmp_path: Path) -> None:
    """Batch 1, 2 threads: every variant on both backends, as ratios to fp32 on onnxruntime.

    onnxruntime's ``int8`` is left out: it takes longer than fp32 (above), and its threads spin into the next one's turn.
    """
    built = zoo.build(zoo.find(name), weights)
    model = simplify(export(built.module, built.spec, to=tmp_path / "a.onnx"), to=tmp_path / "fp32.onnx").model
    photos = Photos(built.spec.preprocess, limit=8)
    paths = {"fp32": model.path}
    for scheme in ("int8", "int8-cpu"):
        config = QuantizeConfig(scheme=scheme, effort="fast")  # type: ignore[arg-type]
        paths[scheme] = quantize(model, photos, config, to=tmp_path / f"{scheme}.onnx").model.path
    sessions: dict[str, Session] = {
        "fp32": OrtSession(paths["fp32"], OrtOptions(threads=THREADS, spin=False)),
        "int8-cpu": OrtSession(paths["int8-cpu"], OrtOptions(threads=THREADS, spin=False)),
    }
    for key, path in paths.items():
        sessions[f"{key} openvino"] = OpenVinoSession(path, OpenVinoOptions(threads=THREADS))
    feed = next(iter(photos))
    timings = interleave(sessions, dict.fromkeys(sessions, feed), baseline="fp32", seconds=6)
    record(f"openvino_{name}", {key: timing.to_json() for key, timing in timings.items()})
    assert timings["int8 openvino"].ratio < 0.75
    assert timings["int8 openvino"].ratio < timings["fp32 openvino"].ratio


def pooling(path: Path) -> Path:
    """Write a graph of a classifier's inputs and outputs that computes next to nothing: what is left is the session."""
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    floats = onnx.TensorProto.FLOAT
    values = [
        onnx.helper.make_tensor_value_info(n, floats, s) for n, s in (("input", (1, 3, 224, 224)), ("logits", (1, 3)))
    ]
    graph = onnx.helper.make_graph(nodes, "pooling", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_what_our_session_costs(tmp_path: Path) -> None:
    """``Session.run`` checks the feed and binds it; beside a bare ``InferenceSession.run`` of the same file.

    A share of EfficientNet-Lite0's time is smaller than the noise of a shared machine; so what is added is measured
    in microseconds, on a graph that computes next to nothing, and that is the share that it would be.
    """
    built = zoo.build(zoo.find("efficientnet_lite0"))
    paths = {
        "lite0": export(built.module, built.spec, to=tmp_path / "fp32.onnx").path,
        "pooling": pooling(tmp_path / "pooling.onnx"),
    }
    feed = {"input": np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    found = {}
    for name, path in paths.items():
        sessions: dict[str, Session] = {"bare": Bare(path), "edgecnn": OrtSession(path, OrtOptions(threads=THREADS))}
        found[name] = interleave(sessions, dict.fromkeys(sessions, feed), baseline="bare", seconds=10)
    added_ms = found["pooling"]["edgecnn"].median_ms - found["pooling"]["bare"].median_ms
    share = added_ms / found["lite0"]["bare"].min_ms
    rows = {key: timing.to_json() for key, timing in found["lite0"].items()}
    record("overhead", {**rows, "added_us": added_ms * 1e3, "share": share})
    assert share < 0.02
