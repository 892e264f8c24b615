"""The main job with TensorRT as the target: engines of what was verified, in the same bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_machine import Machine
from small_job import SPEC
from torch import nn

from edgecnn.errors import MissingDependencyError
from edgecnn.models.deformable import deform_conv2d
from edgecnn.onnxio import load_ir
from edgecnn.pipeline import Outcome, PipelineConfig, run
from edgecnn.quantize import QuantizeConfig
from edgecnn.runtime import Bundle


class Net(nn.Module):
    """Two convolutions, the second one deformable if asked for."""

    def __init__(self, deform: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, 18, 3, padding=1) if deform else None
        self.fc = nn.Linear(8, 4)
        nn.init.normal_(self.fc.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        weight, bias = self.conv.weight, self.conv.bias
        y = deform_conv2d(x, self.offset(x), weight, bias, padding=1) if self.offset else self.conv(x)
        return self.fc(torch.relu(x + y).mean((2, 3)))


def job(to: Path, *, deform: bool = False, **changes: Any) -> Outcome:
    torch.manual_seed(0)
    config = PipelineConfig(
        int8=True,
        quantize=QuantizeConfig(effort="fast"),
        calib_images=8,
        verify_images=4,
        use_cache=False,
        **{"measure_seconds": 0, **changes},
    )
    return run(SPEC, config, to=to, module=Net(deform))


@pytest.fixture
def rtx() -> None:
    """Skip where TensorRT-RTX is not installed."""
    pytest.importorskip("tensorrt_rtx")


def operators(bundle: Bundle, variant: str) -> set[str]:
    return {node.op_type for node in load_ir(bundle.model_path(variant)).graph}


@pytest.mark.usefixtures("rtx")
def test_every_variant_gets_an_engine_audited(tmp_path: Path) -> None:
    outcome = job(tmp_path / "net", target="tensorrt-rtx", fp16=True)
    assert outcome, outcome.notes
    manifest = outcome.bundle.manifest
    assert list(manifest.variants) == ["fp32", "int8", "fp16", "int8-fp16"]
    assert list(manifest.engines) == [f"{name}.tensorrt-rtx" for name in manifest.variants]
    for record in manifest.engines.values():
        kind = record.facts.precision.split("-", maxsplit=1)[0]
        assert record.facts.audit["layers"]["convolution"] == {kind: 2}
        assert manifest.files[record.file].bytes > 1000
    assert outcome.seconds["engine"] > 0
    assert set(outcome.to_json()["engines"]) == set(manifest.engines)


@pytest.mark.usefixtures("rtx")
def test_a_deformable_network_takes_the_form_that_rtx_has(tmp_path: Path) -> None:
    outcome = job(tmp_path / "net", deform=True, target="tensorrt-rtx")
    assert outcome, outcome.notes
    assert "GridSample" in operators(outcome.bundle, "int8")
    engine = outcome.engines["int8"].facts.audit["layers"]
    assert engine["convolution"]["int8"] == 1
    assert engine["convolution"]["fp32"] == 2  # the offsets, and the 1x1 convolution that stands for the deformable one


def test_where_no_tensorrt_is_the_bundle_is_made_ready_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    outcome = job(tmp_path / "net", deform=True, target="tensorrt")
    assert outcome
    assert not outcome.bundle.manifest.engines
    assert "DeformConv2d" in operators(outcome.bundle, "fp32")
    (note,) = [note for note in outcome.notes if "no engine" in note]
    assert "which is not installed" in note
    assert "on the device, run 'edgecnn build BUNDLE --target tensorrt'" in note


def test_the_latency_gate_measures_what_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose plans of INT8 take their time."""
    monkeypatch.setattr("edgecnn.pipeline.gate.SECONDS", 0.02)
    machine = Machine(monkeypatch, tmp_path / "cache")
    machine.module.delay = lambda graph: 0.04 if b"DequantizeLinear" in graph else 0.0
    outcome = job(tmp_path / "net", target="tensorrt", latency_gate=True)
    assert list(outcome.engines) == ["fp32", "int8", "fp16", "int8-fp16"]
    assert outcome.report
    assert outcome.gate is not None
    assert outcome.gate.winner in ("fp16", "fp32")
    assert not outcome
    assert outcome.to_json()["gate"]["passed"] is False
    manifest = outcome.bundle.manifest
    assert [note for note in manifest.notes if note.startswith("latency of tensorrt: INT8 is not clearly faster")]
    assert all(record.facts.speed is not None for record in manifest.engines.values())
    assert outcome.bundle.choose(backend="tensorrt").variant == outcome.gate.winner


def test_the_latency_gate_of_a_cpu_is_what_its_bundle_runs(tmp_path: Path) -> None:
    outcome = job(tmp_path / "net", target="cpu", latency_gate=True, measure_seconds=0.02)
    assert outcome.gate is not None
    assert outcome.gate.winner == outcome.bundle.choose().variant
    assert set(outcome.gate.ratios) >= {"fp32 on onnxruntime", "int8 on onnxruntime", "int8-cpu on onnxruntime"}
    assert bool(outcome) is outcome.gate.winner.startswith("int8")
    assert list(outcome.bundle.variants) == ["fp32", "int8", "int8-cpu"]


def test_rtx_that_is_not_there_is_an_error_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    seen: list[str] = []
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgecnn\[rtx\]'"):
        run(
            SPEC,
            PipelineConfig(target="tensorrt-rtx"),
            to=tmp_path / "net",
            module=Net(deform=False),
            progress=lambda step, done, total: seen.append(step),
        )
    assert seen == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "form"),
    [("auto", "standard"), ("cpu", "standard"), ("tensorrt", "plugin"), ("tensorrt-rtx", "gridsample")],
)
def test_auto_takes_the_form_that_the_target_has(target: Any, form: str) -> None:
    assert PipelineConfig(target=target).deform_form == form
    assert PipelineConfig(target=target, deform="standard").deform_form == "standard"
