"""``edgecnn verify``, with --bisect, through the command line's own function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parity_bundles import doubled, save_pictures, write_bundle
from tiny_bundle import edit_manifest

from edgecnn import runtime
from edgecnn.cli.__main__ import run
from edgecnn.errors import BundleUnverifiedError
from edgecnn.runtime import Bundle


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bad"), {"int8": doubled("dw.weight")})


def test_an_honest_bundle_exits_with_0(honest: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(honest.path), "--bisect", "--threads", "1"]) == 0
    shown = capsys.readouterr()
    assert "verified: preprocess, fp16, int8 agree with fp32" in shown.out
    assert "no layer of model.int8.onnx departs from model.fp32.onnx: noise adds up over the layers to" in shown.out
    assert "FAILED" not in shown.out
    assert shown.err == ""


def test_a_breach_exits_with_3_and_names_variant_and_layer(bad: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(bad.path), "--bisect"]) == 3
    shown = capsys.readouterr()
    assert "NOT verified: int8 (int8) is the first stage that departs from fp32" in shown.out
    assert "would pass: min_sqnr_db=" in shown.out
    finding = "model.int8.onnx first departs from model.fp32.onnx at the quantized weights 'dw.weight'"
    assert finding in " ".join(shown.out.split())
    assert "no layer of model.fp16.onnx departs" in shown.out
    assert "UNVERIFIED" in shown.err


def test_without_bisect_no_layer_is_named(bad: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(bad.path)]) == 3
    assert "dw.weight" not in capsys.readouterr().out


def test_json_is_one_document_with_the_verdict_and_the_layer(bad: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(bad.path), "--bisect", "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert (data["passed"], data["first_departure"], data["bundle"]) == (False, "int8", str(bad.path))
    assert data["untrained"] is False
    assert data["bisect"]["int8"]["first"]["tensor"] == "dw.weight_dequantized"
    assert data["bisect"]["fp16"]["first"] is None
    assert run(["verify", str(bad.path), "--json"]) == 3
    assert "bisect" not in json.loads(capsys.readouterr().out)


def test_swapped_mean_and_std_in_the_manifest_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path, precisions=("fp32",)).path

    def swap(data: dict[str, Any]) -> None:
        for place in (data["preprocess"], data["model"]["preprocess"]):
            place["mean"], place["std"] = place["std"], place["mean"]

    edit_manifest(bundle, swap)
    assert run(["verify", str(bundle)]) == 3
    out = capsys.readouterr().out
    assert "NOT verified: preprocess (fp32) is the first stage that departs" in out
    assert "golden pictures give other tensors than recorded" in out


def test_pictures_of_ones_own(honest: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pictures(tmp_path / "mine", 3)
    assert run(["verify", str(honest.path), "--data", str(tmp_path / "mine"), "--json"]) == 0
    used = json.loads(capsys.readouterr().out)["samples"]
    assert [(item["name"], item["count"]) for item in used if item["kind"] == "images"] == [
        ("golden images", 4),
        ("mine", 3),
    ]
    assert run(["verify", str(honest.path), "--data", str(tmp_path / "absent")]) == 1
    assert f"error: no folder at {tmp_path / 'absent'}" in capsys.readouterr().err


def test_no_bundle_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err


def test_a_bundle_that_failed_is_marked_and_refused_unless_allowed(bad: Bundle, honest: Bundle) -> None:
    manifest = json.loads((bad.path / "manifest.json").read_text())
    assert manifest["verified"] is False
    assert {name: variant["verified"] for name, variant in manifest["variants"].items()} == {
        "fp32": True,
        "fp16": True,
        "int8": False,
    }
    for variant in ("fp32", "int8"):
        with pytest.raises(BundleUnverifiedError, match="failed verification when it was written"):
            runtime.load(bad.path, variant)
        with runtime.load(bad.path, variant, allow_unverified=True) as session:
            assert session.inputs[0].name == "input"
    with runtime.load(honest.path, "int8") as session:
        assert session.inputs[0].name == "input"
