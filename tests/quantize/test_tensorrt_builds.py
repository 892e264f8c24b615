"""TensorRT-valid, for real: TensorRT-RTX's builder compiles INT8 graphs, which needs no GPU (running them does)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structures

from edgecnn import zoo
from edgecnn.calib import InMemory, Photos
from edgecnn.export import ExportConfig, export
from edgecnn.onnxio import load_ir
from edgecnn.passes.equalize import EqualizeChannels, pairs
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.simplify import simplify, transform

trt = pytest.importorskip("tensorrt_rtx")

NETS = [name for name in structures.NETS if name != "deformable"]  # it has no DeformConv


class Log(trt.ILogger):  # type: ignore[misc, name-defined]
    """Keeps what the builder complains about."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Note an error."""
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)


def compile_graph(path: Path) -> tuple[int, list[str]]:
    """Return the engine's size in bytes, 0 where there is none, and the complaints."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        return 0, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    return (0 if engine is None else engine.nbytes), log.errors


@pytest.mark.parametrize("concat", ["separate", "shared"])
@pytest.mark.parametrize("name", NETS)
def test_our_int8_graphs_compile(name: str, concat: str, exports: Path, images: InMemory, tmp_path: Path) -> None:
    model = structures.exported(name, exports, batch=1)
    config = QuantizeConfig(concat=concat)  # type: ignore[arg-type]
    size, complaints = compile_graph(quantize(model, images, config, to=tmp_path / "q.onnx").model.path)
    assert complaints == []
    assert size > 0


def test_the_graph_for_the_cpu_is_refused(exports: Path, images: InMemory, tmp_path: Path) -> None:
    model = structures.exported("residual", exports, batch=1)
    made = quantize(model, images, QuantizeConfig(scheme="int8-cpu"), to=tmp_path / "q.onnx").model
    size, complaints = compile_graph(made.path)
    assert size == 0
    assert "zero point" in complaints[0]


def test_scaled_channels_compile_with_a_cap_a_channel(tmp_path: Path) -> None:
    """EfficientNet-Lite0, all of whose pairs are scaled; the Min behind each ReLU stays between a convolution and its Q."""
    built = zoo.build(zoo.find("efficientnet_lite0"), "random")
    config = ExportConfig(batch=1)
    made = export(built.module, built.spec, config, to=tmp_path / "a.onnx")
    exact = simplify(made, to=tmp_path / "fp32.onnx").model
    graph = load_ir(exact.path)
    scales = {
        pair.tensor: np.linspace(1, 8, pair.weight().shape[0] * pair.weight().shape[1]) for pair in pairs(graph.graph)
    }
    even = transform(exact, [EqualizeChannels(scales)], to=tmp_path / "even.onnx")
    photos = Photos(built.spec.preprocess, limit=4)
    path = quantize(even, photos, QuantizeConfig(effort="fast"), to=tmp_path / "q.onnx").model.path
    assert [node.op_type for node in load_ir(path).graph].count("Min") > 30
    size, complaints = compile_graph(path)
    assert complaints == []
    assert size > 0
