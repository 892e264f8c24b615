"""Builds the C++ programs once a session, and talks to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from cpp_tools import Probe, missing, openvino_cmake
from tiny_bundle import write_tiny

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first of these tests the time that building takes on a busy machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build everything with sanitizers and warnings as errors; return the build's folder."""
    if lacking := missing():
        pytest.skip(f"not installed: {lacking}")
    kept = os.environ.get("EDGECNN_CPP_BUILD")  # while working on the headers: builds again what changed
    folder = Path(kept) if kept else tmp_path_factory.mktemp("cpp")
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", *ninja, "-S", HERE, "-B", folder, f"-DOpenVINO_DIR={openvino_cmake()}"]
    for command in (configure, ["cmake", "--build", folder, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def probe(built: Path) -> Iterator[Probe]:
    """Return the program to ask."""
    program = Probe(built / "probe")
    yield program
    program.close()


@pytest.fixture(scope="session")
def example(built: Path) -> Path:
    """Return the example application."""
    path = built / "example" / "classify"
    if not path.exists():
        pytest.skip("the example needs openvino's wheel, libjpeg-dev and libpng-dev")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole bundle with two variants, to be read and never changed."""
    return write_tiny(tmp_path_factory.mktemp("tiny")).path


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy to break."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))
