"""The variants on OpenVINO: verified and measured beside onnxruntime, and no reason to refuse a bundle that runs without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_job import SPEC
from torch import nn

from edgecnn.errors import BundleUnverifiedError
from edgecnn.models.deformable import deform_conv2d
from edgecnn.parity.torch_runner import TorchSession
from edgecnn.pipeline import Outcome, PipelineConfig, backends, run
from edgecnn.runtime import OpenVinoSession


def job(folder: Path, module: nn.Module | None = None, **changes: Any) -> Outcome:
    """Run the main job on a small network."""
    if module is None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
        module = nn.Sequential(*layers).eval()
        nn.init.normal_(layers[-1].weight)  # logits that are apart
    values = {"int8": True, "target": "cpu", "calib_images": 8, "verify_images": 8, "measure_seconds": 0.02}
    return run(SPEC, PipelineConfig(use_cache=False, **(values | changes)), to=folder / "out", module=module)


@pytest.mark.parametrize("changes", [{}, {"embed_preprocess": True, "embed_softmax": True, "fp16": True}])
def test_every_variant_is_verified_and_measured_on_both(tmp_path: Path, changes: dict[str, Any]) -> None:
    outcome = job(tmp_path, **changes)
    assert outcome, "\n".join(outcome.report.lines())
    variants = outcome.bundle.variants
    stages = {stage.name: stage for stage in outcome.report.stages}
    for name, variant in variants.items():
        stage = stages[f"{name}@openvino"]
        assert (stage.backend, stage.passed, bool(stage.comparisons)) == ("openvino", True, True)
        assert {"pytorch", "fp32"} & {comparison.reference for comparison in stage.comparisons}
        assert variant.speed is not None
        other = variant.speed.backends["openvino"]
        assert other.verified
        assert other.milliseconds > 0
        assert f"{name} on openvino {other.ratio:.2f}" in outcome.notes[-1]
    assert variants["fp32"].speed.ratio == 1  # type: ignore[union-attr]
    assert "openvino" in outcome.bundle.manifest.tools
    assert outcome.bundle.parity()["failed_elsewhere"] == []


def test_references_run_once_and_one_backend_is_verified_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    ran: list[str] = []
    with_torch, with_openvino = TorchSession._run, OpenVinoSession._run

    def of_torch(self: Any, feed: Any, outputs: Any) -> Any:
        asked.append(b"".join(array.tobytes() for array in feed.values()))
        return with_torch(self, feed, outputs)

    def of_openvino(self: Any, feed: Any, outputs: Any) -> Any:
        ran.append(self._where)
        return with_openvino(self, feed, outputs)

    monkeypatch.setattr(TorchSession, "_run", of_torch)
    monkeypatch.setattr(OpenVinoSession, "_run", of_openvino)
    assert job(tmp_path, measure_seconds=0)
    golden = 1
    assert len(asked) <= len(set(asked)) + golden
    order = list(dict.fromkeys(ran))
    assert len(order) == 3
    assert ran == sorted(ran, key=order.index), (
        "each is done before the next is opened, so that batches of one take memory"
    )


def test_a_variant_that_goes_wrong_there_stays_good_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(OpenVinoSession):
        """Shifts the classes of quantized graphs by one."""

        def _run(self, feed: Any, outputs: Any) -> Any:
            found = super()._run(feed, outputs)
            return (
                {name: np.roll(array, 1, axis=1) for name, array in found.items()} if "int8" in self._where else found
            )

    monkeypatch.setattr(backends, "OpenVinoSession", Wrong)
    outcome = job(tmp_path)
    assert outcome
    bundle = outcome.bundle
    assert bundle.manifest.verified
    assert not bundle.variants["int8"].verified_on("openvino")
    assert bundle.variants["int8"].verified_on("onnxruntime")
    assert bundle.variants["fp32"].verified_on("openvino")
    assert any(note.startswith("int8 failed verification on openvino: ") for note in outcome.notes)
    failed = bundle.parity()["failed_elsewhere"]
    assert [stage["name"] for stage in failed] == ["int8@openvino", "int8-cpu@openvino"]  # type: ignore[index,attr-defined]
    assert str(bundle.choose()) not in ("int8 on openvino", "int8-cpu on openvino")
    with pytest.raises(BundleUnverifiedError, match="int8 failed verification on openvino"):
        bundle.session("int8", "openvino")


def test_what_openvino_refuses_runs_on_onnxruntime(tmp_path: Path) -> None:
    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.offset, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 18, 3), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(deform_conv2d(x, self.offset(x), self.conv.weight, self.conv.bias).mean((2, 3)))

    torch.manual_seed(0)
    outcome = job(tmp_path, Deformable().eval(), int8=False)
    assert outcome, "\n".join(outcome.report.lines())
    (note,) = [note for note in outcome.notes if "onnxruntime alone" in note]
    assert note.startswith("fp32: onnxruntime alone, because OpenVINO cannot load this: it has no operator DeformConv")
    assert "--deform gridsample" in note
    assert not outcome.bundle.variants["fp32"].speed.backends  # type: ignore[union-attr]
    assert str(outcome.bundle.choose()) == "fp32 on onnxruntime"


@pytest.mark.parametrize("how", ["absent", "tensorrt"])
def test_not_tried_without_it_or_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "absent":
        monkeypatch.setitem(sys.modules, "openvino", None)
    outcome = job(tmp_path, target="tensorrt" if how == "tensorrt" else "cpu")
    assert outcome
    assert not [stage for stage in outcome.report.stages if "@" in stage.name]
    assert set(outcome.timings) == set(outcome.bundle.variants)
    assert not [note for note in outcome.notes if "openvino" in note.lower()]
