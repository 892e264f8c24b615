"""What the driver's library is asked, on a library of our own."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecnn.engine import device as device_module
from edgecnn.engine.device import Device, device, memory_available


class Driver:
    """A driver library: every call returns 0 and fills what it is given, but for one that fails."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.fails:
                return 100
            if fill := getattr(type(self), f"_{name}", None):
                fill(self, *arguments)
            return 0

        return call

    def _cuDeviceGetName(self, name: Any, size: int, handle: Any) -> None:
        assert size == 128
        name.value = b"Orin"

    def _cuDeviceTotalMem_v2(self, memory: Any, handle: Any) -> None:
        memory._obj.value = 32 << 30

    def _cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 12060

    def _cuDeviceGetAttribute(self, part: Any, attribute: int, handle: Any) -> None:
        part._obj.value = {75: 8, 76: 7}[attribute]


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(device_module, "_MODULE", tmp_path / "version")
    orin = Device(name="Orin", compute_capability="8.7", memory=32 << 30, driver_cuda="12.6")
    assert device() == orin
    (tmp_path / "version").write_text("540.4.0\n")
    assert device() == replace(orin, driver="540.4.0")


@pytest.mark.parametrize(
    "fails", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute"]
)
def test_a_driver_without_a_gpu_is_none(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    driver = Driver(fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert device() is None
    assert fails in driver.calls


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_LIBRARY", "libthere-is-no-such-driver.so.1")
    assert device() is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux says")
def test_memory_is_what_the_system_says() -> None:
    assert 1 << 26 < memory_available() < 1 << 50
    assert sys.platform == "linux"
