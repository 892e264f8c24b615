"""What each command prints: one JSON document under --json, the same for a reader without it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_tools import SIZE, Cli, listing
from PIL import Image
from tiny_bundle import LABELS, photos, write_model, write_tiny

from edgecnn import doctor
from edgecnn.cli.__main__ import run
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, Classifier

STAMP = "warning: UNTRAINED: the weights are random numbers, so predictions mean nothing"


@pytest.fixture(scope="module")
def untrained(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a network with random weights, without saying where to."""
    folder = tmp_path_factory.mktemp("exported")
    with chdir(folder):
        assert run(["export", f"{net}:build", *SIZE, "--weights", "random"]) == 0
    return folder / "net-fp32"


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose int8-cpu variant gives 0.9 times fp32's logits: an SQNR of 20 dB, and the same best classes."""
    folder = tmp_path_factory.mktemp("scaled")
    models = write_model(folder, "fp32"), write_model(folder, "int8-cpu", scale=0.9)
    return write_tiny(folder, variants=[VariantContents(model=model, verified=True) for model in models]).path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Return four picture files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(4)]
    for path, pixels in zip(paths, photos(4), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def test_models(cli: Cli) -> None:
    rows = cli("models", "--json").document["models"]
    assert len({row["name"] for row in rows}) == len(rows) > 50
    (row,) = cli("models", "resnet50", "--json").document["models"]
    assert (row["family"], row["input_size"], row["num_classes"], row["default_weights"]) == (
        "resnet",
        [3, 224, 224],
        1000,
        "IMAGENET1K_V2",
    )
    assert row["num_params"] == pytest.approx(25.6e6, rel=0.01)
    assert [entry["name"] for entry in row["weights"]] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]


def test_models_for_a_reader(cli: Cli) -> None:
    lines = cli("models").out.splitlines()
    (line,) = [line for line in lines if " resnet50 " in line]
    assert line.split() == ["resnet50", "resnet", "3x224x224", "25.6", "4.09", "IMAGENET1K_V2", "80.86"]
    assert "https://download.pytorch.org/models/resnet50-11ad3fa6.pth\n" in cli("models", "resnet50").out


def test_doctor(cli: Cli) -> None:
    result = cli("doctor", "--json")
    document = result.document
    assert result.code == (0 if document["ok"] else 1)
    assert set(document) == {"edgecnn", "machine", "packages", "providers", "findings", "ok"}
    assert "CPUExecutionProvider" in document["providers"]
    versions = {row["distribution"]: row["version"] for row in document["packages"]}
    assert versions["onnxruntime"]
    for row in document["packages"]:
        assert (row["install"] is None) == (row["version"] is not None)


def test_doctor_says_what_is_missing_and_the_line_that_installs_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime": "1.32.0", "onnx": "1.23.2"}
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, ""))
    result = cli("doctor")
    assert (result.code, result.err) == (0, "")
    assert (
        "note: torch is missing: export, parity against PyTorch\n    -> pip install 'edgecnn[export]'\n" in result.out
    )
    table = {line.split()[0]: line for line in result.out.splitlines() if line.startswith(" ") and line.split()}
    assert "pip install 'edgecnn[gpu]'" in table["onnxruntime-gpu"]
    assert "pip install tensorrt" in table["tensorrt"]
    assert "1.23.2" in table["onnx"]
    assert "pip" not in table["onnx"]
    del installed["onnxruntime"]
    result = cli("doctor")
    assert result.code == 1
    assert "error: no onnxruntime" in result.out


@pytest.mark.parametrize("bad", doctor.KNOWN_BAD, ids=lambda bad: bad.what[:40])
def test_doctor_shows_a_known_bad_combination(cli: Cli, monkeypatch: pytest.MonkeyPatch, bad: doctor.KnownBad) -> None:
    here = replace(doctor.machine(), arch="x86_64", cpu_flags=frozenset({"avx2"}), nvidia="jetson")
    if "RTX" in bad.what:
        here = replace(here, arch="aarch64")
    installed = {"onnxruntime": "1.20.1", "tensorrt": "11.1.0.3", "tensorrt-rtx": "1.7.1"}
    if "overwrite" in bad.what:
        installed["onnxruntime-gpu"] = "1.32.0"
    if "1.29" in bad.what:
        installed["onnxruntime"] = "1.29.0"
    if "10.2.0" in bad.what:
        installed["tensorrt"] = "10.2.0"
    if "before 10 " in bad.what:
        installed["tensorrt"] = "8.6.1"
    if "openvino" in bad.what.lower():
        installed["openvino"] = "2026.4.1"
    if "bfloat16" in bad.what:
        here = replace(here, cpu_flags=frozenset({"avx2", "avx512_bf16"}))
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, ""))
    monkeypatch.setattr(doctor, "machine", lambda: here)
    result = cli("doctor", "--json")
    found = {row["what"]: row for row in result.document["findings"]}
    assert found[bad.what]["todo"] == bad.todo
    assert found[bad.what]["level"] == bad.level
    assert bad.what in cli("doctor").out
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    monkeypatch.setattr(doctor, "machine", lambda: replace(here, arch="riscv64"))
    assert bad.what not in cli("doctor").out


def test_wheels_named_after_their_cuda_version_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tensorrt-cu12":
            return "10.9.0.34"
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = {package.distribution: package.version for package in doctor.diagnose().packages}
    assert found["tensorrt"] == "10.9.0.34"
    assert found["tensorrt-rtx"] == ""


def test_inspect_a_bundle(cli: Cli, tiny: Path) -> None:
    result = cli("inspect", tiny, "--json")
    assert (result.code, result.err) == (0, "warning: calibrated on the built-in photos\n")
    document = result.document
    assert (document["kind"], document["path"], document["default_variant"]) == ("bundle", str(tiny), "int8-cpu")
    assert document["manifest"]["model"]["name"] == "tiny"
    assert list(document["manifest"]["variants"]) == ["fp32", "int8-cpu"]
    out = cli("inspect", tiny, "--layers").out
    assert "tiny: 5 classes" in out
    assert "input   input: float32 (batch, 3, 32, 32)" in out
    assert "mean 0.485,0.456,0.406, std 0.229,0.224,0.225" in out
    assert "verified against PyTorch" in out


def test_inspect_an_onnx_file(cli: Cli, tiny: Path) -> None:
    document = cli("inspect", tiny / "model.fp32.onnx", "--json").document
    assert (document["kind"], document["opset"], document["nodes"]) == ("onnx", 20, 5)
    assert document["operators"] == {"Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1}
    assert (document["weighted_layers"], document["int8_layers"]) == (2, 0)
    assert document["inputs"] == [{"name": "input", "shape": ["batch", 3, 32, 32], "dtype": "float32"}]
    assert "0 of 2 convolutions and Gemms in INT8" in cli("inspect", tiny / "model.fp32.onnx").out


def test_predict(cli: Cli, tiny: Path, pictures: list[Path]) -> None:
    result = cli("predict", tiny, *pictures, "--top", "2", "--json")
    assert (result.code, result.err) == (0, "")
    document = result.document
    assert set(document) == {"bundle", "variant", "backend", "untrained", "results", "failed"}
    assert (document["variant"], document["untrained"], document["failed"]) == ("int8-cpu", False, [])
    with Classifier(tiny) as classify:
        for path, row in zip(pictures, document["results"], strict=True):
            assert row["image"] == str(path)
            assert [p["label"] for p in row["predictions"]] == [p.label for p in classify(path, 2)]
            assert row["predictions"][0]["label"] == LABELS[row["predictions"][0]["index"]]
    assert cli("predict", tiny, pictures[0], "--variant", "fp32", "--json").document["variant"] == "fp32"


def test_predict_for_a_reader(cli: Cli, tiny: Path, pictures: list[Path]) -> None:
    (best, second) = cli("predict", tiny, pictures[0], "--top", "2", "--json").document["results"][0]["predictions"]
    lines = cli("predict", tiny, pictures[0], "--top", "2").out.split("\n")
    assert lines == [f"{100 * p['probability']:6.2f} %  {p['label']}" for p in (best, second)] + [""]
    assert cli("predict", tiny, *pictures[:2]).out.count("0.png:\n") == 1


def test_one_bad_image_does_not_stop_the_others(cli: Cli, tiny: Path, pictures: list[Path]) -> None:
    pictures[1].write_bytes(b"no picture")
    result = cli("predict", tiny, *pictures, "--json")
    assert result.code == 1
    assert [row["image"] for row in result.document["results"]] == [str(pictures[i]) for i in (0, 2, 3)]
    (failed,) = result.document["failed"]
    assert failed["image"] == str(pictures[1])
    assert result.err == f"error: {failed['error']}\n"


def labelled(cli: Cli, bundle: Path, pictures: list[Path], right: int) -> list[int]:
    """Return a class for each picture: fp32's best one for the first ``right``, another one for the rest."""
    document = cli("predict", bundle, *pictures, "--variant", "fp32", "--json").document
    best = [row["predictions"][0]["index"] for row in document["results"]]
    return [index if position < right else (index + 1) % 5 for position, index in enumerate(best)]


def test_evaluate_a_flat_folder_with_labels(cli: Cli, scaled: Path, pictures: list[Path]) -> None:
    classes = labelled(cli, scaled, pictures, right=3)
    rows = "".join(f"{path.name},{index}\n" for path, index in zip(pictures, classes, strict=True))
    (pictures[0].parent / "labels.csv").write_text("file,label\n" + rows)
    result = cli("evaluate", scaled, "--data", pictures[0].parent, "--json")
    assert (result.code, result.err) == (0, "")
    assert set(result.document) == {"variants"}
    fp32, other = result.document["variants"]
    assert fp32 == {
        "variant": "fp32",
        "images": 4,
        "top1": 75,
        "top5": 100,
        "agreement": 100,
        "sqnr_db": None,
        "mean_kl": 0,
    }
    assert (other["variant"], other["images"], other["top1"], other["agreement"]) == ("int8-cpu", 4, 75, 100)
    assert other["sqnr_db"] == pytest.approx(20, abs=0.01)
    assert 0 < other["mean_kl"] < 0.1
    table = cli("evaluate", scaled, "--data", pictures[0].parent).out
    assert "int8-cpu        4      75.0     100.0         100.0      20.0" in table


def test_evaluate_an_image_folder(cli: Cli, scaled: Path, pictures: list[Path], tmp_path: Path) -> None:
    for path, index in zip(pictures, labelled(cli, scaled, pictures, right=2), strict=True):
        folder = tmp_path / "classes" / LABELS[index]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    arguments = ("evaluate", scaled, "--data", tmp_path / "classes", "--json")
    (row,) = cli(*arguments, "--variant", "int8-cpu").document["variants"]
    assert (row["variant"], row["images"], row["top1"]) == ("int8-cpu", 4, 50)
    assert [row["images"] for row in cli(*arguments, "--limit", "3").document["variants"]] == [3, 3]


def test_evaluate_without_labels_or_with_a_bad_image_says_so(cli: Cli, scaled: Path, pictures: list[Path]) -> None:
    for copy in range(10):
        shutil.copy(pictures[1], pictures[1].with_name(f"copy{copy}.png"))
    pictures[0].write_bytes(b"no picture")
    result = cli("evaluate", scaled, "--data", pictures[0].parent, "--json")
    assert result.code == 0
    assert [row["images"] for row in result.document["variants"]] == [13, 13]
    assert [row["top1"] for row in result.document["variants"]] == [None, None]
    assert result.document["variants"][1]["agreement"] == 100
    skipped, no_labels = result.err.splitlines()
    assert skipped == f"warning: skipped {pictures[0]}: not an image that Pillow can read"
    assert no_labels.startswith("warning: no accuracy, only agreement with fp32: no labels")


def test_quantize_prints_one_document(cli: Cli, tiny: Path, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    result = cli("quantize", tiny / "model.fp32.onnx", "--calib", pictures[0].parent, "-o", out, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["out"] == str(out)
    assert result.document["placement"]["quantized"] > 0
    assert [score["method"]["name"] for score in result.document["chosen"]["scores"]].count("percentile") == 2
    assert cli("inspect", out, "--json").document["int8_layers"] > 0
    plain = cli("quantize", tiny / "model.fp32.onnx", "--calib", pictures[0].parent, "-o", out, "--force")
    assert plain.out.startswith("ranges by ")
    assert "; the reasons: --layers, or --json" in plain.out
    shown = cli(
        *["quantize", "--force", "--effort", "fast", "--layers", "--calib"],
        pictures[0].parent,
        "-o",
        out,
        tiny / "model.fp32.onnx",
    ).out
    (reason,) = {one["reason"] for one in result.document["placement"]["decisions"] if one["op"] == "Conv"}
    assert reason[:40] in shown
    assert "the reasons" not in shown
    assert "'edgecnn quantize --layers' shows its own" in cli("inspect", out, "--layers").failed(2)
    fixed = cli(
        "quantize",
        tiny / "model.fp32.onnx",
        "--calib",
        pictures[0].parent,
        "-o",
        out,
        "--method",
        "mse",
        "--force",
        "--json",
    )
    assert fixed.document["chosen"] is None


def test_random_weights_stamp_the_bundle_and_every_reader_says_so(
    cli: Cli, untrained: Path, pictures: list[Path]
) -> None:
    assert Bundle.open(untrained).untrained
    for arguments in (
        ("predict", untrained, pictures[0]),
        ("evaluate", untrained, "--data", pictures[0].parent),
        ("verify", untrained),
        ("inspect", untrained),
    ):
        for extra in ((), ("--json",)):
            result = cli(*arguments, *extra)
            assert result.code == 0
            assert result.err.splitlines()[0] == STAMP
        assert result.document
    assert cli("verify", untrained, "--json").document["untrained"] is True
    assert cli("predict", untrained, pictures[0], "--json").document["untrained"] is True


def test_a_bundle_tells_nothing_of_the_folders_it_was_made_in(cli: Cli, net: Path, tmp_path: Path) -> None:
    labels = tmp_path / "classes.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    out = tmp_path / "bundle"
    assert cli("export", f"{net}:build", *SIZE, "--labels", labels, "-o", out).code == 0
    found = Bundle.open(out).manifest
    assert (found.model.builder, found.weights.source, found.model.labels) == (
        "net.py:build",
        "net.py:build",
        "classes.txt",
    )
    for path in out.iterdir():
        for folder in (tmp_path, net.parent):
            assert str(folder).encode() not in path.read_bytes(), path.name


def test_an_unverified_bundle_is_refused_unless_asked_for(cli: Cli, pictures: list[Path], tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path, verified=False).path
    assert "failed verification" in cli("predict", bundle, pictures[0]).failed()
    result = cli("predict", bundle, pictures[0], "--allow-unverified")
    assert (result.code, result.err.split(":")[:2]) == (0, ["warning", " UNVERIFIED"])
    assert "NOT verified" in cli("inspect", bundle).out


def test_the_default_folder_is_the_model_and_its_precision_and_needs_force(
    cli: Cli, untrained: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert untrained.name == "net-fp32"
    monkeypatch.chdir(untrained.parent)
    before = (untrained / "manifest.json").read_bytes()
    assert "--force" in cli("export", f"{net}:build", *SIZE).failed()
    assert (untrained / "manifest.json").read_bytes() == before
    (untrained.parent / "mine").mkdir()
    (untrained.parent / "mine" / "thesis.tex").write_text("years of work")
    line = cli("export", f"{net}:build", *SIZE, "-o", "mine", "--force").failed()
    assert "will not be replaced, even by force" in line
    assert listing(untrained.parent / "mine") == {untrained.parent / "mine" / "thesis.tex"}


def test_export_prints_one_document_and_replaces_by_force(cli: Cli, net: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(tiny, out)
    result = cli("export", f"{net}:build", *SIZE, "-o", out, "--force", "--json")
    assert (result.code, result.err) == (0, "")
    document: Any = result.document
    assert (document["bundle"], document["verified"], document["untrained"]) == (str(out), True, False)
    assert Bundle.open(out).spec.name == "net"
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_progress_bars_on_a_terminal_alone(scaled: Path, pictures: list[Path]) -> None:
    command = [sys.executable, "-m", "edgecnn", "evaluate", str(scaled), "--data", str(pictures[0].parent)]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "evaluate" in shown
    assert "4/4" in shown
    assert b"\x1b" not in done.stdout
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in quiet.stderr.splitlines() if not line.startswith("warning: no accuracy")] == []


def test_nothing_is_left_in_temporary_or_home_folders(scaled: Path, pictures: list[Path], tmp_path: Path) -> None:
    """onnxruntime's telemetry would keep a session there, and an identifier of the machine."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "EDGECNN_CACHE": ""}
    command = [sys.executable, "-m", "edgecnn", "predict", str(scaled), str(pictures[0])]
    subprocess.run(command, capture_output=True, timeout=60, check=True, env=environment)
    assert listing(home) == set()


def test_text_that_looks_like_markup_is_printed_as_it_is(cli: Cli, tmp_path: Path) -> None:
    placement = {"quantized": 1, "float": 0, "decisions": [
        {"node": "a[0]/Conv", "op": "Conv", "quantized": True, "reason": "[bold]because[/bold] :smile:"},
    ]}  # fmt: skip
    variants = [VariantContents(model=write_model(tmp_path, "int8"), verified=True, placement=placement)]
    bundle = write_tiny(tmp_path, variants=variants).path
    out = cli("inspect", bundle, "--layers").out
    assert " a[0]/Conv   Conv       yes    [bold]because[/bold] :smile:" in out
