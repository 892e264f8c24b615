"""Fixtures of evaluation at scale: a tiny bundle, a folder of pictures with classes, a cache of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from cli_tools import cli  # noqa: F401 -- a fixture
from scale_data import write_pictures
from tiny_bundle import write_model, write_tiny

from edgecnn.pack import VariantContents


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder, an empty one for each test."""
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose int8-cpu differs from fp32 in every output."""
    folder = tmp_path_factory.mktemp("bundle")
    models = write_model(folder, "fp32"), write_model(folder, "int8-cpu", scale=0.9, bias=0.05)
    return write_tiny(folder, variants=[VariantContents(model=model, verified=True) for model in models]).path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 300 pictures with classes, of which the 7th and the 200th cannot be read: five shards, the last one smaller."""
    folder = write_pictures(tmp_path_factory.mktemp("data"), 300)
    for index in (7, 200):
        (folder / f"{index:05}.png").write_bytes(b"no picture")
    return folder
