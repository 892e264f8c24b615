"""What a Jetson's own tools print, parsed: ``tegrastats``, ``nvpmodel -q``, ``jetson_clocks --show``.

The formats as NVIDIA's Jetson Linux Developer Guide describes them (Tegrastats Utility; Power Mode Controls; Maximizing Jetson
Performance), from L4T 28 to 36: rails with and without ``mW``, clocks with and without brackets, units that are off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgecnn.bench.telemetry.sample import Sample

__all__ = ["Clock", "board_watts", "parse_clocks", "parse_power_mode", "parse_tegrastats"]

_OFF = -100.0
"""A sensor of a unit that has no power reads -256 degrees."""

_CPU = re.compile(r"\bcpu \[([^\]]*)\](?:@(\d{1,9}))?", re.IGNORECASE)
_UNIT = re.compile(
    r"\b(EMC|GR3D|NVDLA\d|VIC|NVENC|NVDEC)(?:_FREQ)? (?:(\d{1,9})%)?(?:@\[?(\d{1,9})(?:,(\d{1,9}))?\]?)?"
)
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d{1,9}(?:\.\d{1,9})?)C\b")
_RAIL = re.compile(r"(?<=\s)([A-Z][A-Z0-9_]*) (\d{1,9})(?:mW)?/(\d{1,9})(?:mW)?(?=\s|$)")
_UNIT_NAMES = {"EMC": "memory", "GR3D": "gpu"}
_WHOLE = ("VDD_IN", "POM_5V_IN")
"""Rails that feed the whole module."""

_PARTS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin: the others hang behind VIN_SYS_5V0
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
"""Rails that together feed it, where no one does (design guides of the modules)."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Limits of a unit's clock in MHz; it is locked where they are equal."""

    lowest: float
    highest: float

    @property
    def locked(self) -> bool:
        """Whether there is one speed."""
        return self.lowest == self.highest


def parse_tegrastats(line: str) -> Sample | None:
    """Read one line of ``tegrastats``; None where it is none."""
    if not re.search(r"\bRAM \d{1,9}/\d{1,9}MB", line):
        return None
    mhz, load = _units(line)
    # Temperatures and rails follow the clocks; AGX Xavier calls rails "GPU" and "CPU", as others call sensors.
    watts = {name: int(now) / 1e3 for name, now, _ in _RAIL.findall(line) if name not in ("RAM", "SWAP", "IRAM")}
    celsius = {name: float(value) for name, value in _TEMPERATURE.findall(line) if float(value) > _OFF}
    celsius.pop("PMIC", None)  # a fixed 50 or 100 on every board: no sensor stands behind it
    return Sample(watts=watts, mhz=mhz, celsius=celsius, load=load)


def _units(line: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return clocks and loads by unit."""
    mhz: dict[str, float] = {}
    load: dict[str, float] = {}
    if found := _CPU.search(line):
        cores = re.findall(r"(?<![\d@])(\d{1,9})%(?:@(\d{1,9}))?", found.group(1))  # those that are off have no numbers
        speeds = [int(speed or found.group(2) or 0) for _, speed in cores]
        if cores:
            load["cpu"] = sum(int(busy) for busy, _ in cores) / len(cores) / 100
        if any(speeds):
            mhz["cpu"] = float(max(speeds))
    for name, percent, first, second in _UNIT.findall(line):
        unit = _UNIT_NAMES.get(name, name.lower())
        if percent:
            load[unit] = int(percent) / 100
        if first:
            mhz[unit] = float(max(int(first), int(second or 0)))
    return mhz, load


def board_watts(watts: Mapping[str, float]) -> tuple[str, float] | None:
    """Return the power of the whole module and the rails that it is the sum of; None where they are not known."""
    for name in _WHOLE:
        if name in watts:
            return name, watts[name]
    for names in _PARTS:
        if all(name in watts for name in names):
            return " + ".join(names), sum(watts[name] for name in names)
    return None


def parse_power_mode(text: str) -> str:
    """Return the mode that ``nvpmodel -q`` names, such as ``MAXN`` or ``MODE_15W_6CORE``; "" where it names none."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found.group(1) if found else ""


def parse_clocks(text: str) -> dict[str, Clock]:
    """Return the limits of the processor, GPU and memory that ``jetson_clocks --show`` prints; cores that are off are left out."""
    clocks: dict[str, Clock] = {}
    for name, rest in re.findall(r"^\s*(cpu\d{1,9}|GPU|EMC):? (.*)$", text, re.MULTILINE):
        found = re.search(r"MinFreq=(\d{1,15}) MaxFreq=(\d{1,15})", rest)
        if not found or "Online=0" in rest:
            continue
        divisor = 1e3 if name.startswith("cpu") else 1e6  # cores in kHz, the others in Hz
        low, high = int(found.group(1)) / divisor, int(found.group(2)) / divisor
        if name == "EMC" and "FreqOverride=1" in rest:
            low = high  # the lowest value stays as it is when jetson_clocks pins the memory
        clocks[{"GPU": "gpu", "EMC": "memory"}.get(name, name)] = Clock(lowest=low, highest=high)
    return clocks
