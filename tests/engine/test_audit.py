"""The audit of finished plans, on what the engine inspector said of real ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifacts import OnnxModel
from edgecnn.engine import BuildConfig, build
from edgecnn.engine.audit import audit_engine
from edgecnn.errors import BackendError

INSPECTED = Path(__file__).parent / "inspected"
WORDS = {"Int8": "Int8", "FP16": "Half", "FP32": "Float"}


def recording(name: str) -> dict[str, Any]:
    """Return a recording, in TensorRT 10's shape."""
    data: dict[str, Any] = json.loads((INSPECTED / f"{name}.json").read_text())
    return data


def as_eleven(data: Mapping[str, Any], spelling: str = "DataType") -> dict[str, Any]:
    """Return a recording in TensorRT 11's shape: format and type apart, and objects for what the engine takes and gives."""
    made = copy.deepcopy(dict(data))
    for layer in made["Layers"]:
        for tensor in (*layer["Inputs"], *layer["Outputs"]):
            text = tensor.pop("Format/Datatype")
            tensor["Format"] = "Row major linear"
            tensor[spelling] = next(name for word, name in WORDS.items() if word in text)
    names = made.pop("Bindings")
    made["I/O Tensors"] = [{"Name": name, "IOMode": "Input", "DataType": "Float"} for name in names]
    return made


SHAPES = [lambda data: data, as_eleven, lambda data: as_eleven(data, "Datatype")]


@pytest.mark.parametrize("shape", SHAPES, ids=["10", "11", "11 Datatype"])
def test_an_int8_engine(shape: Callable[[Any], Any]) -> None:
    text = json.dumps(shape(recording("resnet18-qat-a100")))
    found = audit_engine(text, "int8")
    assert found
    assert found.source == "engine"
    assert found.layers["convolution"] == {"int8": 21}
    assert found.layers["quantize"] == {"int8": 10}
    assert found.reformats == 2
    assert found.left_float == ()


@pytest.mark.parametrize("shape", SHAPES, ids=["10", "11", "11 Datatype"])
def test_an_engine_that_is_not_what_was_asked_for(shape: Callable[[Any], Any]) -> None:
    text = json.dumps(shape(recording("resnet18-fp16-a100")))
    assert audit_engine(text, "fp16")
    found = audit_engine(text, "int8")
    assert not found
    assert found.problems[0].startswith("INT8 was asked for, and none of 21 convolutions is INT8")
    assert len(found.left_float) == 21


def test_fp16_that_became_fp32_is_not_passed_in_silence() -> None:
    data = recording("resnet18-fp16-a100")
    text = json.dumps(data).replace("FP16", "FP32")
    found = audit_engine(text, "fp16")
    assert found.problems == ("FP16 was asked for, and none of 21 layers is FP16",)
    assert audit_engine(text, "fp32")


def test_one_int8_convolution_is_enough_and_the_others_are_named() -> None:
    data = recording("resnet18-qat-a100")
    convolutions = [layer for layer in data["Layers"] if layer["LayerType"] == "CaskConvolution"]
    for layer in convolutions[1:]:
        layer["Inputs"][0]["Format/Datatype"] = "Row major linear FP32"
    found = audit_engine(json.dumps(data), "int8")
    assert found
    assert found.layers["convolution"] == {"fp32": 20, "int8": 1}
    assert found.left_float == tuple(layer["Name"] for layer in convolutions[1:])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"Layers": ["conv1", "conv2"]}', '{"Layers": "conv1"}', "[" * 100_000]
)
def test_what_is_no_inspection_is_refused(text: str) -> None:
    with pytest.raises(BackendError, match=r"not the JSON of an engine|ProfilingVerbosity\.DETAILED"):
        audit_engine(text, "int8")


@pytest.mark.parametrize(
    ("version", "shape", "name", "passed"),
    [
        ("10.3.0", SHAPES[0], "resnet18-qat-a100", True),
        ("11.1.0", SHAPES[1], "resnet18-qat-a100", True),
        ("11.1.0", SHAPES[1], "resnet18-fp16-a100", False),
    ],
)
def test_a_build_on_a_gpu_is_judged_by_its_plan(
    version: str,
    shape: Callable[[Any], Any],
    name: str,
    passed: bool,
    nets: Mapping[str, OnnxModel],
    tensorrt: Callable[..., Any],
    tmp_path: Path,
) -> None:
    tensorrt(version, inspection=shape(recording(name)))
    engine = build(nets["int8"], BuildConfig(target="tensorrt"), to=tmp_path / "x.plan")
    assert engine.facts.audit["source"] == "engine"
    assert engine.facts.audit["reformats"] == 2
    assert engine.passed is passed


def test_a_plan_that_hides_its_layers_is_judged_by_the_network(
    nets: Mapping[str, OnnxModel], tensorrt: Callable[..., Any], tmp_path: Path
) -> None:
    block = {"Name": "{ForeignNode[stem...fc]}", "LayerType": "Myelin", "Inputs": [], "Outputs": []}
    tensorrt("10.16.0", inspection={"Layers": [block], "Bindings": []})
    audit = build(nets["int8"], BuildConfig(target="tensorrt"), to=tmp_path / "x.plan").facts.audit
    assert (audit["source"], audit["passed"]) == ("network", True)
