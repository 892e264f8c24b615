"""Fixtures of the quantizer's tests: small networks that hold the zoo's structures, exported once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "golden")]

import structures  # noqa: E402 -- it lies beside the tests


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the small networks are exported to, once a session."""
    return tmp_path_factory.mktemp("structures")


@pytest.fixture(scope="session")
def exported(exports: Path) -> Callable[[str], OnnxModel]:
    """Return a function that exports one of the small networks."""
    return lambda name: structures.exported(name, exports)


@pytest.fixture(scope="session")
def images() -> InMemory:
    """Return what the small networks are calibrated on."""
    return structures.images()
