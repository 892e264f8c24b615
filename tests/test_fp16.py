"""FP16 graphs: types, islands, the guard against overflow, INT8 scales, and that TensorRT-RTX builds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.errors import DataError, GraphError, SpecError
from edgecnn.export import ExportConfig, export
from edgecnn.fp16 import Fp16Config, Fp16Result, to_fp16
from edgecnn.fp16_emulate import emulate
from edgecnn.models.deformable import ModulatedDeformConv2d
from edgecnn.onnxio import open_model, read_metadata
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime.ort import OrtSession
from edgecnn.spec import ModelSpec, TensorSpec

Array = NDArray[Any]


class Net(nn.Module):
    """Stem, depthwise, gate, residual sum, pool, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate, self.project = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 2)
        y = nn.functional.silu(self.dw(x))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        x = torch.relu(x + self.project(y))
        return self.fc(x.mean((2, 3)))


def exported(module: nn.Module, to: Path, config: ExportConfig | None = None) -> OnnxModel:
    spec = ModelSpec(
        name="net",
        builder="net:build",
        num_classes=10,
        inputs=(TensorSpec(name="input", shape=("batch", 3, 16, 16)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    )
    return export(module.eval(), spec, config, to=to)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    torch.manual_seed(0)
    return exported(Net(), tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def int8(model: OnnxModel, samples: InMemory) -> OnnxModel:
    return quantize(model, samples, to=model.path.with_name("int8.onnx")).model


@pytest.fixture(scope="module")
def samples() -> InMemory:
    return InMemory(noise(8))


def noise(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


def run(path: Path, x: Array) -> Array:
    with OrtSession(path) as session:
        return next(iter(session.run({"input": x}).values()))


def run_half(model: OnnxModel, x: Array) -> Array:
    """Run with FP16's rounding, which onnxruntime's own fallback to FP32 leaves out."""
    return run(emulate(model, to=model.path.with_name("emulated.onnx")).path, x)


def alone(made: Fp16Result) -> set[str]:
    """Return the nodes that stay FP32 for a reason of their own."""
    return {name for name, reason in made.kept.items() if not reason.startswith("lies between")}


def decibels(exact: Array, found: Array) -> float:
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


class Typed:
    """A strictly checked graph with the type of every tensor."""

    def __init__(self, path: Path) -> None:
        proto = onnx.load(path)
        onnx.checker.check_model(proto, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, check_type=True).graph
        self.nodes = {node.name: node for node in proto.graph.node}
        self.constants = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {item.name: item.data_type for item in proto.graph.initializer}
        self.source = {name: node for node in proto.graph.node for name in node.output}

    def casts(self) -> set[str]:
        return {name for name, node in self.nodes.items() if node.op_type == "Cast"}

    def floats(self, name: str) -> set[int]:
        node = self.nodes[name]
        kinds = {self.types[value] for value in (*node.input, *node.output) if value}
        return kinds & {TensorProto.FLOAT, TensorProto.FLOAT16}


def operators(path: Path, nodes: Sequence[Any], constants: dict[str, Array], opset: int = 20) -> OnnxModel:
    """Write a graph of hand-made nodes from ``input`` to ``out``."""
    border = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, 16, 16]) for n in ("input", "out")]
    made = helper.make_graph(
        nodes, "g", border[:1], border[1:], [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return open_model(path)


def test_a_float_model_is_fp16_between_two_casts(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    made = to_fp16(model, samples, to=tmp_path / "h.onnx")
    before, after = Typed(model.path), Typed(made.model.path)
    assert [(s.name, s.shape, s.dtype) for s in (*made.model.inputs, *made.model.outputs)] == [
        ("input", ("batch", 3, 16, 16), "float32"),
        ("logits", ("batch", 10), "float32"),
    ]
    assert after.casts() == {"input/Cast_fp16", "logits/Cast_fp32"}
    assert set(after.nodes) - after.casts() == set(before.nodes)
    for name, node in before.nodes.items():
        assert after.floats(name) == {TensorProto.FLOAT16}
        assert after.nodes[name].metadata_props == node.metadata_props
    assert after.constants.keys() == before.constants.keys()
    assert not made.kept
    assert made.model.precision == read_metadata(made.model.path)["edgecnn.precision"] == "fp16"
    step = made.model.lineage[-1]
    assert (step.stage, step.config["headroom"], step.inputs["model"]) == ("fp16", 2.0, model.sha256)
    assert step.inputs["data"] == samples.fingerprint()
    assert step.notes == made.notes
    x = noise(5, seed=1)
    assert decibels(run(model.path, x), run_half(made.model, x)) > 55


def test_neighbours_that_stay_fp32_are_one_island(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    config = Fp16Config(keep_float=("^dw/", "^project/"))
    made = to_fp16(model, samples, config, to=tmp_path / "h.onnx")
    graph = Typed(made.model.path)
    assert made.kept["dw/Conv"] == made.kept["project/Conv"] == "kept FP32 as asked"
    assert graph.floats("dw/Conv") == graph.floats("project/Conv") == {TensorProto.FLOAT}
    assert graph.floats("gate/Conv") == {TensorProto.FLOAT16}
    for name in graph.casts():
        node = graph.nodes[name]
        assert graph.types[node.input[0]] != graph.types[node.output[0]]
        assert node.input[0] not in graph.source or graph.source[node.input[0]].op_type != "Cast"
    x = noise(5, seed=1)
    assert decibels(run(model.path, x), run_half(made.model, x)) > 55


def test_what_lies_between_fp32_nodes_follows_them(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    made = to_fp16(model, samples, Fp16Config(keep_float=("^stem/", "^dw/", "^Add", "^Mul")), to=tmp_path / "h.onnx")
    graph = Typed(made.model.path)
    between = {graph.nodes[name].op_type for name in made.kept.keys() - alone(made)}
    assert between == {"Relu", "MaxPool", "Sigmoid"}
    assert graph.floats("gate/Conv") == {TensorProto.FLOAT16}
    assert "input/Cast_fp16" not in graph.casts()


def test_a_planted_overflow_is_caught(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        first.weight *= 1e5
        second.weight *= 1e-5
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 12, 10))
    model = exported(net, tmp_path / "net.onnx")
    x = noise(4)
    exact = run(model.path, x)
    blind = to_fp16(model, InMemory(noise(2) * np.float32(1e-4)), to=tmp_path / "blind.onnx")
    assert not np.isfinite(run_half(blind.model, x)).all(), "the overflow is real where nothing guards against it"
    guarded = to_fp16(model, InMemory(x), to=tmp_path / "guarded.onnx")
    assert decibels(exact, run_half(guarded.model, x)) > 55
    assert "output 0/Conv reaches" in guarded.kept["0/Conv"]
    assert set(guarded.kept) == {"0/Conv", "1/Relu", "2/Conv"}


def test_a_sum_inside_a_mean_is_guarded(tmp_path: Path) -> None:
    pool = helper.make_node("GlobalAveragePool", ["input"], ["mean"], "pool")
    model = operators(tmp_path / "m.onnx", [pool, helper.make_node("Add", ["input", "mean"], ["out"], "sum")], {})
    loud = InMemory([np.full((3, 16, 16), 200, np.float32) * np.array([1, -1, 1], np.float32)[:, None, None]])
    made = to_fp16(model, loud, to=tmp_path / "h.onnx")
    assert made.kept == {"pool": "it sums magnitudes up to 5.12e+04, times 2 beyond FP16's 65504"}
    assert not to_fp16(model, loud, Fp16Config(headroom=1), to=tmp_path / "h.onnx").kept


def test_constants_that_fp16_cannot_hold_keep_their_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["input", "large"], ["a"], "large"),
        helper.make_node("Mul", ["a", "small"], ["b"], "small"),
        helper.make_node("Add", ["b", "fits"], ["c"], "fits"),
        helper.make_node("Clip", ["c", "low"], ["out"], "clip"),
    ]
    constants = {"large": 1e5, "small": 1e-9, "fits": 0.1, "low": -np.inf}
    model = operators(tmp_path / "m.onnx", nodes, {name: np.float32(value) for name, value in constants.items()})
    made = to_fp16(model, InMemory([noise(1)[0] * np.float32(1e-3)]), to=tmp_path / "h.onnx")
    assert alone(made) == {"large", "small"}
    assert "reaches 1e+05" in made.kept["large"]
    assert "1 of 1 values become 0" in made.kept["small"]


def test_types_that_an_operator_fixes_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Resize", ["input", "", "scales"], ["a"], "resize", mode="linear"),
        helper.make_node("Shape", ["a"], ["shape"], "shape"),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], "zeros"),
        helper.make_node("Add", ["a", "zeros"], ["b"], "sum"),
        helper.make_node("Softmax", ["b"], ["c"], "softmax"),
        helper.make_node("Relu", ["c"], ["out"], "relu"),
    ]
    model = operators(tmp_path / "m.onnx", nodes, {"scales": np.array([1, 1, 1, 1], np.float32)})
    made = to_fp16(model, InMemory(noise(2)), to=tmp_path / "h.onnx")
    graph = Typed(made.model.path)
    assert graph.types["scales"] == TensorProto.FLOAT
    assert graph.floats("sum") == {TensorProto.FLOAT16}
    assert graph.floats("softmax") == {TensorProto.FLOAT}
    assert set(made.kept) == {"zeros", "softmax", "relu"}
    x = noise(3, seed=1)
    assert decibels(run(model.path, x), run_half(made.model, x)) > 55


def test_an_operator_of_another_domain_stays_fp32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gelu", ["input"], ["a"], "gelu", domain="com.microsoft"),
        helper.make_node("Add", ["a", "input"], ["out"], "sum"),
    ]
    path = operators(tmp_path / "m.onnx", nodes, {}).path
    proto = onnx.load(path)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 3, 16, 16]))
    onnx.save(proto, path)
    made = to_fp16(open_model(path), InMemory(noise(2)), to=tmp_path / "h.onnx")
    assert made.kept == {"gelu": "the operator com.microsoft::Gelu has no FP16 form"}
    x = noise(2, seed=1)
    assert decibels(run(path, x), run_half(made.model, x)) > 55


def test_coordinates_of_a_deformable_convolution_stay_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    deform = ModulatedDeformConv2d(8, 8)
    nn.init.normal_(deform.conv_offset.weight, std=0.05)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), deform, nn.ReLU(), nn.Conv2d(8, 10, 14), nn.Flatten())
    model = exported(net, tmp_path / "net.onnx")
    made = to_fp16(model, InMemory(noise(2)), to=tmp_path / "h.onnx")
    graph = Typed(made.model.path)
    assert "coordinates" in made.kept["2/DeformConv"]
    assert "offsets or masks" in made.kept["2.conv_offset/Conv"]
    for node in graph.nodes.values():
        if node.name.startswith("2") and node.op_type != "Cast":
            assert TensorProto.FLOAT16 not in graph.floats(node.name)
    assert graph.floats("0/Conv") == graph.floats("4/Conv") == {TensorProto.FLOAT16}
    assert len(graph.casts()) == 4
    x = noise(3, seed=1)
    assert decibels(run(model.path, x), run_half(made.model, x)) > 50


@pytest.mark.parametrize("opset", [19, 23])
def test_int8_scales_become_fp16_too(samples: InMemory, tmp_path: Path, opset: int) -> None:
    torch.manual_seed(0)
    model = exported(Net(), tmp_path / "net.onnx", ExportConfig(opset=opset))
    int8 = quantize(model, samples, to=tmp_path / "int8.onnx").model
    made = to_fp16(int8, samples, to=tmp_path / "h.onnx")
    assert (made.model.precision, dict(made.kept)) == ("int8-fp16", {})
    graph = Typed(made.model.path)
    assert graph.casts() == {"logits/Cast_fp32"}, "the input goes straight into its QuantizeLinear"
    for name, node in graph.nodes.items():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            at_border = node.input[0] == "input"
            assert graph.types[node.input[1]] == (TensorProto.FLOAT if at_border else TensorProto.FLOAT16), name
            if node.op_type == "QuantizeLinear":
                scale = graph.constants[node.input[1]]
                (reader,) = [n for n in graph.nodes.values() if node.output[0] in n.input]
                assert graph.constants[reader.input[1]] == scale, "a Q and its DQ share one scale"
        elif node.op_type in ("Conv", "Gemm"):
            assert graph.floats(name) == {TensorProto.FLOAT16}
    assert any("INT8 weights by at most 0.0" in note for note in made.notes)
    x = noise(32, seed=1)
    exact, quantized, mixed = run(model.path, x), run(int8.path, x), run_half(made.model, x)
    assert decibels(exact, mixed) > decibels(exact, quantized) - 1


def test_an_fp32_layer_of_an_int8_graph_has_a_dequantize_of_its_own(
    int8: OnnxModel, samples: InMemory, tmp_path: Path
) -> None:
    made = to_fp16(int8, samples, Fp16Config(keep_float=("^dw/",)), to=tmp_path / "h.onnx")
    graph = Typed(made.model.path)
    assert set(made.kept) == {"dw/Conv"}
    assert graph.floats("dw/Conv") == {TensorProto.FLOAT}
    source = graph.source[graph.nodes["dw/Conv"].input[0]]
    other = graph.nodes[source.name.removesuffix("/fp32")]
    assert source.op_type == other.op_type == "DequantizeLinear"
    assert source.input[0] == other.input[0]
    assert graph.constants[source.input[1]] == graph.constants[other.input[1]]
    assert graph.types[other.output[0]] == TensorProto.FLOAT16
    x = noise(16, seed=1)
    assert decibels(run(int8.path, x), run_half(made.model, x)) > 30


def test_weight_scales_among_the_subnormals_keep_their_layer(samples: InMemory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.project.weight *= 1e-4
    model = exported(net, tmp_path / "net.onnx")
    int8 = quantize(model, samples, to=tmp_path / "int8.onnx").model
    made = to_fp16(int8, samples, to=tmp_path / "h.onnx")
    graph = Typed(made.model.path)
    assert alone(made) == {"project/Conv"}
    assert "project/Conv.weight_dequantized" in made.kept["project/Conv"]
    assert graph.floats("project/Conv") == {TensorProto.FLOAT}
    assert {graph.source[name].op_type for name in graph.nodes["project/Conv"].input[:2]} == {"DequantizeLinear"}


def test_a_channel_without_weight_does_not_get_scale_zero(samples: InMemory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.dw.weight[3] *= 1e-20
    model = exported(net, tmp_path / "net.onnx")
    int8 = quantize(model, samples, QuantizeConfig(bias_correction=False), to=tmp_path / "int8.onnx").model
    made = to_fp16(int8, samples, to=tmp_path / "h.onnx")
    assert not made.kept
    scale = Typed(made.model.path).constants["dw/Conv.weight_scale"]
    assert scale.dtype == np.float16
    assert (scale > 0).all()


def test_models_that_cannot_be_converted_are_refused(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    half = to_fp16(model, samples, to=tmp_path / "h.onnx").model
    out = tmp_path / "out.onnx"
    with pytest.raises(GraphError, match="is fp16: FP16 is made from"):
        to_fp16(half, samples, to=out)
    with pytest.raises(GraphError, match="holds FP16 already"):
        to_fp16(open_model(half.path), samples, to=out)
    cpu = quantize(model, samples, QuantizeConfig(scheme="int8-cpu"), to=tmp_path / "cpu.onnx").model
    with pytest.raises(GraphError, match="is int8-cpu"):
        to_fp16(cpu, samples, to=out)
    pair = [
        helper.make_node("QuantizeLinear", ["input", "s"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["out"], "dq"),
    ]
    old = operators(tmp_path / "old.onnx", pair, {"s": np.float32(0.1)}, opset=17)
    with pytest.raises(GraphError, match="opset 17; FP16 scales of Q/DQ need 19"):
        to_fp16(old, samples, to=out)
    proto = onnx.load(old.path)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(GraphError, match=r"float32 inputs, found input \(float16\)"):
        to_fp16(open_model(tmp_path / "other.onnx"), samples, to=out)
    assert not out.exists()


def test_samples_and_settings_that_cannot_be_used(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        to_fp16(model, [], to=tmp_path / "h.onnx")
    log = operators(tmp_path / "log.onnx", [helper.make_node("Log", ["input"], ["out"], "log")], {})
    with pytest.raises(DataError, match="makes NaN at out"):
        to_fp16(log, samples, to=tmp_path / "h.onnx")
    with pytest.raises(SpecError, match=r"'layer9' finds no node.*stem/Conv"):
        to_fp16(model, samples, Fp16Config(keep_float=("layer9",)), to=tmp_path / "h.onnx")
    with pytest.raises(SpecError, match="regular expression"):
        Fp16Config(keep_float=("(",))
    for headroom in (0.5, float("nan"), float("inf")):
        with pytest.raises(SpecError, match="headroom"):
            Fp16Config(headroom=headroom)
    assert not (tmp_path / "h.onnx").exists()


def test_progress_counts_the_samples_of_any_iterable(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    to_fp16(model, iter(samples), to=tmp_path / "h.onnx", progress=lambda *step: seen.append(step))
    assert seen == [("fp16", done, 0) for done in range(1, 9)]


def test_tensorrt_rtx_builds_both_kinds(model: OnnxModel, int8: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for source, config in ((model, Fp16Config()), (int8, Fp16Config()), (int8, Fp16Config(keep_float=("^dw/",)))):
        made = to_fp16(source, samples, config, to=tmp_path / "h.onnx").model
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
        assert parser.parse(made.path.read_bytes()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
        assert network.get_input(0).dtype == network.get_output(0).dtype == trt.float32
        options, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("input", (1, 3, 16, 16), (1, 3, 16, 16), (4, 3, 16, 16))
        options.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, options) is not None


def test_the_emulation_keeps_names_and_rounds_every_result(model: OnnxModel, samples: InMemory, tmp_path: Path) -> None:
    half = to_fp16(model, samples, to=tmp_path / "h.onnx").model
    made = emulate(half, to=tmp_path / "e.onnx")
    before, after = Typed(half.path), Typed(made.path)
    assert (made.precision, made.inputs, made.outputs) == ("fp16", half.inputs, half.outputs)
    assert before.nodes.keys() <= after.nodes.keys()
    for name, node in before.nodes.items():
        if node.op_type != "Cast":
            assert after.floats(name) == {TensorProto.FLOAT}
            assert after.types[node.output[0]] == before.types[node.output[0]] == TensorProto.FLOAT16
    found = run(made.path, noise(2))
    assert np.array_equal(found, found.astype(np.float16)), "the logits are numbers of FP16"
    with pytest.raises(GraphError, match="is fp32: only an fp16"):
        emulate(model, to=tmp_path / "e.onnx")
