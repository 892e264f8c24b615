"""Fixtures of the engine's tests: a small network in every precision, and TensorRT as it is not here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
sys.path.insert(0, str(Path(__file__).parent))

import engine_nets
import fake_tensorrt
from cli_tools import cli  # noqa: F401 -- a fixture
from session_bench import bench  # noqa: F401 -- a fixture

from edgecnn.artifacts import OnnxModel
from edgecnn.calib import InMemory
from edgecnn.engine.device import Device
from edgecnn.fp16 import to_fp16
from edgecnn.onnxio import open_model
from edgecnn.quantize import QuantizeConfig, quantize

ORIN = Device(name="Orin", compute_capability="8.7", memory=32 << 30, driver_cuda="12.6", driver="540.4.0")


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, OnnxModel]:
    """Return precision -> the network, its batch open."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "fp32.onnx").write_bytes(engine_nets.network())
    plain = open_model(folder / "fp32.onnx")
    draw = np.random.default_rng(0)
    samples = InMemory([{"input": draw.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(4)])
    int8 = quantize(plain, samples, QuantizeConfig(effort="fast"), to=folder / "int8.onnx").model
    return {
        "fp32": plain,
        "fp16": to_fp16(plain, samples, to=folder / "fp16.onnx").model,
        "int8": int8,
        "int8-fp16": to_fp16(int8, samples, to=folder / "int8-fp16.onnx").model,
    }


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that puts a recorded TensorRT and an Orin in place, and gives the module."""

    def install(version: str, *, device: Device | None = ORIN, **options: Any) -> Any:
        module = fake_tensorrt.fake(version, **options)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr("edgecnn.engine.builder.device", lambda: device)
        return module

    return install
