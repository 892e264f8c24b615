"""Reads the sensors in a thread of its own while something is measured, and says what that means."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from edgecnn.bench.result import Telemetry
from edgecnn.bench.telemetry.jetson import board_watts, parse_clocks, parse_power_mode, parse_tegrastats
from edgecnn.bench.telemetry.nvidia import SMI_FIELDS, NvmlSource, nvml_source, parse_smi
from edgecnn.bench.telemetry.sample import Sample, Source
from edgecnn.bench.telemetry.sysfs import (
    ClockSource,
    InaSource,
    RaplSource,
    ThermalSource,
    busy_seconds,
    cpu_governors,
    limits,
    throttle_count,
)

__all__ = ["LineSource", "Recorder", "Sensors", "find_sensors", "warnings_of"]

_INTERVAL = 0.25
_TOOL_INTERVAL_MS = 500
_PATIENCE = 5.0
_OTHERS = 0.1
_DROPPED = 0.95

Reading = tuple[float, str, Sample]
"""When (seconds of a clock), which source, what."""


class LineSource:
    """A tool that prints a line for every reading; the first line may be a header.

    Args:
        name: of the source.
        command: the program and its arguments.
        parse: from a header ("" without one) and a line to a reading.
        header: whether the first line is one.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self, name: str, command: Sequence[str], parse: Callable[[str, str], Sample | None], *, header: bool = False
    ) -> None:
        """Start the tool."""
        self.name = name
        self._parse, self._header = parse, "" if not header else None
        self._lock = threading.Lock()
        self._fresh: Sample | None = None
        self._last: Sample | None = None
        self._begun = threading.Event()
        self._process = subprocess.Popen(  # noqa: S603 -- a tool of the system, found by name, with fixed arguments
            list(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
        assert self._process.stdout is not None
        self._thread = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def read(self) -> Sample | None:
        """Return the latest reading once."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def latest(self) -> Sample | None:
        """Return the latest reading, seen or not; wait for the first one, unless the tool ends without any."""
        self._begun.wait(_PATIENCE)
        with self._lock:
            return self._last

    def close(self) -> None:
        """End the tool."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_PATIENCE)

    def _listen(self, stream: IO[str]) -> None:
        """Read lines until the tool ends."""
        with stream:
            for line in stream:
                if self._header is None:
                    self._header = line
                    continue
                found = self._parse(self._header, line)
                if found is not None:
                    with self._lock:
                        self._fresh = self._last = found
                    self._begun.set()
        self._begun.set()


class Sensors:
    """The sources of this device, open until they are closed, and what it says of itself once.

    Attributes:
        sources: of readings. ``power_mode``: of a Jetson. ``locked``: whether clocks are held at one speed; None where it cannot
            be told. ``unlocked``: the units whose clocks are not. ``gpus``: names.
    """

    def __init__(
        self, sources: Sequence[Source], *, root: Path = Path("/"), power_mode: str = "", clocks: str = ""
    ) -> None:
        """Hold the sources; ``clocks`` is what ``jetson_clocks --show`` printed."""
        self.sources = tuple(sources)
        self.root = root
        self.power_mode = power_mode
        found = limits(root) | parse_clocks(clocks)
        steady = (
            {name for name in found if name.startswith("cpu")} if cpu_governors(root) == ("performance",) else set()
        )
        self.unlocked = tuple(sorted(name for name, clock in found.items() if not clock.locked and name not in steady))
        self.locked = None if not found else not self.unlocked
        self.gpus = tuple(source.gpu for source in self.sources if isinstance(source, NvmlSource))

    def close(self) -> None:
        """Close the sources."""
        for source in self.sources:
            source.close()

    def gpu_used_mb(self) -> float | None:
        """Return the device memory in use, None where no source says."""
        for source in self.sources:
            if source.name in ("nvml", "nvidia-smi"):
                found = source.latest() if isinstance(source, LineSource) else source.read()
                return None if found is None else found.gpu_used_mb
        return None


def find_sensors(root: Path = Path("/")) -> Sensors:
    """Open every source that this device has: tegrastats else INA, NVML else nvidia-smi, RAPL, clocks, temperatures."""
    sources: list[Source] = []
    tegra = _tool("tegrastats", ("--interval", str(_TOOL_INTERVAL_MS)), lambda _, line: parse_tegrastats(line))
    ina = InaSource(root)
    if tegra is not None:
        sources.append(tegra)
    elif ina:
        sources.append(ina)
    nvidia: Source | None = None if tegra is not None else nvml_source()
    if nvidia is None and tegra is None:
        query = (f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv", "-i", "0", "-lms", str(_TOOL_INTERVAL_MS))
        nvidia = _tool("nvidia-smi", query, parse_smi, header=True)
    if nvidia is not None:
        sources.append(nvidia)
    sources += [source for source in (RaplSource(root), ClockSource(root), ThermalSource(root)) if source]
    mode = parse_power_mode(_output("nvpmodel", "-q"))
    clocks = _output("jetson_clocks", "--show") if os.geteuid() == 0 else ""  # it says nothing to others
    return Sensors(sources, root=root, power_mode=mode, clocks=clocks)


class Recorder:
    """Reads all sources four times a second from ``with`` to its end.

    Example::

        with Recorder(sensors) as recorder:
            work()
        telemetry = recorder.telemetry(images=100, gpu=False)
    """

    def __init__(self, sensors: Sensors) -> None:
        """Hold the sensors."""
        self._sensors = sensors
        self._readings: list[Reading] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._begun = self._ended = 0.0
        self._machine: float | None = None
        self._own = 0.0
        self._throttled = 0, 0

    def __enter__(self) -> Self:
        """Take the first reading and begin."""
        self._begun = time.perf_counter()
        self._machine, self._own = busy_seconds(self._sensors.root), _own_seconds()
        self._throttled = throttle_count(self._sensors.root), 0
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the last reading and end."""
        self._stop.set()
        self._thread.join()
        self._take()
        self._ended = time.perf_counter()
        now = busy_seconds(self._sensors.root)
        self._machine = None if now is None or self._machine is None else now - self._machine
        self._own = _own_seconds() - self._own
        self._throttled = self._throttled[0], throttle_count(self._sensors.root)

    def telemetry(self, *, images: int, gpu: bool) -> Telemetry:
        """Summarise.

        Args:
            images: that were inferred meanwhile.
            gpu: whether a GPU did it: its energy counts before the processor's.
        """
        sensors = self._sensors
        reasons = [reason for _, _, sample in self._readings for reason in sample.throttling]
        if self._throttled[1] > self._throttled[0]:
            reasons.append("processor too hot")
        joules, source = _energy(self._readings, gpu)
        spent = self._ended - self._begun
        others = None if self._machine is None else self._machine - self._own
        return Telemetry(
            sources=tuple(dict.fromkeys(name for _, name, _ in self._readings)),
            samples=len(self._readings),
            seconds=spent,
            watts={name: _mean(rows) for name, rows in _series(self._readings, "watts").items()},
            joules_per_inference=joules / images if joules is not None and images else None,
            energy_source=source,
            mhz_min={name: min(value for _, value in rows) for name, rows in _series(self._readings, "mhz").items()},
            mhz_max={name: max(value for _, value in rows) for name, rows in _series(self._readings, "mhz").items()},
            celsius_max={
                name: max(value for _, value in rows) for name, rows in _series(self._readings, "celsius").items()
            },
            power_mode=sensors.power_mode,
            throttling=tuple(dict.fromkeys(reasons)),
            clocks_locked=sensors.locked,
            others_share=None if others is None else min(1.0, max(0.0, others) / spent / (os.cpu_count() or 1)),
        )

    def _read(self) -> None:
        """Read until told to stop."""
        while not self._stop.wait(_INTERVAL):
            self._take()

    def _take(self) -> None:
        """Read every source once."""
        for source in self._sensors.sources:
            found = source.read()
            if found is not None:
                self._readings.append((time.perf_counter(), source.name, found))


def _own_seconds() -> float:
    """Return the processor seconds of this process and of those that it ended."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def warnings_of(found: Telemetry, sensors: Sensors) -> list[str]:
    """Return what makes numbers that were taken under these conditions doubtful."""
    texts = []
    if found.throttling:
        texts.append(f"the device throttled ({', '.join(found.throttling)}): latency is that of a device held down")
    if sensors.unlocked:
        units = "the GPU's clock" if sensors.unlocked == ("gpu",) else "clocks"
        hint = "sudo jetson_clocks" if sensors.power_mode else "the governor 'performance'"
        texts.append(f"{units} may move ({', '.join(sensors.unlocked[:4])}): {hint} locks them")
    if found.power_mode and not found.power_mode.upper().startswith("MAXN"):
        texts.append(f"the power mode is {found.power_mode}, not the fastest")
    dropped = [name for name, low in found.mhz_min.items() if low < _DROPPED * found.mhz_max[name]]
    if dropped and found.clocks_locked:
        texts.append(f"clocks that are locked moved all the same ({', '.join(dropped)})")
    if found.others_share is not None and found.others_share > _OTHERS:
        texts.append(f"other processes took {found.others_share:.0%} of the machine's processor time")
    return texts


def _series(readings: Iterable[Reading], what: str) -> dict[str, list[tuple[float, float]]]:
    """Return (time, value) by name, of one part of the readings; names of a source that others have too keep the first source's."""
    rows: dict[str, list[tuple[float, float]]] = {}
    owner: dict[str, str] = {}
    for moment, source, sample in readings:
        values: Mapping[str, float] = getattr(sample, what)
        for name, value in values.items():
            if owner.setdefault(name, source) == source:
                rows.setdefault(name, []).append((moment, value))
    return rows


def _energy(readings: Sequence[Reading], gpu: bool) -> tuple[float | None, str]:
    """Return the joules of the best source, and its name: the whole board's, else the GPU's or the processor's."""
    boards = [
        (moment, source, found)
        for moment, source, sample in readings
        if source in ("tegrastats", "ina") and (found := board_watts(sample.watts)) is not None
    ]
    if len(boards) > 1:
        return _integral([(moment, found[1]) for moment, _, found in boards]), f"{boards[0][1]} {boards[0][2][0]}"
    order = ("nvml", "nvidia-smi", "rapl") if gpu else ("rapl",)
    for wanted in order:
        own = [(moment, sample) for moment, source, sample in readings if source == wanted]
        counters = [(moment, sum(sample.joules.values())) for moment, sample in own if sample.joules]
        if len(counters) > 1:
            return counters[-1][1] - counters[0][1], wanted
        power = [(moment, sum(sample.watts.values())) for moment, sample in own if sample.watts]
        if len(power) > 1:
            return _integral(power), wanted
    return None, ""


def _integral(rows: Sequence[tuple[float, float]]) -> float:
    """Integrate power over time by the trapezoidal rule."""
    return sum((later - before) * (one + other) / 2 for (before, one), (later, other) in itertools.pairwise(rows))


def _mean(rows: Sequence[tuple[float, float]]) -> float:
    """Return the mean over time."""
    spent = rows[-1][0] - rows[0][0]
    return _integral(rows) / spent if spent > 0 else rows[0][1]


def _tool(
    name: str, arguments: Sequence[str], parse: Callable[[str, str], Sample | None], *, header: bool = False
) -> LineSource | None:
    """Start a tool that prints readings; None where there is none."""
    program = shutil.which(name)
    try:
        return None if program is None else LineSource(name, (program, *arguments), parse, header=header)
    except OSError:
        return None


def _output(name: str, *arguments: str) -> str:
    """Return what a tool prints; "" where there is none or it fails."""
    program = shutil.which(name)
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 -- a tool of the system, found by name, with fixed arguments
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
