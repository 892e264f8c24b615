"""PyTorch to ONNX: borders, names, what is stripped, and that the graph computes what the network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel
from edgecnn.errors import ExportError, SpecError
from edgecnn.export import ExportConfig, export
from edgecnn.onnxio import read_metadata
from edgecnn.runtime.ort import OrtSession
from edgecnn.spec import ModelSpec, Preprocess, TensorSpec


class Aux(nn.Module):
    """Two heads on one trunk; how they are returned is the caller's choice."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc, self.aux_head = nn.Linear(8, 5), nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.trunk(x).mean((2, 3))
        main, aux = self.fc(x), self.aux_head(x)
        if self.form == "dict":
            return {"out": main, "aux": aux}
        if self.form == "logits":
            return {"aux": aux, "logits": main}
        return (main, aux) if self.form == "tuple" else main


def spec_of(classes: int = 5, size: int = 16) -> ModelSpec:
    return ModelSpec(
        name="net",
        builder="net:build",
        num_classes=classes,
        inputs=(TensorSpec(name="input", shape=("batch", 3, size, size)),),
        outputs=(TensorSpec(name="logits", shape=("batch", classes)),),
    )


def logits(model: OnnxModel, x: torch.Tensor) -> Any:
    with OrtSession(model.path) as session:
        return session.run({"input": x.numpy()})["logits"]


def names_in(path: Path) -> str:
    graph = onnx.load(path).graph
    tensors = [t.name for t in graph.initializer] + [name for node in graph.node for name in node.output]
    return " ".join([*tensors, *(node.name for node in graph.node)])


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", ("aux1", "aux2")), ("inception_v3", ("AuxLogits",))])
def test_auxiliary_classifiers_leave_no_trace(name: str, auxiliary: tuple[str, ...], tmp_path: Path) -> None:
    built = zoo.build(zoo.find(name), "random")
    module = built.module.train()
    assert any(key.startswith(auxiliary) for key in module.state_dict())
    model = export(module, built.spec, to=tmp_path / "net.onnx")
    assert module.training, "the caller's module keeps its mode"
    assert [spec.name for spec in model.outputs] == ["logits"]
    found = names_in(model.path)
    for word in auxiliary:
        assert word not in found
    graph = onnx.load(model.path).graph
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    main = sum(p.numel() for key, p in module.named_parameters() if not key.startswith(auxiliary))
    # Folding BatchNorm turns its scale and shift into one bias, so that fewer numbers than parameters are left.
    assert 0.97 * main < stored <= main + 100
    assert not any(tuple(tensor.dims)[:1] == (768,) and len(tensor.dims) == 2 for tensor in graph.initializer)


@pytest.mark.parametrize(("form", "output"), [("tuple", "0"), ("dict", "out"), ("logits", ""), ("plain", "")])
def test_the_main_output_of_several(form: str, output: str, tmp_path: Path) -> None:
    module = Aux(form).eval()
    model = export(module, spec_of(), ExportConfig(output=output), to=tmp_path / "net.onnx")
    x = torch.randn(3, 3, 16, 16)
    expected = Aux.forward(module, x)
    main = expected if form == "plain" else expected[{"dict": "out", "logits": "logits"}.get(form, 0)]
    np.testing.assert_allclose(logits(model, x), main.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert "aux_head" not in names_in(model.path)


@pytest.mark.parametrize(("form", "listed"), [("tuple", r"0 \[2, 5\], 1 \[2, 7\]"), ("dict", r"out \[2, 5\], aux")])
def test_several_outputs_and_no_choice_is_an_error_that_lists_them(form: str, listed: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"{listed}.*--output"):
        export(Aux(form), spec_of(), to=tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_not_there_is_an_error_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no output 'main'.*out \[2, 5\]"):
        export(Aux("dict"), spec_of(), ExportConfig(output="main"), to=tmp_path / "net.onnx")


def test_the_graph_is_named_after_the_network(tmp_path: Path) -> None:
    model = export(Aux("plain"), spec_of(), to=tmp_path / "net.onnx", labels=["a", "b", "c", "d", "e"])
    proto = onnx.load(model.path)
    assert [node.name for node in proto.graph.node][:2] == ["trunk.0/Conv", "trunk.2/Relu"], (
        "the convolution's name, though BatchNorm is folded in"
    )
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node), "folded into the convolution"
    metadata = read_metadata(model.path)
    assert metadata["edgecnn.model"] == "net"
    assert Preprocess().to_json().keys() == json.loads(metadata["edgecnn.preprocess"]).keys()
    assert len(metadata["edgecnn.labels_sha256"]) == 64
    assert str(tmp_path) not in str(proto), "no path of this machine in the file"


@pytest.mark.parametrize("opset", [19, 20, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    model = export(Aux("plain"), spec_of(), ExportConfig(opset=opset), to=tmp_path / "net.onnx")
    assert model.opset == opset
    onnx.checker.check_model(onnx.load(model.path), full_check=True)


def test_batch_is_dynamic_unless_it_is_asked_to_be_static(tmp_path: Path) -> None:
    dynamic = export(Aux("plain"), spec_of(), to=tmp_path / "dynamic.onnx")
    static = export(Aux("plain"), spec_of(), ExportConfig(batch=4), to=tmp_path / "static.onnx")
    assert dynamic.inputs[0].shape == ("batch", 3, 16, 16)
    assert static.inputs[0].shape == (4, 3, 16, 16)
    assert static.outputs[0].shape == (4, 5)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SpecError, match="opset 12 is not between 19 and 23"):
        ExportConfig(opset=12)
    with pytest.raises(SpecError, match="batch 0"):
        ExportConfig(batch=0)


def test_a_network_that_does_not_take_its_input_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"fails on an input of shape \[2, 3, 16, 16\]"):
        export(nn.Sequential(nn.Flatten(), nn.Linear(10, 5)), spec_of(), to=tmp_path / "net.onnx")


def test_data_dependent_control_flow_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.mean((2, 3))
            return y if y.sum() > 0 else -y

    with pytest.raises(ExportError, match=r"torch\.onnx cannot export net: .+"):
        export(Branches(), spec_of(3), to=tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
