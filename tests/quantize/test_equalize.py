"""Cross-layer equalization: the float function stays, uneven channels gain, and engines take the graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import structures
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory, Photos
from edgecnn.errors import GraphError, SpecError
from edgecnn.export import export
from edgecnn.onnxio import load_ir, save_ir
from edgecnn.parity.trace import match_graphs, read_graph
from edgecnn.passes.equalize import EqualizeChannels, pairs
from edgecnn.quantize import QuantizeConfig, equalize, quantize, statistics_for
from edgecnn.quantize.correct.layer import read_layer
from edgecnn.quantize.equalization import Equalization, float_twin, is_equalized
from edgecnn.quantize.lint import lint
from edgecnn.quantize.sensitivity import logits_of
from edgecnn.simplify import simplify
from edgecnn.spec import ModelSpec, TensorSpec

Exported = Callable[[str], OnnxModel]
SIZE = 16


class Uneven(nn.Module):
    """Every kind of pair, with channels whose scales are 1 to 100 times each other's: dense, grouped, depthwise, 1x1, a pool between.

    Args:
        activation: between the convolutions.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.activation = activation
        shapes = [(3, 16, 3, 1), (16, 16, 3, 16), (16, 24, 1, 1), (24, 24, 3, 4), (24, 16, 3, 1), (16, 16, 1, 1)]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, size, padding=size // 2, groups=groups) for a, b, size, groups in shapes
        )
        self.fc = nn.Linear(16, 10)
        for layer in (*self.layers, self.fc):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * (2 / fan) ** 0.5
            layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator)
        for first, second in zip(self.layers, self.layers[1:], strict=False):
            factor = 100 ** -torch.rand(first.out_channels, generator=generator)
            first.weight.data *= factor[:, None, None, None]
            first.bias.data *= factor
            inputs = second.weight.shape[1]
            by_group = second.weight.data.reshape(len(factor) // inputs, -1, inputs, *second.kernel_size)
            by_group /= factor.reshape(-1, 1, inputs, 1, 1)
            second.weight.data = by_group.reshape(second.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if self.activation != "none" and index < len(self.layers) - 1:
                x = getattr(functional, self.activation)(x)
            if index == 2:
                x = functional.max_pool2d(x, 2)
        return self.fc(x.mean((2, 3)))


def spec(name: str) -> ModelSpec:
    """Describe one of the networks here."""
    return ModelSpec(
        name=name,
        builder="structures:none",
        num_classes=10,
        inputs=(TensorSpec(name="input", shape=("batch", 3, SIZE, SIZE)),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10)),),
    )


@cache
def uneven(folder: Path, activation: str) -> OnnxModel:
    """Export the network above, once a folder."""
    return export(Uneven(activation).eval(), spec(activation), to=folder / f"uneven-{activation}.onnx")


def sqnr(exact: Path, found: Path, images: InMemory) -> float:
    """Return dB of the logits."""
    wanted, got = (logits_of(path, list(images)).astype(np.float64) for path in (exact, found))
    return float(10 * np.log10(np.square(wanted).sum() / max(np.square(wanted - got).sum(), 1e-300)))


def departs(exact: Path, found: Path, images: InMemory) -> float:
    """Return the largest difference of the logits, relative to the largest logit."""
    wanted, got = (logits_of(path, list(images)) for path in (exact, found))
    return float(np.abs(wanted - got).max() / np.abs(wanted).max())


@pytest.mark.parametrize("activation", ["relu", "relu6", "none"])
def test_uneven_channels_cost_many_db_which_equalization_restores(
    activation: str, exports: Path, images: InMemory, tmp_path: Path
) -> None:
    model = uneven(exports, activation)
    even = equalize(model, images, QuantizeConfig(), to=tmp_path / "even.onnx")
    assert len(even.gains) == 5
    assert departs(model.path, even.model.path, images) < 1e-5
    unseen = InMemory([item["input"] for item in structures.images(16)][8:])
    found = {}
    for key in (False, True):
        made = quantize(model, images, QuantizeConfig(effort="fast", equalize=key), to=tmp_path / f"{key}.onnx")
        found[key] = sqnr(model.path, made.model.path, unseen)
    assert found[True] > found[False] + 6, found
    assert found[True] > 20, found


def scaled_at_random(model: OnnxModel, to: Path) -> tuple[OnnxModel, int]:
    """Scale the channels of every pair by 1/8 to 8."""
    graph = load_ir(model.path)
    generator = np.random.default_rng(5)
    scales = {}
    for pair in pairs(graph.graph):
        groups, inputs, _, _ = pair.weight().shape
        scales[pair.tensor] = 8 ** generator.uniform(-1, 1, groups * inputs)
    EqualizeChannels(scales).apply(graph)
    graph.graph.sort()
    return save_ir(graph, to), len(scales)


@pytest.mark.parametrize(("name", "count"), [("residual", 2), ("inverted", 2), ("inception", 1)])
def test_scaling_leaves_the_function(
    exported: Exported, images: InMemory, tmp_path: Path, name: str, count: int
) -> None:
    even, found = scaled_at_random(exported(name), tmp_path / "even.onnx")
    assert found == count
    assert departs(exported(name).path, even.path, images) < 1e-5


@pytest.mark.parametrize(("name", "count"), [("mobilenet_v2", 36), ("resnet18", 8)])
def test_scaling_leaves_the_function_of_whole_networks(name: str, count: int, tmp_path: Path) -> None:
    """MobileNetV2: two pairs in each of 17 blocks, and behind the two projections that no addition reads."""
    built = zoo.build(zoo.find(name), "random")
    exact = simplify(export(built.module, built.spec, to=tmp_path / "a.onnx"), to=tmp_path / "fp32.onnx").model
    even, found = scaled_at_random(exact, tmp_path / "even.onnx")
    assert found == count
    photos = InMemory(list(Photos(built.spec.preprocess, limit=2)))
    assert departs(exact.path, even.path, photos) < 1e-5


def test_what_others_read_is_left_alone(tmp_path: Path, exported: Exported) -> None:
    tensors = {pair.tensor for pair in pairs(load_ir(exported("residual").path).graph)}
    model = load_ir(exported("residual").path)
    shared = [v.name for node in model.graph for v in node.outputs if len(v.uses()) > 1]
    assert shared
    assert not tensors & set(shared)
    with pytest.raises(GraphError, match="cannot be scaled"):
        EqualizeChannels({str(shared[0]): np.ones(8)}).apply(model)
    tensor = next(iter(tensors))
    for scale in (np.ones(7), np.zeros(8), np.full(8, np.nan)):
        with pytest.raises(GraphError, match="positive scales"):
            EqualizeChannels({tensor: scale}).apply(load_ir(exported("residual").path))


def test_held_out_samples_decide(
    exports: Path, images: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal that does harm is not taken."""
    model = uneven(exports, "relu")
    every = [item["input"] for item in structures.images(16)]
    assert set(equalize(model, InMemory(every), QuantizeConfig(), to=tmp_path / "even.onnx").scores) == {
        "none",
        "full",
        "mild",
    }
    monkeypatch.setattr(
        Equalization,
        "scales",
        lambda self, weight, peak, power: (1000.0 ** -(peak > np.median(peak)).astype(float), 9.0),
    )
    harmed = equalize(model, images, QuantizeConfig(), to=tmp_path / "harmed.onnx")
    assert not harmed.gains
    assert harmed.scores["full"] < harmed.scores["none"]
    assert departs(model.path, harmed.model.path, images) == 0


def test_a_cap_becomes_one_a_channel_for_engines_and_stays_for_the_cpu(
    exports: Path, images: InMemory, tmp_path: Path
) -> None:
    model = uneven(exports, "relu6")
    assert len(equalize(model, images, QuantizeConfig(), to=tmp_path / "a.onnx").gains) == 5
    graph = load_ir(tmp_path / "a.onnx").graph
    ops = [node.op_type for node in graph]
    assert ops.count("Min") == 5
    assert "Clip" not in ops
    limits = [node.inputs[1].const_value.numpy() for node in graph if node.op_type == "Min"]  # type: ignore[union-attr]
    assert all(limit.shape[0] == 1 and limit.shape[2:] == (1, 1) for limit in limits)
    left = equalize(model, images, QuantizeConfig(scheme="int8-cpu"), to=tmp_path / "b.onnx")
    assert not left.gains
    assert not left.scores
    assert "no channels scaled" in str(left)


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_quantizing_tells_what_was_scaled(effort: str, exports: Path, images: InMemory, tmp_path: Path) -> None:
    model = uneven(exports, "relu6")
    config = QuantizeConfig(effort=effort, equalize=True)  # type: ignore[arg-type]
    made = quantize(model, images, config, to=tmp_path / "q.onnx")
    assert made.equalized is not None
    assert made.equalized.scores["full"] > made.equalized.scores["none"]
    reasons = {d.node: d.reason for d in made.placement.decisions}
    assert sum("behind scaled channels" in reason for reason in reasons.values()) == 5
    assert sum("one a channel" in reason for reason in reasons.values()) == 5
    assert is_equalized(made.model)
    with float_twin(model.path, made.model.path) as twin:
        assert departs(model.path, twin, images) < 1e-5
        entries = match_graphs(read_graph(twin), read_graph(made.model.path))
    assert sum(entry.role == "quantization" for entry in entries) == len(made.placement.tensors)
    with float_twin(model.path, model.path) as twin:
        assert twin == model.path
    assert not lint(made.model.path)
    assert sqnr(model.path, made.model.path, images) > 20
    with pytest.raises(SpecError, match="equalize"):
        quantize(model, images, config, to=tmp_path / "q.onnx", statistics=statistics_for(model, images, [config]))


def test_correction_knows_the_caps(exports: Path, images: InMemory, tmp_path: Path) -> None:
    model = uneven(exports, "relu6")
    even = equalize(model, images, QuantizeConfig(), to=tmp_path / "even.onnx")
    graph = load_ir(even.model.path).graph
    layers = [read_layer(node) for node in graph if node.op_type == "Conv"]
    caps = [node.inputs[1].const_value.numpy() for node in graph if node.op_type == "Min"]  # type: ignore[union-attr]
    for layer, cap in zip(layers, caps, strict=False):
        assert layer is not None
        assert np.array_equal(np.ravel(layer.high), np.ravel(cap))
    assert layers[-1] is not None
    assert layers[-1].high == np.inf
