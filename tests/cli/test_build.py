"""``edgecnn build``: engines into a bundle, or one line that says why not and nothing changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Cli, listing
from tiny_bundle import CLASSES, contents, photos, write_model, write_tiny

from edgecnn.artifacts import sha256_file
from edgecnn.pack import VariantContents
from edgecnn.runtime import Bundle, Classifier

RTX = ("--target", "tensorrt-rtx")


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    """Return a bundle of one's own."""
    return Path(shutil.copytree(tiny, tmp_path / "bundle"))


def state(folder: Path) -> dict[Path, str]:
    """Return the content of a folder."""
    return {path: sha256_file(path) for path in sorted(listing(folder)) if path.is_file()}


@pytest.fixture
def rtx() -> None:
    """Skip where TensorRT-RTX is not installed."""
    pytest.importorskip("tensorrt_rtx")


@pytest.mark.usefixtures("rtx")
def test_engines_go_into_the_bundle(cli: Cli, bundle: Path) -> None:
    before = state(bundle)
    result = cli("build", bundle, *RTX, "--json")
    assert (result.code, result.err) == (0, "")
    document = result.document
    assert document["passed"] is True
    assert list(document["engines"]) == ["fp32"]
    engine = document["engines"]["fp32"]
    plan = bundle / "engine.fp32.tensorrt-rtx.plan"
    assert (engine["file"], engine["bytes"], engine["sha256"]) == (plan.name, plan.stat().st_size, sha256_file(plan))
    opened = Bundle.open(bundle)
    record = opened.manifest.engines["fp32.tensorrt-rtx"]
    assert record.facts.passed
    assert record.facts.to_json() | {"sha256": engine["sha256"]} == {
        key: engine[key] for key in (*record.facts.to_json(), "sha256")
    }
    assert record.facts.model_sha256 == sha256_file(opened.model_path("fp32"))
    after = state(bundle)
    assert {path for path in before if after[path] != before[path]} == {bundle / "manifest.json"}
    with Classifier(bundle) as classify:
        assert len(classify(photos()[0], top=CLASSES)) == CLASSES
    assert "fp32.tensorrt-rtx" in cli("inspect", bundle).out


@pytest.mark.usefixtures("rtx")
def test_a_device_needs_no_torch_and_no_onnx(bundle: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'onnxsim', 'onnxruntime', 'skimage'):\n"
        "    sys.modules[name] = None\nfrom edgecnn.cli.__main__ import run\n"
        f"sys.exit(run(['build', {str(bundle)!r}, '--target', 'tensorrt-rtx']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert Bundle.open(bundle).manifest.engines["fp32.tensorrt-rtx"].facts.passed


@pytest.mark.usefixtures("rtx")
def test_an_engine_is_replaced_by_the_next_of_its_kind(cli: Cli, bundle: Path) -> None:
    assert cli("build", bundle, *RTX).code == 0
    first = Bundle.open(bundle).manifest
    shown = cli("build", bundle, *RTX, "--batch", "1:4:8", "--workspace", "64M").out
    assert "fp32 tensorrt-rtx" in shown
    assert str(bundle / "engine.fp32.tensorrt-rtx.plan") in shown
    second = Bundle.open(bundle).manifest
    assert second.files.keys() == first.files.keys()
    facts = second.engines["fp32.tensorrt-rtx"].facts
    assert [shape[0] for shape in facts.profile["input"]] == [1, 4, 8]
    assert (facts.options["batch"], facts.options["workspace"]) == ("1:4:8", 64 << 20)


@pytest.mark.usefixtures("rtx")
def test_a_breached_audit_exits_with_3_and_is_recorded(cli: Cli, tmp_path: Path) -> None:
    variants = [VariantContents(model=write_model(tmp_path, name), verified=True) for name in ("fp32", "int8")]
    path = write_tiny(tmp_path, variants=variants, ranges={}).path
    result = cli("build", path, *RTX)
    assert result.code == 3
    assert "warning: engine of int8: INT8 was asked for, and none of 1 convolutions is INT8" in result.err
    assert "NO" in result.out
    engines = Bundle.open(path).manifest.engines
    assert {name: one.facts.passed for name, one in engines.items()} == {
        "fp32.tensorrt-rtx": True,
        "int8.tensorrt-rtx": False,
    }
    result = cli("build", path, *RTX, "--variant", "int8", "--json")
    assert (result.code, result.document["passed"]) == (3, False)
    assert cli("build", path, *RTX, "--variant", "fp32").code == 0


CASES: dict[str, tuple[list[str], str]] = {
    "cpu variant": ([*RTX, "--variant", "int8-cpu"], r"int8-cpu is for the kernels of CPUs; build fp32"),
    "unknown variant": ([*RTX, "--variant", "int4"], r"no variant 'int4'; it has fp32, int8-cpu"),
    "timing cache": ([*RTX, "--timing-cache", "x"], r"has no timing cache: .*leave it out"),
    "dla": ([*RTX, "--dla", "0"], r"has no DLA: .*--target tensorrt on the Jetson"),
    "strip": ([*RTX, "--strip-weights"], r"needs an NVIDIA GPU, and there is none here"),
    "gpu": ([*RTX, "--gpu", "8.7"], r"cannot build for compute capability 8\.7; it can for 7\.5"),
    "turing": ([*RTX, "--gpu", "7.5"], r"FP32 GEMM is not supported.*build the fp16"),
}


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_built_is_one_line_and_changes_nothing(
    cli: Cli, bundle: Path, own_folders: Path, case: str
) -> None:
    import re

    words, message = CASES[case]
    before = state(bundle)
    assert re.search(message, cli("build", bundle, *words).failed())
    assert cli("build", bundle, *words, "--json").document["error"]["message"]
    assert state(bundle) == before
    assert {path.name for path in bundle.parent.iterdir()} == {"bundle"}
    assert not [path for path in listing(own_folders) if not path.name.startswith("torchinductor_")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing option '--target'"),
        (["--target", "tensorflow"], "'tensorflow' is not one of 'tensorrt', 'tensorrt-rtx'"),
        ([*RTX, "--level", "9"], "9 is not in the range 0<=x<=5"),
        ([*RTX, "--batch", "8:1"], "batch '8:1' is neither a size, such as 8, nor least:best:most, such as 1:8:32"),
        ([*RTX, "--batch", "8:4:32"], "batch 8:4:32: the sizes must rise"),
        ([*RTX, "--workspace", "lots"], "'lots' is not an amount of memory"),
        ([*RTX, "--gpu", "ampere"], "gpu 'ampere' is not a compute capability, such as 8.6"),
    ],
)
def test_wrong_usage(cli: Cli, bundle: Path, words: list[str], message: str) -> None:
    assert message in cli("build", bundle, *words).failed(2)


@pytest.mark.parametrize(
    ("target", "module", "line"),
    [
        ("tensorrt", "tensorrt", "this needs tensorrt, which is not installed: pip install tensorrt"),
        ("tensorrt-rtx", "tensorrt_rtx", "which is not installed: pip install 'edgecnn[rtx]'"),
    ],
)
def test_without_the_package(
    cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch, target: str, module: str, line: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert line in cli("build", bundle, "--target", target).failed()


@pytest.mark.usefixtures("rtx")
def test_a_bundle_that_failed_verification(cli: Cli, tmp_path: Path) -> None:
    path = write_tiny(tmp_path, verified=False).path
    assert "failed verification when it was written" in cli("build", path, *RTX).failed()
    result = cli("build", path, *RTX, "--allow-unverified")
    assert result.code == 0
    assert "warning: UNVERIFIED" in result.err
    assert not Bundle.open(path, allow_unverified=True).manifest.verified


@pytest.mark.usefixtures("rtx")
def test_a_variant_that_failed_verification(cli: Cli, tmp_path: Path) -> None:
    path = write_tiny(tmp_path, variants=[VariantContents(model=write_model(tmp_path))], ranges={}).path
    assert "has no verified variant for TensorRT; it has fp32" in cli("build", path, *RTX).failed()
    named = cli("build", path, *RTX, "--variant", "fp32").failed()
    assert "fp32 failed verification; building it all the same needs --allow-unverified" in named
    assert cli("build", path, *RTX, "--variant", "fp32", "--allow-unverified").code == 0


@pytest.mark.usefixtures("rtx")
def test_a_folder_with_files_of_the_users_own_is_not_replaced(cli: Cli, bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    before = state(bundle)
    assert "hold" in cli("build", bundle, *RTX).failed()
    assert state(bundle) == before


@pytest.mark.usefixtures("rtx")
def test_a_place_without_permission(cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle.parent and real(path, mode))
    before = state(bundle)
    assert "Permission denied" in cli("build", bundle, *RTX).failed()
    assert state(bundle) == before


def test_a_graph_that_is_not_the_engines_is_refused(tmp_path: Path, rtx: None) -> None:
    from edgecnn.engine import BuildConfig, build
    from edgecnn.errors import UserError
    from edgecnn.pack import add_engines, pack

    options: dict[str, Any] = {"target": "tensorrt-rtx"}
    other = write_model(tmp_path, "fp32", bias=1.0)
    engine = build(other, BuildConfig(**options), to=tmp_path / "x.plan")
    (tmp_path / "own").mkdir()
    made = pack(tmp_path / "bundle", contents(tmp_path / "own"))
    with pytest.raises(UserError, match=r"was built from another graph than .*'s fp32"):
        add_engines(made, [("fp32", engine)])
    engine.path.write_bytes(b"cut")
    same = pack(tmp_path / "same", contents(tmp_path, [VariantContents(model=other, verified=True)], ranges={}))
    with pytest.raises(UserError, match=r"x\.plan is gone, or was changed"):
        add_engines(same, [("fp32", engine)])
    assert Bundle.open(tmp_path / "same").manifest.engines == {}
