"""The main job without a single picture: images made from the network, verified on others, recorded in the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_job import SPEC
from torch import nn

from edgecnn.cli.__main__ import run as command
from edgecnn.errors import SpecError
from edgecnn.pipeline import Outcome, PipelineConfig, run


def net(*, norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(8) if norm else nn.Identity()
    head = nn.Linear(8, 4)
    nn.init.normal_(head.weight)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head
    ).eval()


def job(to: Path, module: nn.Module, *, int8: bool = True, calib: str = "synthetic:fast") -> Outcome:
    config = PipelineConfig(
        int8=int8, target="tensorrt", calib=calib, calib_images=6, verify_images=4, measure_seconds=0
    )
    return run(SPEC, config, to=to, module=module)


def test_the_manifest_tells_what_was_made_and_verification_is_independent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    outcome = job(tmp_path / "one", net())
    assert outcome, "\n".join(outcome.report.lines())
    told = outcome.bundle.manifest.calibration
    assert told is not None
    assert (told["kind"], told["name"], told["count"], told["seed"]) == ("synthetic", "synthetic:fast", 6, 0)
    assert any("made from the network itself" in note for note in outcome.notes)
    assert not any("calibration saw too" in note for note in outcome.notes)
    again = job(tmp_path / "two", net()).bundle.manifest.calibration
    assert again is not None
    assert (again["hash"], again["reused"]) == (told["hash"], True)
    assert len(list((tmp_path / "cache" / "calibration").glob("synthetic-*.npy"))) == 1


def test_without_batchnorm_the_photos_serve_and_the_note_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    outcome = job(tmp_path / "net", net(norm=False))
    assert outcome.bundle.manifest.calibration is not None
    assert outcome.bundle.manifest.calibration["kind"] == "photos"
    assert any(note.startswith("the network has no BatchNorm statistics") for note in outcome.notes)
    assert any("calibration saw too" in note for note in outcome.notes)


def test_photos_and_what_is_made_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    outcome = job(tmp_path / "one", net(), calib="photos+synthetic:fast")
    assert outcome, "\n".join(outcome.report.lines())
    told = outcome.bundle.manifest.calibration
    assert told is not None
    assert (told["kind"], told["name"], told["count"]) == ("together", "photos+synthetic:fast", 6)
    assert [(part["kind"], part["count"]) for part in told["parts"]] == [("photos", 5), ("synthetic", 1)]
    for text in ("six built-in photos", "made from the network itself", "calibration saw too"):
        assert any(text in note for note in outcome.notes), text
    again = job(tmp_path / "two", net(), calib="photos+synthetic:fast").bundle.manifest.calibration
    assert again is not None
    assert (again["hash"], again["reused"]) == (told["hash"], True)
    photos = job(tmp_path / "three", net(norm=False), calib="photos+synthetic:fast").bundle.manifest.calibration
    assert photos is not None
    assert (photos["kind"], photos["count"]) == ("photos", 6), "without BatchNorm all of them are photos"


def test_nothing_is_made_for_a_float_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    outcome = job(tmp_path / "net", net(), int8=False)
    assert outcome
    assert not (tmp_path / "cache").exists()
    assert not any("made from the network" in note for note in outcome.notes)


def test_another_word_is_refused_before_the_work() -> None:
    with pytest.raises(SpecError, match="'synthetic:best' is not one of synthetic, synthetic:fast"):
        PipelineConfig(calib="synthetic:best")


def test_quantize_says_what_to_do_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["quantize", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "out.onnx"), "--calib", "synthetic"]
    assert command(asked) == 1
    assert "edgecnn export MODEL --int8 --calib synthetic" in " ".join(capsys.readouterr().err.split())
