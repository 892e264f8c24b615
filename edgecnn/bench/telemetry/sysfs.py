"""What Linux itself says: energy counters of the processor (RAPL), power monitors (INA), clocks and their limits, temperatures.

Formats: the kernel's documentation, ``power/powercap``, ``hwmon/sysfs-interface``, ``admin-guide/pm/cpufreq``,
``driver-api/thermal/sysfs-api`` and ``ABI/testing/sysfs-class-devfreq``.
Every function takes the root of the file system, which is another one in tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgecnn.bench.telemetry.jetson import Clock
from edgecnn.bench.telemetry.sample import Sample

__all__ = [
    "ClockSource",
    "InaSource",
    "RaplSource",
    "ThermalSource",
    "busy_seconds",
    "cpu_governors",
    "limits",
    "throttle_count",
]

_TICKS = 100.0
"""Of /proc/stat a second (USER_HZ, which is 100 on every architecture that Linux has for us)."""


class RaplSource:
    """Energy counters of processor packages. Reading them may be root's alone: then there are none."""

    name = "rapl"

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the packages, whose parts (cores, memory) are folders of their own."""
        self._zones: dict[str, tuple[Path, float]] = {}
        self._last: dict[str, float] = {}
        self._wrapped: dict[str, float] = {}
        for folder in sorted((root / "sys/class/powercap").glob("*-rapl:*")):
            name = _read(folder / "name") or folder.name
            # "psys" is the whole platform, which holds the packages too.
            if folder.name.count(":") == 1 and name != "psys" and _number(folder / "energy_uj") is not None:
                self._zones[name] = (folder / "energy_uj", _number(folder / "max_energy_range_uj") or 0.0)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._zones)

    def read(self) -> Sample:
        """Return the counters, which go on where the kernel's begin anew."""
        joules = {}
        for name, (path, wrap) in self._zones.items():
            now = _number(path)
            if now is None:
                continue
            if now < self._last.get(name, now):
                self._wrapped[name] = self._wrapped.get(name, 0.0) + wrap
            self._last[name] = now
            joules[name] = (now + self._wrapped.get(name, 0.0)) / 1e6
        return Sample(joules=joules)

    def close(self) -> None:
        """Do nothing."""


class InaSource:
    """INA power monitors of a board through hwmon: each rail's volts times its amperes."""

    name = "ina"

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the rails that have a label."""
        self._rails: dict[str, tuple[Path, Path]] = {}
        for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
            if not (_read(folder / "name") or "").startswith("ina"):
                continue
            for label in sorted(folder.glob("in*_label")):
                channel = label.name[2:].partition("_")[0]
                volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
                if (name := _read(label)) and _number(volts) is not None and _number(amperes) is not None:
                    self._rails[name] = (volts, amperes)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._rails)

    def read(self) -> Sample:
        """Return every rail's power: millivolts times milliamperes."""
        watts = {}
        for name, (volts, amperes) in self._rails.items():
            first, second = _number(volts), _number(amperes)
            if first is not None and second is not None:
                watts[name] = first * second / 1e6
        return Sample(watts=watts)

    def close(self) -> None:
        """Do nothing."""


class ClockSource:
    """The processor's fastest core now, and a GPU's clock where devfreq has it, MHz."""

    name = "cpufreq"

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the clocks."""
        self._cores = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._gpus = [folder / "cur_freq" for folder in _gpus(root)]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._cores or self._gpus)

    def read(self) -> Sample:
        """Return the clocks: cores in kHz, devfreq in Hz."""
        cores = [value for path in self._cores if (value := _number(path)) is not None]
        gpus = [value for path in self._gpus if (value := _number(path)) is not None]
        mhz = {"cpu": max(cores) / 1e3} if cores else {}
        return Sample(mhz=mhz | ({"gpu": max(gpus) / 1e6} if gpus else {}))

    def close(self) -> None:
        """Do nothing."""


class ThermalSource:
    """Thermal zones, and the cooling devices that hold clocks down."""

    name = "thermal"

    def __init__(self, root: Path = Path("/")) -> None:
        """Find zones and devices."""
        folder = root / "sys/class/thermal"
        self._zones = {
            _read(zone / "type") or zone.name: zone / "temp" for zone in sorted(folder.glob("thermal_zone*"))
        }
        self._coolers = {
            kind: device / "cur_state"
            for device in sorted(folder.glob("cooling_device*"))
            if re.search(r"throttl|cpufreq|devfreq|gpu", kind := _read(device / "type") or "", re.IGNORECASE)
        }

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._zones or self._coolers)

    def read(self) -> Sample:
        """Return temperatures (kept in thousandths of a degree), and which devices cool."""
        celsius = {name: value / 1e3 for name, path in self._zones.items() if (value := _number(path)) is not None}
        cooling = tuple(f"cooling by {kind}" for kind, path in self._coolers.items() if (_number(path) or 0) > 0)
        return Sample(celsius={name: value for name, value in celsius.items() if value > -100}, throttling=cooling)

    def close(self) -> None:
        """Do nothing."""


def limits(root: Path = Path("/")) -> dict[str, Clock]:
    """Return the limits between which clocks may move, by unit, MHz: of cores, and of a GPU where devfreq has it."""
    found: dict[str, Clock] = {}
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        low, high = _number(folder / "scaling_min_freq"), _number(folder / "scaling_max_freq")
        if low is not None and high is not None:
            found[folder.parent.name] = Clock(lowest=low / 1e3, highest=high / 1e3)
    for folder in _gpus(root):
        low, high = _number(folder / "min_freq"), _number(folder / "max_freq")
        if low is not None and high is not None:
            found["gpu"] = Clock(lowest=low / 1e6, highest=high / 1e6)
    return found


def cpu_governors(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the governors of the cores' clocks, each once."""
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return tuple(dict.fromkeys(text for path in paths if (text := _read(path))))


def throttle_count(root: Path = Path("/")) -> int:
    """Return how often x86 cores were throttled for heat since the machine started."""
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    return int(sum(_number(path) or 0 for path in paths))


def busy_seconds(root: Path = Path("/")) -> float | None:
    """Return the processor seconds that the machine has worked, those taken by other virtual machines included; None if unknown."""
    line = (_read(root / "proc/stat") or "").partition("\n")[0].split()
    if not line or line[0] != "cpu" or len(line) < 9:
        return None
    user, nice, system, _, _, irq, soft, steal = (int(value) for value in line[1:9])
    return (user + nice + system + irq + soft + steal) / _TICKS


def _gpus(root: Path) -> Iterator[Path]:
    """Yield the devfreq folders of GPUs: ``17000000.ga10b``, ``17000000.gpu``, ``57000000.gpu``, ``17000000.gv11b``."""
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if re.search(r"\.(gpu|g[a-z]\d{1,2}[a-z])$|gpc|mali", folder.name):
            yield folder


def _read(path: Path) -> str | None:
    """Return a file's text, None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    """Return the number in a file, None where there is none."""
    text = _read(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
