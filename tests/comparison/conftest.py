"""Lets the tests of this folder import their helpers: the suite is not a package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("runtime",)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is measured out of everybody's cache; return where it goes."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGECNN_CACHE", str(folder))
    return folder
