"""``--backend`` of the commands that run a bundle."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from cli_tools import Cli
from PIL import Image
from tiny_bundle import photos, write_model, write_tiny

from edgecnn.pack import VariantContents
from edgecnn.runtime import Speed
from edgecnn.runtime.manifest import BackendSpeed
from edgecnn.runtime.ort import available_providers


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that was measured to be faster on OpenVINO, int8 most of all."""
    folder = tmp_path_factory.mktemp("fast")
    packed = []
    for name, own, other in (("fp32", 1.0, 0.8), ("int8", 1.4, 0.3), ("int8-cpu", 0.5, 0.4)):
        there = {"openvino": BackendSpeed(milliseconds=other, ratio=other, verified=True)}
        speed = Speed(milliseconds=own, ratio=own, machine=platform.machine(), backends=there)
        packed.append(VariantContents(model=write_model(folder, name), verified=True, speed=speed))
    return write_tiny(folder, variants=packed).path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return a picture's file."""
    path = tmp_path / "a.png"
    Image.fromarray(photos()[0]).save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ((), ("int8", "openvino")),
        (("--backend", "openvino", "--threads", "1"), ("int8", "openvino")),
        (("--backend", "onnxruntime"), ("int8-cpu", "onnxruntime")),
        (("--backend", "openvino", "--variant", "fp32"), ("fp32", "openvino")),
    ],
)
def test_predict(cli: Cli, fast: Path, picture: Path, arguments: tuple[str, ...], ran: tuple[str, str]) -> None:
    document = cli("predict", fast, picture, "--json", *arguments).document
    assert (document["variant"], document["backend"]) == ran
    assert len(document["results"][0]["predictions"]) == 5


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_verify(cli: Cli, fast: Path, backend: str) -> None:
    result = cli("verify", fast, "--backend", backend, "--json")
    assert result.code == 0, result.out
    ran = {stage["name"]: stage["backend"] for stage in result.document["stages"] if stage["name"] != "preprocess"}
    assert ran == dict.fromkeys(("fp32", "int8", "int8-cpu"), backend)


def test_evaluate(cli: Cli, fast: Path, picture: Path) -> None:
    result = cli("evaluate", fast, "--data", picture.parent, "--backend", "auto")
    assert result.code == 0, result.err
    rows = {line.split()[0]: line.split()[-1] for line in result.out.splitlines() if len(line.split()) > 1}
    assert {rows[name] for name in ("fp32", "int8", "int8-cpu")} == {"openvino"}
    result = cli("evaluate", fast, "--data", picture.parent, "--backend", "onnxruntime", "--variant", "int8-cpu")
    assert "int8-cpu" in result.out
    assert "openvino" not in result.out


def test_a_provider_is_onnxruntimes(cli: Cli, fast: Path, picture: Path) -> None:
    assert "--provider cuda is onnxruntime's" in cli(
        "predict", fast, picture, "--backend", "openvino", "--provider", "cuda"
    ).failed(2)


def test_verify_on_a_provider_that_is_not_here_fails_and_names_those_that_are(cli: Cli, fast: Path) -> None:
    if "CUDAExecutionProvider" in available_providers():
        pytest.skip("this onnxruntime has it")
    result = cli("verify", fast, "--provider", "cuda", "--json")
    assert result.code == 3
    problems = {
        stage["name"]: stage["problems"] for stage in result.document["stages"] if stage["name"] != "preprocess"
    }
    assert list(problems) == ["fp32", "int8", "int8-cpu"]
    for (problem,) in problems.values():
        assert "has no CUDAExecutionProvider; available: " in problem
        assert "CPUExecutionProvider" in problem
