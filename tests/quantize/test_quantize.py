"""Placement rules and arithmetic on small networks that hold the structures of the zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory, MinMax
from edgecnn.errors import GraphError, SpecError
from edgecnn.export import export
from edgecnn.onnxio import load_ir, open_model
from edgecnn.quantize import QuantizeConfig, plan, quantize
from edgecnn.quantize.qdq import activation_scale, quantize_weight
from edgecnn.runtime import OrtOptions, OrtSession
from edgecnn.runtime.ort import ALWAYS_DISABLED
from edgecnn.spec import ModelSpec, TensorSpec


class Net(nn.Module):
    """Stem, depthwise, squeeze-excite with SiLU, residual sum, pool, classifier."""

    def __init__(self) -> None:
        """Make the parts."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 2)
        y = nn.functional.silu(self.dw(x))
        gate = torch.sigmoid(self.excite(nn.functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = torch.relu(x + self.project(y * gate))
        return self.fc(x.mean((2, 3)))


SPEC = ModelSpec(
    name="net",
    builder="net:build",
    num_classes=10,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 16, 16)),),
    outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Export the network once."""
    torch.manual_seed(0)
    return export(Net(), SPEC, to=tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def samples() -> InMemory:
    """Return noise to calibrate on."""
    return InMemory(np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32))


def test_int8_placement(model: OnnxModel) -> None:
    decisions = {d.node: d for d in plan(load_ir(model.path), QuantizeConfig()).decisions}
    quantized = {name for name, d in decisions.items() if d.quantized}
    assert quantized == {"stem/Conv", "dw/Conv", "project/Conv", "Add", "fc/Gemm"}
    assert "squeeze-excite" in decisions["squeeze/Conv"].reason
    assert "squeeze-excite" in decisions["excite/Conv"].reason
    (add,) = decisions["Add"].inputs
    node = next(node for node in load_ir(model.path).graph if node.name == "Add")
    assert node.inputs[add].producer().op_type == "MaxPool"  # type: ignore[union-attr]
    assert all(d.reason for d in decisions.values())


def test_the_int8_graph_is_what_tensorrt_takes(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    made = quantize(model, samples, to=tmp_path / "int8.onnx").model
    graph = onnx.load(made.path).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    by_output = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]].shape == ()
            assert constants[node.input[2]].dtype == np.int8
            assert constants[node.input[2]] == 0
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            assert constants[node.input[0]].dtype == np.int8
            assert constants[node.input[1]].shape == (constants[node.input[0]].shape[0],)
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            assert constants[node.input[2]].dtype == np.float32
        if node.op_type == "Relu":
            assert by_output[node.input[0]].op_type in ("Conv", "Add")
    assert by_output["logits"].op_type == "Gemm"
    assert "stem.weight" not in constants  # the float weight is gone


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_the_quantized_network_is_close_to_the_float_one(
    model: OnnxModel, samples: InMemory, tmp_path: Path, scheme: str
) -> None:
    made = quantize(model, samples, QuantizeConfig(scheme=scheme), to=tmp_path / "q.onnx").model  # type: ignore[arg-type]
    x = np.random.default_rng(1).standard_normal((32, 3, 16, 16)).astype(np.float32)
    exact, found = (OrtSession(path).run({"input": x})["logits"] for path in (model.path, made.path))
    assert 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()) > 30


def test_the_cpu_graph_runs_in_integer_kernels(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    import onnxruntime as ort

    made = quantize(model, samples, QuantizeConfig(scheme="int8-cpu"), to=tmp_path / "q.onnx").model
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(made.path, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*ALWAYS_DISABLED])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == 3
    assert operators.count("QLinearAdd") == 1
    assert operators.count("QGemm") == 1


def test_a_float_island_keeps_its_accuracy(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    config = QuantizeConfig(keep_float=("^dw/",))
    made = quantize(model, samples, config, to=tmp_path / "q.onnx").model
    x = {"input": np.random.default_rng(2).standard_normal((8, 3, 16, 16)).astype(np.float32)}
    plain = OrtSession(made.path, OrtOptions(optimize="disabled")).run(x)["logits"]
    ours = OrtSession(made.path).run(x)["logits"]
    assert np.abs(plain - ours).max() < 0.01 * np.abs(plain).max()


def test_a_pattern_that_finds_nothing_names_the_convolutions(model: OnnxModel) -> None:
    with pytest.raises(SpecError, match="stem/Conv"):
        plan(load_ir(model.path), QuantizeConfig(keep_float=("layer9",)))


def test_a_quantized_graph_is_refused(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    made = quantize(model, samples, to=tmp_path / "q.onnx").model
    with pytest.raises(GraphError, match="already"):
        quantize(made, samples, to=tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_weight_scales_are_per_channel_and_an_empty_channel_is_harmless() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight[2] = 0
    integers, scale = quantize_weight(weight, 0)
    assert np.abs(integers * scale[:, None, None, None] - weight).max() <= scale.max() / 2 + 1e-7
    assert (np.abs(integers[[0, 1, 3]].reshape(3, -1)).max(axis=1) == 127).all()
    assert not integers[2].any()
    assert scale[2] == 1


def test_uint8_represents_zero_exactly() -> None:
    scale, zero = activation_scale(-1.3, 4.1, symmetric=False)
    assert 0 < zero < 255
    assert abs(scale - 5.4 / 255) < 1e-7
    assert activation_scale(0.0, 6.0, symmetric=False)[1] == 0


def test_bias_correction_removes_the_mean_error_of_weight_rounding(
    model: OnnxModel, samples: InMemory, tmp_path: Path
) -> None:
    def error(correct: bool) -> float:
        config = QuantizeConfig(effort="fast", method=MinMax(), bias_correction=correct)
        made = quantize(model, samples, config, to=tmp_path / "q.onnx").model
        with OrtSession(model.path) as exact, OrtSession(made.path) as found:
            runs = [(exact.run(feed)["logits"], found.run(feed)["logits"]) for feed in samples]
        return float(np.abs(np.mean([b - a for a, b in runs], axis=0)).mean())

    assert error(True) < error(False)


def test_nodes_without_names_are_quantized_each_on_its_own(tmp_path: Path) -> None:
    """As other exporters write them: a decision is recorded by name."""
    draw = np.random.default_rng(0)
    weights = [numpy_helper.from_array(draw.standard_normal((3, 3, 3, 3)).astype(np.float32), f"w{i}") for i in (0, 1)]
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1], name="twice"),
        helper.make_node("Relu", ["c"], ["logits"], name="twice"),
    ]
    borders = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, 8, 8]) for name in ("input", "logits")
    ]
    graph = helper.make_graph(nodes, "g", borders[:1], borders[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "x.onnx")
    samples = InMemory(draw.standard_normal((4, 3, 8, 8)).astype(np.float32))
    result = quantize(open_model(tmp_path / "x.onnx"), samples, to=tmp_path / "q.onnx")
    assert [decision.node for decision in result.placement.decisions] == ["a/Conv", "b/Relu", "twice", "logits/Relu"]
    assert sum(node.op_type == "QuantizeLinear" for node in load_ir(result.model.path).graph) == 2
