"""Fixtures of the tests over ssh: an sshd of our own, a bundle, the command line."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

import sshd
from cli_tools import cli  # noqa: F401 -- a fixture
from tiny_bundle import write_tiny


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """Return a running sshd, for the whole session."""
    if reason := sshd.missing():
        pytest.skip(reason)
    server = sshd.start(tmp_path_factory.mktemp("sshd"), [f"TMPDIR={tempfile.gettempdir()}"])
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: sshd.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sshd.Server:
    """Return the sshd with an empty cache, and an inventory that names it ``edge``."""
    shutil.rmtree(shared_server.cache, ignore_errors=True)
    shared_server.inventory(tmp_path / "config")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return shared_server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of an fp32 and an int8-cpu variant, to be read and never changed."""
    return write_tiny(tmp_path_factory.mktemp("tiny")).path


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    """Return such a bundle of one's own, in a folder whose name a shell would misread."""
    return Path(shutil.copytree(tiny, tmp_path / "it's $(touch pwned) 模型" / "-tiny; rm x"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return a picture under a name that a shell, or an option parser, would misread."""
    from PIL import Image
    from tiny_bundle import photos

    path = tmp_path / '--top "$HOME" `id` ü.png'
    Image.fromarray(photos()[0]).save(path)
    return path
