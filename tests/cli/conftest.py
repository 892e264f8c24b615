"""Fixtures of the command line's tests: run a command in this process, a bundle, a network of the user's own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from cli_tools import NET, cli  # noqa: F401 -- a fixture
from engine_machine import machine  # noqa: F401 -- a fixture
from tiny_bundle import write_tiny


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep caches, temporary files and byte code out of everybody's folders; return where temporary files go."""
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return scratch


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole bundle of an fp32 and an int8-cpu variant, to be read and never changed."""
    return write_tiny(tmp_path_factory.mktemp("tiny")).path


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a network of the user's own."""
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(NET)
    return path
