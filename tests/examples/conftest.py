"""Lets the tests of this folder import ``tiny_bundle``: the suite is not a package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from tiny_bundle import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole bundle with two variants, to be read and never changed."""
    return write_tiny(tmp_path_factory.mktemp("tiny")).path
