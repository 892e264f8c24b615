"""The two forms that replace DeformConv compute what it computes, in onnxruntime, on exported networks."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.errors import GraphError
from edgecnn.export import ExportConfig, export
from edgecnn.models.deformable import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.passes import Pass, run_passes
from edgecnn.passes.deform_gridsample import DeformGridSample
from edgecnn.passes.deform_plugin import DeformPlugin
from edgecnn.quantize import QuantizeConfig, Scheme, quantize
from edgecnn.runtime import OrtSession
from edgecnn.spec import ModelSpec, TensorSpec

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_CASES = {case["id"]: case for case in json.loads((GOLDEN / "deform_conv2d.json").read_text())["cases"]}
stream = runpy.run_path(str(GOLDEN / "recipe.py"))["stream"]
FORMS: dict[str, list[Pass]] = {"standard": [], "gridsample": [DeformGridSample()], "plugin": [DeformPlugin()]}
LOWERED = {name: passes for name, passes in FORMS.items() if passes}
ABSOLUTE = 2e-5
"""Of outputs of order 1: GridSample's float32 coordinates are good to 1e-6 of a pixel."""

CASES = {
    # opset, groups, offset groups, kernel, stride, padding, dilation, size, range of offsets, mask, bias
    "uneven": (19, 1, 2, (2, 3), (2, 1), (1, 0), (1, 2), (6, 7), 4.0, True, False),
    "groups": (20, 2, 1, (3, 1), (1, 2), (0, 2), (2, 1), (5, 8), 6.0, False, True),
    "depthwise": (22, 4, 4, (3, 3), (2, 2), (1, 1), (1, 1), (7, 6), 4.0, True, True),
    "far outside": (19, 1, 1, (3, 3), (1, 1), (1, 1), (1, 1), (5, 6), 1e4, True, True),
    "one row": (20, 1, 1, (1, 3), (1, 1), (0, 1), (1, 1), (1, 9), 3.0, True, True),
    "one pixel": (23, 2, 2, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 3.0, False, False),
}


class Packed(nn.Module):
    """One deformable convolution that finds image, offsets and mask behind each other in one flat input."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], steps: Mapping[str, Any]) -> None:
        """Keep the weights, and the shapes of what is fed."""
        super().__init__()
        self.fed = {name: tensors[name].shape[1:] for name in ("input", "offset", "mask") if name in tensors}
        self.weight = nn.Parameter(tensors["weight"])
        self.bias = nn.Parameter(tensors["bias"]) if "bias" in tensors else None
        self.steps = dict(steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unpack and convolve."""
        parts = x.flatten(1).split([math.prod(shape) for shape in self.fed.values()], 1)
        fed = {name: part.unflatten(1, shape) for part, (name, shape) in zip(parts, self.fed.items(), strict=True)}
        return deform_conv2d(**fed, weight=self.weight, bias=self.bias, **self.steps).flatten(1)

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Return the input that holds these tensors."""
        return torch.cat([tensors[name].flatten(1) for name in self.fed], 1)[:, None, None].numpy()


def spec_of(*shape: int) -> ModelSpec:
    return ModelSpec(
        name="net",
        builder="net:build",
        num_classes=10,
        inputs=(TensorSpec(name="input", shape=("batch", *shape)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    )


def in_form(source: Path, passes: list[Pass]) -> Path:
    """Write the file that passes make of another, having had it checked."""
    model = load_ir(source)
    run_passes(model, passes)
    path = source.with_name("passed.onnx")
    save_ir(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def logits(path: Path, x: np.ndarray) -> np.ndarray:
    with OrtSession(path) as session:
        return session.run({"input": x})["logits"]


def golden_case(case: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Draw a golden case's tensors by its recipe, as ``tests/models/test_deformable_op.py`` does."""
    maps = case["offset_groups"] * math.prod(case["kernel"])
    batch, out = case["batch"], case["output_shape"][2:]
    weight = (case["out_channels"], case["in_channels"] // case["groups"], *case["kernel"])

    def draw(tensor: str) -> np.random.Generator:
        return stream(f"deform/{case['id']}/{tensor}")

    found = {
        "input": draw("input").standard_normal((batch, case["in_channels"], case["height"], case["width"])),
        "offset": draw("offset").uniform(-case["offset_range"], case["offset_range"], (batch, 2 * maps, *out)),
        "weight": draw("weight").standard_normal(weight) * math.sqrt(2 / math.prod(weight[1:])),
    }
    if quantum := case["offset_quantum"]:
        found["offset"] = np.rint(found["offset"] / quantum) * quantum
    if case["version"] == 2:
        found["mask"] = draw("mask").uniform(0, 1, (batch, maps, *out))
    if case["bias"]:
        found["bias"] = draw("bias").standard_normal(weight[0]) * 0.05
    tensors = {name: torch.from_numpy(array).float() for name, array in found.items()}
    return tensors, {name: tuple(case[name]) for name in ("stride", "padding", "dilation")}


def random_case(groups, offset_groups, kernel, stride, padding, dilation, size, reach, mask, bias):
    generator = torch.Generator().manual_seed(0)
    taps, batch, channels = math.prod(kernel), 3, 4
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    tensors = {
        "input": draw(batch, channels, *size),
        "offset": draw(batch, 2 * offset_groups * taps, *out) ** 3 * reach,  # most of them small
        "weight": draw(4, channels // groups, *kernel),
    }
    if mask:
        tensors["mask"] = draw(batch, offset_groups * taps, *out)
    if bias:
        tensors["bias"] = draw(4)
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation}


class Net(nn.Module):
    """Convolutions about a DCNv1 and a DCNv2 layer whose offsets are not zero."""

    def __init__(self) -> None:
        """Make the parts."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.first = DeformConv2d(8, 8, groups=2, bias=True)
        self.second = ModulatedDeformConv2d(8, 8, stride=2, offset_groups=2)
        self.last = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 10)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.conv_offset.weight, std=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        x = torch.relu(self.first(torch.relu(self.stem(x))))
        return self.fc(torch.relu(self.last(torch.relu(self.second(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Export the network once."""
    torch.manual_seed(0)
    return export(Net(), spec_of(3, 16, 16), to=tmp_path_factory.mktemp("net") / "net.onnx")


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, 16, 16)).astype(np.float32)


def export_packed(
    tensors: dict[str, torch.Tensor], steps: dict[str, Any], to: Path, **config: Any
) -> tuple[Packed, Path]:
    network = Packed(tensors, steps)
    size = network.pack(tensors).shape[-1]
    return network, export(network, spec_of(1, 1, size), ExportConfig(**config), to=to).path


@pytest.mark.parametrize("case", GOLDEN_CASES.values(), ids=GOLDEN_CASES)
def test_golden_in_every_form(case: dict[str, Any], tmp_path: Path) -> None:
    tensors, steps = golden_case(case)
    network, path = export_packed(tensors, steps, tmp_path / "net.onnx")
    with np.load(GOLDEN / "deform_conv2d.npz") as file:
        expected = file[f"case_{case['id']}"].reshape(case["batch"], -1)
    fed, images = network.pack(tensors), [0, case["batch"] - 1, 0]
    for name, passes in FORMS.items():
        with OrtSession(in_form(path, passes)) as session:
            for rows in (images[:1], images):
                found = session.run({"input": fed[rows]})["logits"]
                np.testing.assert_allclose(found, expected[rows], rtol=0, atol=ABSOLUTE, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_random_arguments_in_every_form(name: str, tmp_path: Path) -> None:
    opset, *case = CASES[name]
    tensors, steps = random_case(*case)
    network, path = export_packed(tensors, steps, tmp_path / "net.onnx", opset=opset)
    fed = network.pack(tensors)
    expected = network(torch.from_numpy(fed)).detach().numpy()
    for form, passes in FORMS.items():
        with OrtSession(in_form(path, passes)) as session:
            for batch in (1, 3):
                found = session.run({"input": fed[:batch]})["logits"]
                np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=ABSOLUTE, err_msg=form)


@pytest.mark.parametrize("passes", LOWERED.values(), ids=LOWERED)
def test_padding_that_differs_between_the_sides(passes: list[Pass], tmp_path: Path) -> None:
    """torchvision has no such thing, ONNX has."""
    tensors, steps = random_case(1, 1, (3, 3), (1, 1), (1, 1), (1, 1), (6, 7), 3.0, True, True)
    network, path = export_packed(tensors, steps, tmp_path / "net.onnx")
    model, fed = load_ir(path), network.pack(tensors)
    symmetric = logits(path, fed)
    (node,) = (node for node in model.graph if node.op_type == "DeformConv")
    node.attributes["pads"] = ir.AttrInt64s("pads", [0, 2, 2, 0])
    save_ir(model, path)
    expected = logits(path, fed)
    assert np.abs(expected - symmetric).max() > 0.1
    np.testing.assert_allclose(logits(in_form(path, passes), fed), expected, rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("scheme", ["int8", "int8-cpu"])
def test_a_quantized_network_in_every_form(net: OnnxModel, scheme: Scheme, tmp_path: Path) -> None:
    made = quantize(net, InMemory(noise(16)), QuantizeConfig(scheme=scheme), to=tmp_path / "int8.onnx").model
    x = noise(8)
    expected = logits(made.path, x)
    for passes in LOWERED.values():
        found = logits(in_form(made.path, passes), x)
        assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_gridsample_keeps_names_and_weights(net: OnnxModel) -> None:
    model = load_ir(net.path)
    before = {value.name for node in model.graph if node.op_type == "DeformConv" for value in node.outputs}
    assert before == {"first/DeformConv", "second/DeformConv"}
    weights = weight_bytes(model)
    assert run_passes(model, [DeformGridSample()]) == {"deform_gridsample": 2}
    assert not any(node.op_type == "DeformConv" for node in model.graph)
    new = [node for node in model.graph if str(node.name).startswith("second/DeformConv/")]
    assert {node.metadata_props["edgecnn.module"] for node in new} == {"second"}
    assert new[-1].op_type == "Conv"
    assert new[-1].outputs[0].name == "second/DeformConv"
    grids = sum(value.const_value.nbytes for name, value in model.graph.initializers.items() if name.endswith(".base"))
    assert weight_bytes(model) < weights + grids + 1000
    assert run_passes(model, [DeformGridSample()]) == {"deform_gridsample": 0}


def weight_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def test_the_plugin_node_is_what_tensorrt_looks_up(net: OnnxModel) -> None:
    model = onnx.load(in_form(net.path, [DeformPlugin()]))
    nodes = {node.name: node for node in model.graph.node if node.domain == "edgecnn"}
    assert sorted(nodes) == ["first/DeformConv", "second/DeformConv"]
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    first, second = nodes["first/DeformConv"], nodes["second/DeformConv"]
    assert (first.op_type, len(first.input), len(second.input)) == ("DeformConv2d", 4, 5)
    assert not any(name == "" for name in (*first.input, *second.input))
    assert constants[first.input[3]].any()
    assert constants[second.input[3]].tolist() == [0] * 8  # it had no bias
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in second.attribute}
    assert attributes == {
        "stride": [2, 2],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "offset_groups": 2,
        "plugin_version": b"1",
        "plugin_namespace": b"edgecnn",
    }
    (function,) = model.functions
    assert (function.domain, function.name, function.node[0].op_type) == ("edgecnn", "DeformConv2d", "DeformConv")
    assert len(function.input) > len(second.input)  # else TensorRT without the plugin would import it, wrongly


def test_dynamic_sizes_are_refused(net: OnnxModel) -> None:
    model = load_ir(net.path)
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", "width"])
    with pytest.raises(GraphError, match=r"first/DeformConv: .* fixed image size"):
        run_passes(model, [DeformGridSample()])


@pytest.mark.parametrize("passes", LOWERED.values(), ids=LOWERED)
def test_a_weight_that_is_computed_is_refused(net: OnnxModel, passes: list[Pass]) -> None:
    model = load_ir(net.path)
    node = next(node for node in model.graph if node.op_type == "DeformConv")
    node.replace_input_with(1, node.inputs[2])
    with pytest.raises(GraphError, match=r"first/DeformConv: .* needs a constant .*weight.* computed"):
        run_passes(model, passes)


def test_float16_coordinates_are_refused(net: OnnxModel) -> None:
    model = load_ir(net.path)
    node = next(node for node in model.graph if node.op_type == "DeformConv")
    weight = node.inputs[1]
    weight.const_value = ir.tensor(weight.const_value.numpy().astype(np.float16), name=weight.name)
    with pytest.raises(GraphError, match="found FLOAT16: keep deformable convolutions in float32"):
        run_passes(model, [DeformGridSample()])
