"""Bisecting: what is compared, how a layer's own noise is told from what it inherits and amplifies, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_nets import CLASSES, INPUT, PREPROCESS, images, network, write_embedded, write_fp16, write_fp32, write_int8
from torch import nn

from edgecnn.calib import InMemory
from edgecnn.errors import UserError
from edgecnn.export import export
from edgecnn.onnxio import open_model
from edgecnn.parity.bisect import bisect
from edgecnn.parity.samples import SampleSet, from_arrays, gaussian
from edgecnn.parity.stages import Stage, verify
from edgecnn.parity.torch_runner import TorchSession
from edgecnn.parity.trace import match_graphs, match_modules, read_graph
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime.ort import OrtSession
from edgecnn.spec import ModelSpec, TensorSpec

LAYERS = [
    "conv1/Conv",
    "relu/Relu",
    "block.conv/Conv",
    "block.relu/Relu",
    "block/Add",
    "dw/Conv",
    "act/Relu",
    "ReduceMean",
    "logits",
]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fp32(tmp_path_factory.mktemp("bisect") / "fp32.onnx")


@pytest.fixture(scope="module")
def int8(fp32: Path) -> Path:
    return write_int8(fp32.with_name("int8.onnx"), fp32)


def test_graphs_match_by_name_and_quantized_tensors_by_their_original(fp32: Path, int8: Path) -> None:
    graph = read_graph(int8)
    entries = match_graphs(read_graph(fp32), graph)
    by_role = {role: [e.reference for e in entries if e.role == role] for role in ("layer", "quantization", "weights")}
    assert by_role["layer"] == LAYERS
    assert set(by_role["quantization"]) == {"input", "relu/Relu", "block.relu/Relu", "block/Add", "act/Relu"}
    assert by_role["weights"] == ["conv1.weight", "block.conv.weight", "dw.weight", "fc.weight"]
    conv = next(e for e in entries if e.tensor == "block.conv/Conv")
    assert [entries[i].tensor for i in conv.inputs] == ["relu/Relu_dequantized", "block.conv.weight_dequantized"]
    assert conv.node.module == "block.conv"


def test_modules_match_the_last_node_of_their_scope_and_folded_ones_their_convolution(fp32: Path) -> None:
    sample = next(iter(images(1)))
    found = {e.tensor: e.reference for e in match_modules(TorchSession(network(), (INPUT,)), sample, read_graph(fp32))}
    assert found == {
        "conv1/Conv": "bn1",  # folded into the convolution
        "relu/Relu": "relu",
        "block.conv/Conv": "block.conv",
        "block.relu/Relu": "block.relu",
        "block/Add": "block",
        "dw/Conv": "dw",
        "act/Relu": "act",
        "logits": "fc",
    }


@pytest.mark.parametrize("form", ["fp16", "int8", "embedded", "torch"])
def test_honest_forms_do_not_depart(form: str, fp32: Path, int8: Path, tmp_path: Path) -> None:
    reference: Any = fp32
    if form == "torch":
        reference, candidate = TorchSession(network(), (INPUT,)), fp32
    elif form == "int8":
        candidate = int8
    else:
        candidate = {"fp16": write_fp16, "embedded": write_embedded}[form](tmp_path / "other.onnx")
    report = bisect(reference, candidate, images(4))
    assert report, "\n".join(report.lines())
    assert report.first is None
    assert report.precision == ("int8" if form == "int8" else "fp16" if form == "fp16" else "fp32")
    assert report.samples == 4
    assert len(report.layers) >= 8
    assert next(iter(report.lines())).startswith(f"no layer of {candidate.name} departs from ")


def test_a_layers_own_noise_is_what_it_adds_to_what_it_inherits(fp32: Path, int8: Path) -> None:
    layers = {layer.tensor: layer for layer in bisect(fp32, int8, images(4)).layers}
    assert layers["dw/Conv"].sqnr_db < layers["conv1/Conv"].sqnr_db - 5, "noise adds up on the way"
    for name in ("relu/Relu", "block.relu/Relu", "block/Add", "act/Relu", "ReduceMean"):
        assert layers[name].own_db == np.inf, f"{name} is the same float operator on both sides"
        assert layers[name].sqnr_db < 60, name
    for name in ("conv1/Conv", "block.conv/Conv", "dw/Conv", "logits"):
        weights = layers[name.replace("/Conv", "").replace("logits", "fc") + ".weight_dequantized"]
        assert abs(layers[name].own_db - weights.own_db) < 8, "rounding its weights is all the noise that a layer has"


def test_a_layer_that_amplifies_what_it_inherits_is_not_accused(fp32: Path, tmp_path: Path) -> None:
    """The bias takes away what all logits have in common, so that the same noise is larger beside what is left."""
    with OrtSession(fp32) as session:
        common = np.concatenate([session.run(sample.feed)["logits"] for sample in images(24)]).mean(axis=0)

    def centred(arrays: dict[str, Any]) -> None:
        arrays["fc.bias"] = arrays["fc.bias"] - common

    plain = open_model(write_fp32(tmp_path / "centred.onnx", centred))
    data = InMemory(np.concatenate([sample.feed["input"] for sample in images(16, seed=9)]))
    # Rounded to nearest: a layer whose weights compensate the noise of those before it makes more of its own.
    made = quantize(plain, data, QuantizeConfig(effort="fast"), to=tmp_path / "int8.onnx")
    report = bisect(plain, made.model, images(8), floor_db=30)
    layers = {layer.tensor: layer for layer in report.layers}
    assert layers["logits"].sqnr_db < 30 < layers["ReduceMean_dequantized"].sqnr_db - 4
    assert layers["logits"].own_db > 38
    assert report.first is None


class Deep(nn.Module):
    """Convolutions one behind the other: each amplifies what it inherits a little."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, *[4] * 23):
            layers += [nn.Conv2d(channels, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
        self.body, self.fc = nn.Sequential(*layers), nn.Linear(4 * 64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).flatten(1))


DEEP = ModelSpec(
    name="deep",
    builder="test_bisect:Deep",
    num_classes=CLASSES,
    inputs=(TensorSpec(name="input", shape=("batch", 3, 8, 8)),),
    outputs=(TensorSpec(name="logits", shape=("batch", CLASSES)),),
)
NOISE = np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32)
DEEP_SAMPLES = from_arrays([{"input": NOISE[32:]}])


def deep_network() -> Deep:
    torch.manual_seed(0)
    net = Deep()
    with torch.no_grad():
        for _ in range(40):  # BatchNorm learns its statistics
            net(torch.randn(16, 3, 8, 8))
    return net.eval()


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(deep_network(), DEEP, to=tmp_path_factory.mktemp("deep") / "deep.onnx").path


def test_noise_that_adds_up_without_a_culprit_is_said_to(deep: Path, tmp_path: Path) -> None:
    plain, samples = open_model(deep), DEEP_SAMPLES
    int8 = quantize(plain, InMemory(NOISE[:32]), to=tmp_path / "int8.onnx").model
    stages = [Stage("fp32", "fp32", OrtSession(plain.path)), Stage("int8", "int8", OrtSession(int8.path))]
    assert not verify(stages, [samples]), "there is something to explain"

    report = bisect(plain, int8, samples)
    assert report.first is None
    assert sum(layer.role == "weights" for layer in report.layers) == 25
    assert report.layers[-1].sqnr_db < 10
    finding = next(iter(report.lines()))
    assert f"noise adds up over the layers to {report.layers[-1].sqnr_db:.1f} dB at 'logits'" in finding
    for layer in report.noisy[:3]:
        assert 20 < layer.own_db < 40, "as any 8-bit tensor"
        assert f"{layer.name} {layer.own_db:.1f} dB" in finding
    assert report.noisy[0].own_db == min(layer.own_db for layer in report.layers)
    assert report.to_json()["noisiest"] == [layer.tensor for layer in report.noisy[:3]]


def test_a_convolution_whose_node_is_its_batchnorms_takes_no_other_modules_tensor(deep: Path) -> None:
    layers = bisect(TorchSession(deep_network(), DEEP.inputs), deep, DEEP_SAMPLES, limit=2).layers
    assert [layer.reference for layer in layers[:4]] == ["body.1", "body.2", "body.4", "body.5"]
    assert [layer.op for layer in layers[:4]] == ["Conv", "Relu"] * 2
    assert len(layers) == 2 * 24 + 1
    assert min(layer.own_db for layer in layers) > 100


def test_a_static_batch_is_filled_with_one_sample(fp32: Path, tmp_path: Path) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays["dw.weight"] = arrays["dw.weight"] * 1.5

    static = write_fp32(tmp_path / "static.onnx", batch=3)
    bad = write_fp32(tmp_path / "bad.onnx", change, batch=3)
    one = bisect(fp32, write_fp32(tmp_path / "dynamic.onnx", change), images(2))
    for reference in (static, fp32, TorchSession(network(), (INPUT,))):
        found = bisect(reference, bad, images(2)).first
        assert found is not None
        assert one.first is not None
        assert (found.tensor, found.shape) == ("dw/Conv", (1, 16, 16, 16))
        assert found.own_db == pytest.approx(one.first.own_db, abs=0.01)
    assert bisect(static, write_int8(tmp_path / "int8.onnx", fp32, batch=3), images(2))


def test_parts_give_what_all_at_once_gives(fp32: Path, int8: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    whole = bisect(fp32, int8, images(2))
    parts = bisect(fp32, int8, images(2), memory=200_000, progress=lambda *step: seen.append(step))
    assert seen[-1][2] > 3
    assert parts == whole


def test_artefacts_are_taken_as_well_as_paths(fp32: Path, int8: Path) -> None:
    report = bisect(open_model(fp32), open_model(int8, precision="int8"), images(1))
    assert (report.precision, report.floor_db, report.reference, report.candidate) == (
        "int8",
        12,
        "fp32.onnx",
        "int8.onnx",
    )
    assert bisect(fp32, int8, images(1), floor_db=99).first is not None


def test_a_layer_whose_error_goes_no_further_is_no_culprit(tmp_path: Path) -> None:
    """Everything below zero is wrong, and the ReLU behind it removes all of it."""

    def negative(nodes: list[Any], arrays: dict[str, Any]) -> None:
        import onnx

        arrays["ten"], arrays["zero"] = np.float32(10), np.float32(0)
        conv = next(node for node in nodes if node.name == "dw/Conv")
        conv.output[0] = "plain"
        at = nodes.index(conv)
        nodes[at + 1 : at + 1] = [
            onnx.helper.make_node("Less", ["plain", "zero"], ["below"], name="below"),
            onnx.helper.make_node("Mul", ["plain", "ten"], ["tenfold"], name="tenfold"),
            onnx.helper.make_node("Where", ["below", "tenfold", "plain"], ["dw/Conv"], name="swap"),
        ]

    report = bisect(write_fp32(tmp_path / "a.onnx"), write_fp32(tmp_path / "b.onnx", extra=negative), images(3))
    dw = next(layer for layer in report.layers if layer.tensor == "dw/Conv")
    assert dw.sqnr_db < 0
    assert report, "\n".join(report.lines())


def test_json_and_text(fp32: Path, tmp_path: Path) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays["dw.weight"] = arrays["dw.weight"] * 1.5

    report = bisect(fp32, write_fp32(tmp_path / "bad.onnx", change), images(2))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["first"]["tensor"] == "dw/Conv"
    assert data["first"]["module"] == "dw"
    assert [layer["tensor"] for layer in data["layers"]] == LAYERS
    assert data["layers"][0]["sqnr_db"] is None
    lines = list(report.lines())
    assert lines[0].startswith("bad.onnx first departs from fp32.onnx at Conv dw: ")
    assert "on the reference's own inputs, where this precision explains no less than 90 dB" in lines[0]
    assert sum("<- departs" in line for line in lines) == 1


def test_what_cannot_be_bisected(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one sample"):
        bisect(fp32, fp32, SampleSet("none", "images", lambda: iter(())))
    with pytest.raises(UserError, match="no ONNX file"):
        bisect(fp32, tmp_path / "absent.onnx", images(1))
    other = tmp_path / "other.onnx"
    import onnx

    model = onnx.load(fp32)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in LAYERS:
                    names[index] = f"renamed {name}"
    model.graph.output[0].name = "renamed logits"
    onnx.save(model, other)
    with pytest.raises(UserError, match="no tensor in common"):
        bisect(fp32, other, gaussian(INPUT, PREPROCESS, count=1))
