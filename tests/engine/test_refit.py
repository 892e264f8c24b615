"""Plans with stripped weights: built small, and given their weights back from the graph when they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import engine_nets
import numpy as np
import pytest
from session_bench import Bench, images

from edgecnn.artifacts import Engine, OnnxModel
from edgecnn.engine import BuildConfig, build
from edgecnn.errors import BackendError, UserError
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.passes.deform_plugin import DeformPlugin
from edgecnn.runtime.tensorrt import TensorRtOptions, TensorRtSession

every_version = pytest.mark.parametrize("bench", ["10.0.0", "10.3.0", "10.16.0", "11.1.0"], indirect=True)


def loaded(bench: Bench, engine: Engine, weights: Path | None) -> TensorRtSession:
    return TensorRtSession(engine.path, TensorRtOptions(), engine.facts, weights=weights)


@every_version
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_come_back_from_the_graph(bench: Bench, precision: str) -> None:
    engine = bench.plan(precision, strip_weights=True)
    x = images(3)
    with loaded(bench, engine, bench.nets[precision].path) as session:
        np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x, precision), atol=1e-4)
    assert bench.cuda.held == 0


def test_a_plan_that_has_its_weights_is_left_alone(bench: Bench) -> None:
    bench.module.Refitter = None
    x = images(2)
    with loaded(bench, bench.plan(), bench.nets["fp32"].path) as session:
        np.testing.assert_allclose(session.run({"input": x})["logits"], bench.expected(x), atol=1e-4)


def test_without_the_graph_or_with_another_one(bench: Bench) -> None:
    engine = bench.plan(strip_weights=True)
    bench.module.runtimes.clear()
    with pytest.raises(UserError, match=r"fp32\.plan has no weights \(it was built with --strip-weights\)"):
        loaded(bench, engine, None)
    with pytest.raises(UserError, match=r"fp16\.onnx is not the graph that fp32\.plan was built from"):
        loaded(bench, engine, bench.nets["fp16"].path)
    assert bench.module.runtimes == []
    assert bench.cuda.held == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda module: setattr(module, "missing_weights", ("conv.w", "fc.w", "fc.b")), "it has no conv.w and 2 more"),
        (lambda module: setattr(module.OnnxParserRefitter, "refit_from_file", lambda *_: False), "it gave no reason"),
        (lambda module: setattr(module.Refitter, "refit_cuda_engine", lambda _: False), "TensorRT refused it"),
        (lambda module: setattr(module, "Refitter", lambda *_: 1 / 0), "division by zero"),
    ],
)
def test_what_cannot_be_refitted_says_why(bench: Bench, change: Callable[[Any], None], said: str) -> None:
    engine = bench.plan(strip_weights=True)
    change(bench.module)
    with pytest.raises(BackendError) as caught:
        loaded(bench, engine, bench.nets["fp32"].path)
    assert str(caught.value) == (
        f"TensorRT 10.3.0 cannot give fp32.plan the weights of fp32.onnx: {said}; build it without --strip-weights"
    )
    assert bench.cuda.held == 0


def test_a_graph_that_the_parser_gets_without_its_function_keeps_its_weights(
    tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "standard.onnx").write_bytes(engine_nets.deformable())
    (tmp_path / "plugin.so").touch()
    graph = load_ir(tmp_path / "standard.onnx")
    assert DeformPlugin().apply(graph) == 2
    model = save_ir(graph, tmp_path / "deformable.onnx")
    tensorrt("10.3.0")
    config = BuildConfig(target="tensorrt", plugins=(tmp_path / "plugin.so",), strip_weights=True)
    with pytest.raises(UserError, match=r"deformable\.onnx .* before TensorRT 10\.7 its weights cannot be put back"):
        build(model, config, to=tmp_path / "x.plan")


def test_rtx_takes_the_flags(nets: Mapping[str, OnnxModel], tmp_path: Path) -> None:
    """They are there; stripping itself needs a GPU, and says so."""
    rtx = pytest.importorskip("tensorrt_rtx")
    assert {"STRIP_PLAN", "REFIT_IDENTICAL", "TF32"} <= set(rtx.BuilderFlag.__members__)
    config = BuildConfig(target="tensorrt-rtx", strip_weights=True)
    with pytest.raises(UserError, match="stripping of weights needs an NVIDIA GPU, and there is none here"):
        build(nets["fp32"], config, to=tmp_path / "x.plan")
