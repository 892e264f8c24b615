"""What gets installed: every module and data file, nothing else, and only under ``edgecnn``."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgecnn import __version__
from edgecnn.wheel import wheel_bytes, wheel_name

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a clean copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("edgecnn", "models", "calib", "examples"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(out),
            str(source),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return out / wheel_name()


@pytest.fixture
def wheel(built: Path) -> list[str]:
    """Return the names in the wheel."""
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def expected() -> set[str]:
    """Return the path in the wheel of every file of the source folders that an installation needs."""
    names = set()
    for folder in ("edgecnn", "models", "calib", "examples"):
        prefix = folder if folder == "edgecnn" else f"edgecnn/{folder}"
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                names.add(f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}")
    return names


def test_the_wheel_holds_every_source_file(wheel: list[str]) -> None:
    missing = expected() - set(wheel)
    assert not missing, f"missing from the wheel (packages or package-data in pyproject.toml): {sorted(missing)}"


def test_the_wheel_installs_nothing_outside_edgecnn(wheel: list[str]) -> None:
    extra = {name for name in wheel if not name.startswith(f"edgecnn-{__version__}.dist-info/")} - expected()
    assert not extra, sorted(extra)
    assert f"edgecnn-{__version__}.dist-info/licenses/LICENSE" in wheel
    assert "edgecnn/py.typed" in wheel


def test_the_wheel_holds_what_compiles_the_plugin(wheel: list[str]) -> None:
    sources = {"CMakeLists.txt", "deform_conv2d.cu", "deform_conv2d.hpp", "plugin.cpp", "plugin.hpp", "problem.hpp"}
    assert {f"edgecnn/native/plugin/{name}" for name in sources} <= set(wheel)


def test_the_wheel_that_travels_is_that_of_the_build_backend(built: Path) -> None:
    """The same files with the same content as setuptools packs, a RECORD that is true, and equal bytes a second time."""
    made = wheel_bytes()
    assert wheel_bytes() == made
    info = f"edgecnn-{__version__}.dist-info"
    with zipfile.ZipFile(built) as theirs, zipfile.ZipFile(io.BytesIO(made)) as ours:
        assert ours.testzip() is None
        code = {name for name in theirs.namelist() if ".dist-info/" not in name}
        assert {name for name in ours.namelist() if ".dist-info/" not in name} == code
        assert not [name for name in code if ours.read(name) != theirs.read(name)]
        assert ours.read(f"{info}/entry_points.txt").split() == theirs.read(f"{info}/entry_points.txt").split()
        assert f"{info}/licenses/LICENSE" in ours.namelist()
        rows = {name: digest for name, digest, _ in csv.reader(ours.read(f"{info}/RECORD").decode().splitlines())}
        assert rows == {name: "" if name.endswith("/RECORD") else recorded(ours.read(name)) for name in ours.namelist()}


def recorded(content: bytes) -> str:
    """Return a content's hash as RECORD has it (PEP 427)."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
