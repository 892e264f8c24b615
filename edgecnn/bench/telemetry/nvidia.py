"""NVIDIA's discrete GPUs: NVML through ``nvidia-ml-py`` where it is installed, else the lines of ``nvidia-smi``."""

from __future__ import annotations

import re
from typing import Any

from edgecnn.bench.telemetry.sample import Sample
from edgecnn.optional import available, need

__all__ = ["SMI_FIELDS", "NvmlSource", "nvml_source", "parse_smi", "reasons_of"]

SMI_FIELDS = ("power.draw", "temperature.gpu", "clocks.current.sm", "clocks.current.memory", "utilization.gpu", "memory.used",
              "clocks_throttle_reasons.active")  # fmt: skip
"""What is asked of ``nvidia-smi --query-gpu``. Newer drivers call the last one ``clocks_event_reasons.active``, and know both."""

_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""nvml.h, ``nvmlClocksEventReason*``, without those that hold no clock down: idle, application clocks, sync boost, display."""

_COLUMNS = {
    reason.replace("software", "sw").replace("hardware", "hw").replace(" ", "_"): reason for reason in _REASONS.values()
}
_COLUMNS["hw_power_brake_slowdown"] = _COLUMNS.pop("hw_power_brake")


def reasons_of(mask: int) -> tuple[str, ...]:
    """Return the reasons of a bit mask for which clocks are held down."""
    return tuple(text for bit, text in _REASONS.items() if mask & bit)


def parse_smi(header: str, line: str) -> Sample | None:
    """Read one line of ``nvidia-smi --query-gpu=... --format=csv``; None where it is none.

    Args:
        header: the first line, whose names decide what the columns are.
        line: values with their units; ``[N/A]`` and ``[Not Supported]`` are left out.
    """
    names = [name.partition("[")[0].strip() for name in header.split(",")]
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(names):
        return None
    row = dict(zip(names, values, strict=True))
    numbers = {name: found for name, value in row.items() if (found := _number(value)) is not None}
    memory = numbers.get("memory.used")
    return Sample(
        watts=_named("gpu", numbers, "power.draw"),
        celsius=_named("gpu", numbers, "temperature.gpu"),
        mhz=_named("gpu", numbers, "clocks.current.sm", "clocks.current.graphics")
        | _named("memory", numbers, "clocks.current.memory"),
        load={name: value / 100 for name, value in _named("gpu", numbers, "utilization.gpu").items()},
        throttling=_throttling(row),
        gpu_used_mb=None if memory is None else memory * 1048576 / 1e6,
    )


def _throttling(row: dict[str, str]) -> tuple[str, ...]:
    """Return the reasons of a line, from its mask or its columns of one reason each."""
    found: list[str] = []
    for name, value in row.items():
        group, _, reason = name.partition(".")
        if group not in ("clocks_throttle_reasons", "clocks_event_reasons"):
            continue
        if reason == "active" and re.fullmatch(r"0x[0-9a-fA-F]+", value):
            found += reasons_of(int(value, 16))
        elif reason in _COLUMNS and value == "Active":
            found.append(_COLUMNS[reason])
    return tuple(dict.fromkeys(found))


def _number(value: str) -> float | None:
    """Return the number that a value begins with."""
    found = re.match(r"-?\d{1,9}(?:\.\d{1,9})?(?=\s|$)", value)
    return float(found.group()) if found else None


def _named(unit: str, numbers: dict[str, float], *names: str) -> dict[str, float]:
    """Return the first of some columns that has a number, under a unit's name."""
    return next(({unit: numbers[name]} for name in names if name in numbers), {})


class NvmlSource:
    """One GPU through NVML. What a GPU does not support is left out.

    Args:
        nvml: the module ``pynvml`` of nvidia-ml-py.
        device: number of the GPU.

    Raises:
        Exception: NVML's own, where there is no driver or no such GPU.
    """

    name = "nvml"

    def __init__(self, nvml: Any, device: int = 0) -> None:
        """Start NVML."""
        self._nvml = nvml
        nvml.nvmlInit()
        try:
            self._handle = nvml.nvmlDeviceGetHandleByIndex(device)
            name = nvml.nvmlDeviceGetName(self._handle)
        except BaseException:
            nvml.nvmlShutdown()
            raise
        self.gpu = name.decode(errors="replace") if isinstance(name, bytes) else str(name)

    def read(self) -> Sample:
        """Return what it says now."""
        nvml = self._nvml
        watts = self._ask("nvmlDeviceGetPowerUsage", scale=1e-3)
        joules = self._ask("nvmlDeviceGetTotalEnergyConsumption", scale=1e-3)
        celsius = self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        mhz = self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
        if (clock := self._call("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)) is not None:
            mhz["memory"] = float(clock)
        memory = self._call("nvmlDeviceGetMemoryInfo")
        use = self._call("nvmlDeviceGetUtilizationRates")
        mask = self._call("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Sample(
            watts=watts,
            joules=joules,
            celsius=celsius,
            mhz=mhz,
            load={} if use is None else {"gpu": float(use.gpu) / 100},
            throttling=() if mask is None else reasons_of(int(mask)),
            gpu_used_mb=None if memory is None else float(memory.used) / 1e6,
        )

    def close(self) -> None:
        """Stop NVML."""
        self._nvml.nvmlShutdown()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Ask one thing; None where this GPU or driver does not say."""
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (AttributeError, self._nvml.NVMLError):
            return None

    def _ask(self, name: str, *arguments: Any, scale: float = 1.0) -> dict[str, float]:
        """Ask for a number, under the GPU's name."""
        found = self._call(name, *arguments)
        return {} if found is None else {"gpu": float(found) * scale}


def nvml_source(device: int = 0) -> NvmlSource | None:
    """Return NVML's source, None where nvidia-ml-py is not installed or there is no GPU."""
    if not available("pynvml"):
        return None
    try:
        return NvmlSource(need("pynvml"), device)
    except Exception:  # noqa: BLE001 -- no driver, no GPU, no permission: each a class of NVML's own
        return None
