"""Bundles to package: plain, really quantized, with a layer left in float, with pixels as input, with an engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
sys.path.insert(0, str(Path(__file__).parent))

from cli_tools import cli  # noqa: F401 -- a fixture
from tiny_bundle import write_model, write_tiny

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.pack import VariantContents
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime import Bundle

Quantized = Callable[..., OnnxModel]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole bundle with two variants, to be read and never changed."""
    return write_tiny(tmp_path_factory.mktemp("tiny")).path


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """Return a function that quantizes the small network for real."""

    def make(scheme: str = "int8-cpu", **options: Any) -> OnnxModel:
        draw = np.random.default_rng(0)
        samples = InMemory([{"input": draw.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(4)])
        config = QuantizeConfig(scheme=scheme, effort="fast", **options)  # type: ignore[arg-type]
        return quantize(write_model(tmp_path, "fp32"), samples, config, to=tmp_path / f"q.{scheme}.onnx").model

    return make


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """Return a function that packs verified variants."""

    def make(*models: OnnxModel, speeds: Any = None, **changes: Any) -> Bundle:
        plain = VariantContents(model=write_model(tmp_path, "fp32"), verified=True)
        others = [VariantContents(model=one, verified=True, speed=(speeds or {}).get(one.precision)) for one in models]
        return write_tiny(tmp_path, variants=[plain, *others], **changes)

    return make
