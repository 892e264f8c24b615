"""TensorRT and CUDA as they are not here, for the commands that build and run engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

import fake_tensorrt
from fake_cuda import FakeCuda

from edgecnn.engine.device import Device

__all__ = ["ORIN", "Machine", "machine"]

ORIN = Device(name="Orin", compute_capability="8.7", memory=32 << 30, driver_cuda="12.6", driver="540.4.0")


class Machine:
    """A machine with TensorRT and a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self.patch, self.cuda = monkeypatch, FakeCuda()
        for name, module in self.cuda.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setenv("EDGECNN_CACHE", str(cache))
        self.module: Any = None
        self.become("10.3.0")

    def become(self, version: str, device: Device | None = ORIN) -> None:
        """Install another version, or another GPU."""
        self.module = fake_tensorrt.fake(version)
        self.module.cuda = self.cuda
        if device is not None:
            self.cuda.compute_capability = device.compute_capability
        self.patch.setitem(sys.modules, "tensorrt", self.module)
        self.patch.setattr("edgecnn.engine.builder.device", lambda: device)
        for module in ("engines", "engine_bisect", "gate"):
            self.patch.setattr(f"edgecnn.pipeline.{module}.device", lambda: device)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path / "cache")
