"""Telemetry: parsers on recorded output of devices (logs/README.md says from where), sources on a made-up /sys, tools that are scripts."""

from __future__ import annotations

import itertools
import random
import stat
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgecnn.bench.result import Telemetry
from edgecnn.bench.telemetry import Recorder, Sample, Sensors, find_sensors, warnings_of
from edgecnn.bench.telemetry.jetson import Clock, board_watts, parse_clocks, parse_power_mode, parse_tegrastats
from edgecnn.bench.telemetry.nvidia import NvmlSource, nvml_source, parse_smi, reasons_of
from edgecnn.bench.telemetry.recorder import LineSource
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

LOGS = Path(__file__).parent / "logs"


def lines(name: str) -> list[Sample]:
    """Read a recorded log of tegrastats, every line of which must be understood."""
    found = [parse_tegrastats(line) for line in (LOGS / name).read_text().splitlines()]
    assert all(found)
    return [one for one in found if one]


def test_agx_orin_with_the_dla_at_work() -> None:
    (found,) = lines("tegrastats-agx-orin-35.txt")
    assert found.mhz == {"cpu": 2201.0, "memory": 2133.0, "gpu": 407.0, "nvdla0": 1600.0}
    assert found.load["gpu"] == 0.14
    assert found.load["cpu"] == pytest.approx((90 + 11 * 100) / 1200)
    assert found.watts == {"VDD_GPU_SOC": 3.15, "VDD_CPU_CV": 14.312, "VIN_SYS_5V0": 4.968, "VDDQ_VDD2_1V8AO": 1.091}
    assert board_watts(found.watts) == ("VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", pytest.approx(22.43))
    assert found.celsius["tj"] == 77.281
    assert found.celsius["CV1"] == 72.5


def test_agx_orin_idle_on_jetpack_6() -> None:
    (found,) = lines("tegrastats-agx-orin-36.txt")
    assert found.mhz == {"cpu": 729.0}
    assert found.celsius == {"cpu": 52.875, "soc2": 48.656, "soc0": 49.062, "tj": 52.875, "soc1": 49.031}
    assert board_watts(found.watts) == ("VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", pytest.approx(8.515))


def test_units_without_power_have_no_temperature() -> None:
    (found,) = lines("tegrastats-agx-orin-off.txt")
    assert set(found.celsius) == {"CPU", "Tboard", "SOC2", "Tdiode", "SOC0", "tj", "SOC1"}
    assert found.watts == {}
    assert board_watts(found.watts) is None


def test_orin_nano() -> None:
    verbose, short = lines("tegrastats-orin-nano.txt")
    assert verbose.mhz == {"cpu": 729.0, "memory": 2133.0, "gpu": 305.0}
    assert board_watts(verbose.watts) == ("VDD_IN", 5.704)
    assert verbose.load == {"cpu": pytest.approx(95 / 600), "memory": 0.04, "gpu": 0.0}
    assert short.mhz == {"cpu": 1036.0}
    assert board_watts(short.watts) == ("VDD_IN", 4.968)


def test_xavier_nx_of_both_jetpacks() -> None:
    old, new = lines("tegrastats-xavier-nx.txt")
    assert old.watts == {"VDD_IN": 6.14, "VDD_CPU_GPU_CV": 2.706, "VDD_SOC": 1.074}
    assert new.watts == {"VDD_IN": 2.763, "VDD_CPU_GPU_CV": 0.65, "VDD_SOC": 0.65}
    assert (old.mhz["gpu"], new.mhz["gpu"]) == (1109.0, 114.0)
    assert "PMIC" not in old.celsius
    assert old.celsius["thermal"] == 31.35


def test_agx_xavier_calls_rails_as_others_call_sensors() -> None:
    (found,) = lines("tegrastats-agx-xavier.txt")
    assert found.watts == {"GPU": 0.0, "CPU": 0.216, "SOC": 0.864, "CV": 0.0, "VDDRQ": 0.144, "SYS5V": 1.889}
    assert board_watts(found.watts) == ("GPU + CPU + SOC + CV + VDDRQ + SYS5V", pytest.approx(3.113))
    assert found.celsius["GPU"] == 32.0
    assert found.mhz == {"cpu": 1190.0}


def test_older_boards() -> None:
    (tx2,) = lines("tegrastats-tx2.txt")
    assert tx2.mhz == {"cpu": 345.0, "memory": 40.0, "gpu": 114.0}  # five cores are off
    assert tx2.load["cpu"] == 0.02
    assert board_watts(tx2.watts) == ("VDD_IN", 2.003)
    (tx1,) = lines("tegrastats-tx1.txt")
    assert tx1.mhz == {"cpu": 1734.0, "memory": 1600.0, "gpu": 76.0}
    assert tx1.load == {"cpu": pytest.approx(0.2325), "memory": 0.01, "gpu": 0.39}
    newer, older = lines("tegrastats-nano.txt")
    assert board_watts(newer.watts) == ("POM_5V_IN", 1.75)
    assert board_watts(older.watts) == ("POM_5V_IN", 0.9)
    assert newer.mhz == {"cpu": 1224.0, "memory": 1600.0, "gpu": 76.0}


@pytest.mark.parametrize("line", ["", "tegrastats: not found", "RAM", "CPU [1%@2]", "\x00\xff", "RAM x/yMB"])
def test_other_lines_are_no_reading(line: str) -> None:
    assert parse_tegrastats(line) is None


def test_damaged_lines_never_raise() -> None:
    draw = random.Random(4)
    whole = [line for path in sorted(LOGS.glob("tegrastats-*.txt")) for line in path.read_text().splitlines()]
    header, *rows = (LOGS / "nvidia-smi-dgpu.csv").read_text().splitlines()
    clocks = (LOGS / "jetson_clocks-nano.txt").read_text()

    def damaged(text: str) -> str:
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(text) + 1)
            text = (
                text[:place]
                + draw.choice(["", "@", "%", "-", "x", "9" * 400, "[", "]", ",", " ", "\x00", "٣"])
                + text[place + draw.randint(0, 3) :]
            )
        return text

    understood = 0
    for _ in range(3000):
        understood += parse_tegrastats(damaged(draw.choice(whole))) is not None
        parse_smi(header, damaged(rows[0]))
        parse_clocks(damaged(clocks))
    assert 0 < understood < 3000


def test_power_modes() -> None:
    assert parse_power_mode((LOGS / "nvpmodel-orin.txt").read_text()) == "MAXN"
    assert parse_power_mode((LOGS / "nvpmodel-xavier-nx.txt").read_text()) == "MODE_15W_6CORE"
    assert parse_power_mode((LOGS / "nvpmodel-nano.txt").read_text()) == "MAXN"
    assert parse_power_mode("NVPM ERROR: no permission") == ""


def test_jetson_clocks() -> None:
    orin = parse_clocks((LOGS / "jetson_clocks-agx-orin.txt").read_text())
    assert orin == {name: Clock(lowest=729.6, highest=2201.6) for name in ("cpu0", "cpu1")}
    nano = parse_clocks((LOGS / "jetson_clocks-nano.txt").read_text())
    assert set(nano) == {"cpu0", "cpu1", "gpu", "memory"}  # two cores are off
    assert nano["gpu"] == Clock(lowest=76.8, highest=614.4)
    assert nano["memory"] == Clock(lowest=204.0, highest=1600.0)
    assert parse_clocks("EMC MinFreq=204000000 MaxFreq=3199000000 FreqOverride=0")["memory"].highest == 3199.0
    assert [name for name, clock in nano.items() if not clock.locked] == ["gpu", "memory"]
    locked = parse_clocks((LOGS / "jetson_clocks-nano-locked.txt").read_text())
    assert all(clock.locked for clock in locked.values())


def test_nvidia_smi_with_a_column_for_each_reason() -> None:
    header, *rows = (LOGS / "nvidia-smi-dgpu.csv").read_text().splitlines()
    found = parse_smi(header, rows[0])
    assert found is not None
    assert (found.watts, found.celsius, found.mhz, found.load) == (
        {"gpu": 75.1}, {"gpu": 71.0}, {"gpu": 1695.0, "memory": 6250.0}, {"gpu": 0.0},
    )  # fmt: skip
    assert found.throttling == ()  # it was idle, which holds no clock down
    busy = rows[0].replace(
        "Not Active, Not Active, Not Active, Not Active, Active", "Active, Active, Not Active, Active, Not Active"
    )
    again = parse_smi(header, busy)
    assert again is not None
    assert again.throttling == ("hardware slowdown", "hardware thermal slowdown", "hardware power brake")


def test_nvidia_smi_with_a_mask() -> None:
    header = "power.draw [W], temperature.gpu, clocks.current.sm [MHz], memory.used [MiB], clocks_event_reasons.active"
    found = parse_smi(header, "400.00 W, 70, 1275 MHz, 512 MiB, 0x0000000000000004\n")
    assert found is not None
    assert found.throttling == ("software power cap",)
    assert found.gpu_used_mb == pytest.approx(536.87, abs=0.01)
    empty = parse_smi(header, "[N/A], [Not Supported], 1275 MHz, [N/A], 0x0000000000000001")
    assert empty is not None
    assert (empty.watts, empty.celsius, empty.throttling, empty.gpu_used_mb) == ({}, {}, (), None)
    assert parse_smi(header, "No devices were found") is None
    assert reasons_of(0x1 | 0x2 | 0x10 | 0x100) == ()


def fake_nvml(**changes: Any) -> ModuleType:
    """Return a module that answers as pynvml does for one GPU; a change to None is a call that is not supported."""
    module: Any = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    module.NVMLError = NVMLError
    module.NVML_TEMPERATURE_GPU, module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM = 0, 1, 2
    module.stopped = 0
    answers: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu {index}",
        "nvmlDeviceGetName": lambda handle: b"NVIDIA A100",
        "nvmlDeviceGetPowerUsage": lambda handle: 65_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 1_234_000,
        "nvmlDeviceGetTemperature": lambda handle, kind: 41,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1410, 2: 1593}[kind],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=2_500_000_000),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=90),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x24,
    }

    def refuse(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    def shut() -> None:
        module.stopped += 1

    for name, answer in (answers | {"nvmlShutdown": shut} | changes).items():
        setattr(module, name, answer or refuse)
    return module


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    source = nvml_source()
    assert source is not None
    found = source.read()
    assert Sensors([source], root=Path("/none")).gpu_used_mb() == 2500.0
    assert Sensors([source], root=Path("/none")).gpus == ("NVIDIA A100",)
    assert (source.gpu, found.watts, found.joules) == ("NVIDIA A100", {"gpu": 65.5}, {"gpu": 1234.0})
    assert found.mhz == {"gpu": 1410.0, "memory": 1593.0}
    assert (found.celsius, found.load, found.gpu_used_mb) == ({"gpu": 41.0}, {"gpu": 0.9}, 2500.0)
    assert found.throttling == ("software power cap", "software thermal slowdown")
    source.close()
    assert nvml.stopped == 1


def test_nvml_of_a_gpu_that_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {name: None for name in vars(fake_nvml()) if name.startswith("nvmlDeviceGet")} | {
        "nvmlDeviceGetHandleByIndex": lambda index: 0, "nvmlDeviceGetName": lambda handle: "a GPU",
    }  # fmt: skip
    assert NvmlSource(fake_nvml(**silent)).read() == Sample()
    nvml = fake_nvml(nvmlDeviceGetHandleByIndex=None)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert nvml_source() is None
    assert nvml.stopped == 1
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_source() is None


def write(root: Path, name: str, text: object) -> None:
    """Write one file of a made-up file system."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_rapl_goes_on_where_the_counter_begins_anew(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    for name, value in (("name", "package-0"), ("energy_uj", 9_000_000), ("max_energy_range_uj", 10_000_000)):
        write(tmp_path, f"{zone}/{name}", value)
    write(tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", 1)  # its cores, which are part of it
    write(tmp_path, "sys/class/powercap/intel-rapl:1/name", "psys")  # the platform, of which it is a part
    write(tmp_path, "sys/class/powercap/intel-rapl:1/energy_uj", 1)
    source = RaplSource(tmp_path)
    assert source
    assert source.read().joules == {"package-0": 9.0}
    write(tmp_path, f"{zone}/energy_uj", 2_000_000)
    assert source.read().joules == {"package-0": 12.0}
    write(tmp_path, f"{zone}/energy_uj", 3_000_000)
    assert source.read().joules == {"package-0": 13.0}
    assert not RaplSource(tmp_path / "none")


def test_ina_multiplies_volts_and_amperes(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon3"
    for name, value in (("name", "ina3221"), ("in1_label", "VDD_IN"), ("in1_input", 5000), ("curr1_input", 1200),
                        ("in2_label", "VDD_SOC"), ("in2_input", 4990), ("in7_label", "sum of shunt voltages")):  # fmt: skip
        write(tmp_path, f"{folder}/{name}", value)
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "coretemp")
    source = InaSource(tmp_path)
    assert source
    assert source.read().watts == {"VDD_IN": 6.0}  # the others have no current


def board(root: Path, low: int = 2_000_000, governor: str = "schedutil") -> None:
    """Write a machine of two cores and a GPU."""
    for core in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{core}"
        write(root, f"{folder}/cpufreq/scaling_min_freq", low)
        write(root, f"{folder}/cpufreq/scaling_max_freq", 2_000_000)
        write(root, f"{folder}/cpufreq/scaling_cur_freq", 1_800_000 + core)
        write(root, f"{folder}/cpufreq/scaling_governor", governor)
        write(root, f"{folder}/thermal_throttle/core_throttle_count", 3)
    gpu = "sys/class/devfreq/17000000.ga10b"
    for name, value in (("min_freq", 306_000_000), ("max_freq", 918_000_000), ("cur_freq", 612_000_000)):
        write(root, f"{gpu}/{name}", value)
    write(root, "sys/class/devfreq/15340000.vic/cur_freq", 115_200_000)


def test_clocks_and_their_limits(tmp_path: Path) -> None:
    board(tmp_path, low=800_000)
    assert ClockSource(tmp_path).read().mhz == {"cpu": 1800.001, "gpu": 612.0}
    found = limits(tmp_path)
    assert found["cpu1"] == Clock(lowest=800.0, highest=2000.0)
    assert found["gpu"] == Clock(lowest=306.0, highest=918.0)
    assert cpu_governors(tmp_path) == ("schedutil",)
    assert throttle_count(tmp_path) == 6
    sensors = Sensors((), root=tmp_path)
    assert (sensors.locked, sensors.unlocked) == (False, ("cpu0", "cpu1", "gpu"))


def test_a_governor_may_hold_the_cores(tmp_path: Path) -> None:
    board(tmp_path, low=800_000, governor="performance")
    assert Sensors((), root=tmp_path).unlocked == ("gpu",)
    write(tmp_path, "sys/class/devfreq/17000000.ga10b/min_freq", 918_000_000)
    assert Sensors((), root=tmp_path).locked is True
    assert Sensors((), root=tmp_path / "none").locked is None


def test_thermal_zones_and_what_cools(tmp_path: Path) -> None:
    folder = "sys/class/thermal"
    for name, value in (("thermal_zone0/type", "cpu-thermal"), ("thermal_zone0/temp", 52_875), ("thermal_zone1/type", "cv0-thermal"),
                        ("thermal_zone1/temp", -256_000), ("cooling_device0/type", "thermal-cpufreq-0"), ("cooling_device0/cur_state", 2),
                        ("cooling_device1/type", "pwm-fan"), ("cooling_device1/cur_state", 3)):  # fmt: skip
        write(tmp_path, f"{folder}/{name}", value)
    found = ThermalSource(tmp_path).read()
    assert found.celsius == {"cpu-thermal": 52.875}
    assert found.throttling == ("cooling by thermal-cpufreq-0",)


def test_work_of_the_whole_machine(tmp_path: Path) -> None:
    write(tmp_path, "proc/stat", "cpu  100 20 30 1000 50 5 6 7 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0")
    assert busy_seconds(tmp_path) == pytest.approx(1.68)
    write(tmp_path, "proc/stat", "garbage")
    assert busy_seconds(tmp_path) is None
    assert busy_seconds(tmp_path / "none") is None


class Steady:
    """A source whose readings are given."""

    def __init__(self, name: str, **parts: Any) -> None:
        self.name, self.parts, self.closed = name, parts, 0

    def read(self) -> Sample:
        return Sample(**self.parts)

    def close(self) -> None:
        self.closed += 1


def recorded(sensors: Sensors, source: str, readings: int = 3, **options: Any) -> Telemetry:
    """Record until a source has said something so many times, and summarise."""
    until = time.monotonic() + 60
    with Recorder(sensors) as recorder:
        while sum(name == source for _, name, _ in recorder._readings) < readings:
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.01)
    return recorder.telemetry(**options)


def test_energy_is_power_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the reading of the board moves, a quarter of a second each time."""
    now = itertools.count(1)

    class Board(Steady):
        seconds = 0.0

        def read(self) -> Sample:
            self.seconds = 0.25 * next(now)
            return super().read()

    source = Board("tegrastats", watts={"VDD_IN": 8.0, "VDD_SOC": 2.0}, mhz={"gpu": 900.0}, celsius={"tj": 50.0})
    monkeypatch.setattr("edgecnn.bench.telemetry.recorder.time", SimpleNamespace(perf_counter=lambda: source.seconds))
    sensors = Sensors([source, Steady("rapl", joules={"package-0": 5.0})], root=tmp_path, power_mode="15W")
    found = recorded(sensors, "tegrastats", images=10, gpu=True)
    assert found.energy_source == "tegrastats VDD_IN"
    assert found.seconds == source.seconds >= 1
    assert found.joules_per_inference == pytest.approx(8.0 * (found.seconds - 0.25) / 10)  # from the first reading on
    assert found.watts["VDD_IN"] == pytest.approx(8.0)
    assert found.samples == 2 * source.seconds / 0.25  # of two sources
    assert (found.mhz_max, found.celsius_max) == ({"gpu": 900.0}, {"tj": 50.0})
    assert found.sources == ("tegrastats", "rapl")
    assert found.others_share is None
    sensors.close()
    assert source.closed == 1


@pytest.mark.parametrize(("gpu", "wanted"), [(True, "nvml"), (False, "rapl")])
def test_the_energy_is_of_what_did_the_work(tmp_path: Path, gpu: bool, wanted: str) -> None:
    counter = iter(range(1000))

    class Growing(Steady):
        def read(self) -> Sample:
            return Sample(joules={"x": float(next(counter))})

    found = recorded(Sensors([Growing("nvml"), Growing("rapl")], root=tmp_path), "rapl", images=1, gpu=gpu)
    assert found.energy_source == wanted
    assert found.joules_per_inference is not None
    assert found.joules_per_inference >= 4  # three readings of two sources, and the last ones


def test_warnings(tmp_path: Path) -> None:
    board(tmp_path, low=800_000)
    sensors = Sensors((), root=tmp_path, power_mode="MODE_15W_6CORE")
    found = Telemetry(
        throttling=("software power cap",), power_mode="MODE_15W_6CORE", others_share=0.5, clocks_locked=False
    )
    text = "\n".join(warnings_of(found, sensors))
    for part in (
        "throttled (software power cap)",
        "clocks may move (cpu0, cpu1, gpu): sudo jetson_clocks",
        "MODE_15W_6CORE",
        "50%",
    ):
        assert part in text
    quiet = Telemetry(
        power_mode="MAXN", others_share=0.02, clocks_locked=True, mhz_min={"gpu": 900.0}, mhz_max={"gpu": 918.0}
    )
    assert warnings_of(quiet, Sensors((), root=tmp_path / "none")) == []
    moved = Telemetry(clocks_locked=True, mhz_min={"gpu": 600.0}, mhz_max={"gpu": 918.0})
    assert "moved all the same (gpu)" in warnings_of(moved, Sensors((), root=tmp_path / "none"))[0]


def script(folder: Path, name: str, text: str) -> None:
    """Write a tool."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_tools_of_a_jetson_are_found_read_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LOGS / "tegrastats-orin-nano.txt"
    script(tmp_path, "tegrastats", f'echo "$@" > {tmp_path}/asked; while true; do cat {log}; sleep 0.05; done')
    script(tmp_path, "nvpmodel", f"cat {LOGS}/nvpmodel-xavier-nx.txt")
    script(tmp_path, "jetson_clocks", f"cat {LOGS}/jetson_clocks-nano.txt")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    sensors = find_sensors(tmp_path)
    try:
        found = recorded(sensors, "tegrastats", images=4, gpu=True)
    finally:
        sensors.close()
    assert found.power_mode == "MODE_15W_6CORE"
    assert found.energy_source == "tegrastats VDD_IN"
    assert 4.9 < found.watts["VDD_IN"] < 5.8
    assert sensors.unlocked == ("gpu", "memory")
    assert (tmp_path / "asked").read_text().split()[0] == "--interval"
    with pytest.raises(ValueError, match="closed"):
        sensors.sources[0]._process.stdout.readline()  # type: ignore[attr-defined]
    assert sensors.sources[0]._process.returncode is not None  # type: ignore[attr-defined]


def test_nvidia_smi_is_asked_where_nvml_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "power.draw [W], temperature.gpu, clocks.current.sm [MHz], clocks_throttle_reasons.active"
    script(
        tmp_path,
        "nvidia-smi",
        f"echo '{header}'; while true; do echo '70.00 W, 60, 1590 MHz, 0x0000000000000020'; sleep 0.05; done",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = find_sensors(tmp_path)
    try:
        found = recorded(sensors, "nvidia-smi", images=1, gpu=True)
    finally:
        sensors.close()
    assert (found.energy_source, found.throttling) == ("nvidia-smi", ("software thermal slowdown",))
    assert found.watts == {"gpu": pytest.approx(70.0)}


def test_memory_of_a_gpu_is_known_from_nvidia_smi_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first line, and again between two lines: what it costs to load a network is the difference of two readings."""
    script(
        tmp_path,
        "nvidia-smi",
        f"""sleep 0.2; echo 'memory.used [MiB]'; echo '100 MiB'
while [ ! -e {tmp_path}/loaded ]; do sleep 0.02; done; echo '356 MiB'; exec sleep 60""",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = find_sensors(tmp_path)
    try:
        assert [sensors.gpu_used_mb() for _ in range(2)] == [pytest.approx(104.8576)] * 2
        (tmp_path / "loaded").touch()
        until = time.monotonic() + 60
        while sensors.gpu_used_mb() != pytest.approx(373.293056):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.01)
    finally:
        sensors.close()


def test_a_tool_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.bench.telemetry.recorder._PATIENCE", 60.0)
    script(tmp_path, "nvidia-smi", "echo 'No devices were found'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = find_sensors(tmp_path)
    begun = time.monotonic()
    assert sensors.gpu_used_mb() is None
    assert time.monotonic() - begun < 30
    sensors.close()


def test_a_tool_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.bench.telemetry.recorder._PATIENCE", 0.2)
    script(tmp_path, "stubborn", "trap '' TERM; while true; do echo x; sleep 0.02; done")
    source = LineSource("stubborn", (str(tmp_path / "stubborn"),), lambda header, line: Sample(watts={"x": 1.0}))
    until = time.monotonic() + 60
    while source.read() is None:  # it prints after it has set its trap
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
    source.close()
    assert source._process.returncode == -9
