"""What gets installed: every module and data file, nothing else, and only under ``edgecnn``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgecnn import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the wheel from a clean copy of the sources and return the names in it."""
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
    (built,) = out.glob("*.whl")
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
