"""Lint finds faults that were planted into clean graphs, and finds ours clean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import structures

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.errors import SpecError
from edgecnn.onnxio import load_ir
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.quantize.lint import Finding, lint

Exported = Callable[[str], OnnxModel]
Quantized = Callable[..., ir.Model]


@pytest.fixture
def quantized(exported: Exported, images: InMemory, tmp_path: Path) -> Quantized:
    """Return a function that quantizes one of the small networks and reads the graph."""

    def make(name: str, **options: object) -> ir.Model:
        return load_ir(quantize(exported(name), images, QuantizeConfig(**options), to=tmp_path / "q.onnx").model.path)  # type: ignore[arg-type]

    return make


def node_of(model: ir.Model, name: str) -> ir.Node:
    """Return a node by name."""
    return next(node for node in model.graph if node.name == name)


def pair(model: ir.Model, node: str, index: int, *, zero: object = np.int8(0)) -> None:
    """Put Q/DQ before an input of a node."""
    reader = node_of(model, node)
    value = reader.inputs[index]
    params = []
    for kind, array in (("scale", np.float32(0.1)), ("zero", zero)):
        tensor = ir.tensor(np.asarray(array), name=f"{node}.{index}.{kind}")
        params.append(
            ir.Value(name=tensor.name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        )
        model.graph.register_initializer(params[-1])
    quantizer = ir.node("QuantizeLinear", [value, *params], name=f"planted.{node}.{index}.q")
    back = ir.node("DequantizeLinear", [quantizer.outputs[0], *params], name=f"planted.{node}.{index}.dq")
    model.graph.insert_before(reader, [quantizer, back])
    reader.replace_input_with(index, back.outputs[0])


def bypass(model: ir.Model, node: str, index: int) -> None:
    """Take the DequantizeLinear and QuantizeLinear before an input of a node away."""
    reader = node_of(model, node)
    value = reader.inputs[index].producer().inputs[0]  # type: ignore[union-attr]
    source = value.producer()  # type: ignore[union-attr]
    reader.replace_input_with(index, source.inputs[0] if source is not None else value)  # type: ignore[union-attr]


def found(findings: tuple[Finding, ...]) -> set[tuple[str, str]]:
    """Return kinds and nodes."""
    return {(finding.kind, finding.node) for finding in findings}


@pytest.mark.parametrize("name", [name for name in structures.NETS if name != "deformable"])
@pytest.mark.parametrize(
    "options", [{}, {"concat": "shared"}, {"scheme": "int8-cpu"}, {"first_layer": False, "last_layer": False}]
)
def test_our_graphs_are_clean(quantized: Quantized, name: str, options: dict[str, object]) -> None:
    target = "cpu" if "scheme" in options else "tensorrt"
    assert lint(quantized(name, **options), target=target) == ()  # type: ignore[arg-type]


def test_a_deformable_convolution_is_an_island_and_its_offsets_are_none(quantized: Quantized) -> None:
    (finding,) = lint(quantized("deformable"))
    assert (finding.kind, finding.node) == ("float-island", "deform/DeformConv")
    assert json.loads(json.dumps(finding.to_json()))["text"].startswith("DeformConv in float")


def test_each_target_refuses_the_graph_of_the_other(quantized: Quantized) -> None:
    cpu = {kind for kind, _ in found(lint(quantized("residual", scheme="int8-cpu")))}
    assert cpu == {"zero-point", "integer-type", "integer-bias", "both-addends"}
    tensorrt = {kind for kind, _ in found(lint(quantized("residual"), target="cpu"))}
    assert tensorrt == {"float-bias", "float-output", "one-addend"}
    assert ("split-silu", "Mul_1") in found(lint(quantized("squeeze", scheme="int8-cpu")))


@pytest.mark.parametrize(
    ("name", "node", "index", "kind"),
    [
        ("residual", "Relu_1", 0, "split-activation"),
        ("residual", "Add", 0, "both-addends"),
        ("squeeze", "Sigmoid_1", 0, "split-silu"),
        ("squeeze", "Mul_1", 1, "split-silu"),
        ("squeeze", "Mul_4", 1, "quantized-gate"),
        ("hardswish", "HardSwish", 0, "split-activation"),
    ],
)
def test_planted_quantizers_are_found(quantized: Quantized, name: str, node: str, index: int, kind: str) -> None:
    model = quantized(name)
    pair(model, node, index)
    where = "Mul_1" if kind == "split-silu" else node
    assert (kind, where) in found(lint(model))


def test_a_planted_zero_point_and_a_planted_uint8_are_found(quantized: Quantized) -> None:
    model = quantized("residual")
    pair(model, "MaxPool", 0, zero=np.int8(3))
    pair(model, "ReduceMean", 0, zero=np.uint8(0))
    assert found(lint(model)) == {
        ("zero-point", "planted.MaxPool.0.q"),
        ("zero-point", "planted.MaxPool.0.dq"),
        ("integer-type", "planted.ReduceMean.0.q"),
    }


def test_a_weight_with_one_scale_and_an_integer_bias_are_found(quantized: Quantized) -> None:
    model = quantized("residual")
    conv, other = node_of(model, "conv1.0/Conv"), node_of(model, "conv2.0/Conv")
    scale = ir.Value(name="one", const_value=ir.tensor(np.float32(0.01), name="one"), shape=ir.Shape([]))
    model.graph.register_initializer(scale)
    conv.inputs[1].producer().replace_input_with(1, scale)  # type: ignore[union-attr]
    bias = ir.Value(name="b", const_value=ir.tensor(np.zeros(8, np.int32), name="b"), shape=ir.Shape([8]))
    model.graph.register_initializer(bias)
    dequantize = ir.node("DequantizeLinear", [bias, scale], name="bias.dq")
    model.graph.insert_before(other, dequantize)
    other.replace_input_with(2, dequantize.outputs[0])
    assert found(lint(model)) == {("weight-per-tensor", "conv1.0/Conv"), ("integer-bias", "conv2.0/Conv")}


def test_a_quantized_gate_layer_is_found(quantized: Quantized) -> None:
    model = quantized("squeeze")
    pair(model, "squeeze/Conv", 0)
    pair(model, "squeeze/Conv", 1)
    assert ("quantized-gate", "squeeze/Conv") in found(lint(model))


def test_islands_say_why(quantized: Quantized) -> None:
    (weight,) = lint(quantized("residual", keep_float=("^conv3",)))
    assert (weight.kind, weight.node) == ("float-island", "conv3.0/Conv")
    assert "its weight is float" in weight.text
    model = quantized("residual")
    bypass(model, "conv3.0/Conv", 0)
    (finding,) = (finding for finding in lint(model) if finding.kind == "float-island")
    assert finding.node == "conv3.0/Conv"
    assert "not quantized behind Relu" in finding.text


def test_quantized_logits_are_found_behind_a_softmax_too(quantized: Quantized) -> None:
    model = quantized("residual")
    logits = model.graph.outputs[0]
    softmax = ir.node("Softmax", [logits], name="softmax")
    model.graph.append(softmax)
    model.graph.outputs[0] = softmax.outputs[0]
    pair(model, "softmax", 0)
    assert found(lint(model)) == {("quantized-logits", "planted.softmax.0.dq")}


def test_a_float_graph_has_no_findings_and_an_unknown_target_is_refused(exported: Exported) -> None:
    path = exported("squeeze").path
    assert lint(path) == lint(path, target="cpu") == ()
    with pytest.raises(SpecError, match="tensorrt, cpu"):
        lint(path, target="gpu")  # type: ignore[arg-type]
