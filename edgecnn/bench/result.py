"""The result of a benchmark as frozen data: JSON out and in. docs/BENCH.md lists the keys for those who read the document elsewhere."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from edgecnn._version import __version__
from edgecnn.errors import DataError

__all__ = ["KIND", "SCHEMA", "BenchResult", "Comparison", "Device", "Histogram", "Latency", "LayerTime", "Load", "Memory", "Peak",
           "Roofline", "Run", "StartUp", "Telemetry", "read_result"]  # fmt: skip

SCHEMA = 1
_MAPPING = typing.get_origin(Mapping[str, Any])
KIND = "edgecnn-bench"

Verdict = Literal["faster", "slower", "none"]


class _Json:
    """Both directions for a frozen dataclass; unknown keys are ignored, so that additions need no new schema."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; numbers that are not finite become null."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(typing.cast("Any", self))}

    @classmethod
    def from_json(cls, data: Any, where: str = "benchmark") -> Self:
        """Read a JSON object. Raises DataError where a key is missing or has another type."""
        if not isinstance(data, Mapping):
            raise DataError(f"{where}: expected a JSON object, found {type(data).__name__}")
        values: dict[str, Any] = {}
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(typing.cast("Any", cls)):
            if item.name in data:
                values[item.name] = _typed(hints[item.name], data[item.name], f"{where}: {item.name}")
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                raise DataError(f"{where}: {item.name} is missing")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Latency(_Json):
    """A distribution of times in milliseconds; percentiles interpolate linearly (Hyndman and Fan 1996, definition 7).

    Attributes:
        count: how many times there are; with fewer than 1000, ``p99_9`` lies between the two largest.
    """

    count: int
    min_ms: float
    mean_ms: float
    std_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float


@dataclass(frozen=True, kw_only=True)
class Histogram(_Json):
    """Counts between edges in milliseconds, ``len(edges_ms) == len(counts) + 1``; the last bin holds everything above it too."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StartUp(_Json):
    """What an application pays before the first result.

    Attributes:
        import_ms: importing the backend; 0 where an earlier run of the same process had done it.
        load_ms: from the bundle's file to a session. ``first_ms``: the first inference.
        warmup_runs, warmup_ms: until latency was steady, or the limit was reached (``steady`` false).
    """

    import_ms: float
    load_ms: float
    first_ms: float
    warmup_runs: int
    warmup_ms: float
    steady: bool


@dataclass(frozen=True, kw_only=True)
class Memory(_Json):
    """Megabytes (10**6 bytes) of this process, and of the GPU; None where they cannot be read.

    Attributes:
        rss_before_mb: backend imported, model not loaded. ``rss_loaded_mb``: session made. ``rss_after_mb``: measured.
        rss_peak_mb: highest since before loading.
        gpu_used_mb: device memory in use after the measurement less before loading, of the whole device.
    """

    rss_before_mb: float | None = None
    rss_loaded_mb: float | None = None
    rss_after_mb: float | None = None
    rss_peak_mb: float | None = None
    gpu_used_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Load(_Json):
    """An open loop: requests arrive by the clock, whether the model keeps up or not. Latency counts from the intended arrival.

    Attributes:
        pattern: ``fixed`` or ``poisson``. ``rate``: intended arrivals a second. ``achieved``: results a second.
        deadline_ms: a request must end so long after its arrival.
        requests, served: that arrived; that were served before the measurement was given up. Those not served missed the deadline.
        misses: requests after their deadline. ``queue``: from arrival to start. ``service``: from start to end.
        utilisation: arrivals x mean service time / streams; from 1 on the queue grows without end.
    """

    pattern: str
    rate: float
    achieved: float
    deadline_ms: float
    requests: int
    served: int
    misses: int
    queue: Latency
    service: Latency
    utilisation: float


@dataclass(frozen=True, kw_only=True)
class Telemetry(_Json):
    """What the device's sensors said during the measurement; empty or None where it has none.

    Attributes:
        sources: ``tegrastats``, ``nvml``, ``nvidia-smi``, ``rapl``, ``ina``, ``cpufreq``, ``thermal``: those that were read.
        samples: readings taken. ``seconds``: they cover.
        watts: mean power by rail. ``joules_per_inference``: of ``energy_source`` over the measurement, idle power included, per image.
        mhz_min, mhz_max: lowest and highest clock seen, by unit. ``celsius_max``: by sensor.
        power_mode: of a Jetson's nvpmodel. ``throttling``: reasons seen. ``clocks_locked``: None where it cannot be told.
        others_share: share of the machine's processor time that went to other processes.
    """

    sources: tuple[str, ...] = ()
    samples: int = 0
    seconds: float = 0.0
    watts: Mapping[str, float] = field(default_factory=dict)
    joules_per_inference: float | None = None
    energy_source: str = ""
    mhz_min: Mapping[str, float] = field(default_factory=dict)
    mhz_max: Mapping[str, float] = field(default_factory=dict)
    celsius_max: Mapping[str, float] = field(default_factory=dict)
    power_mode: str = ""
    throttling: tuple[str, ...] = ()
    clocks_locked: bool | None = None
    others_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Peak(_Json):
    """A matrix product's speed on a backend: what the device can do, as far as this backend reaches it.

    Attributes:
        precision: ``fp32`` or ``int8``. ``gmacs``: 10**9 multiply-adds a second, the best of its runs. ``shape``: (m, k, n).
    """

    backend: str
    threads: int
    precision: str
    gmacs: float
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Roofline(_Json):
    """How much of the peak a model reaches.

    Attributes:
        macs: multiply-adds for one image. ``macs_source``: where that number comes from.
        gmacs: reached, 10**9 multiply-adds a second at the median latency.
        peak_gmacs, precision: of the matrix product that was measured in the same run. ``fraction``: gmacs / peak_gmacs.
    """

    macs: int
    macs_source: str
    gmacs: float
    peak_gmacs: float
    precision: str
    fraction: float


@dataclass(frozen=True, kw_only=True)
class LayerTime(_Json):
    """A node of the graph as the backend runs it (fused, renamed): mean milliseconds a run, and its share of all nodes' time."""

    name: str
    op: str
    mean_ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Run(_Json):
    """One cell of the matrix.

    Attributes:
        label: what it is called in tables and comparisons: ``int8-cpu@onnxruntime``, with what else differs between cells.
        bundle: the folder. ``model``: the network's name. ``precision``: of the variant. ``threads``: 0 is the backend's choice.
        streams: requests side by side. ``end_to_end``: whether latency holds preprocessing and postprocessing.
        seconds: of the measurement. ``throughput``: images a second over it.
        latency: of one request of ``batch`` images; under a load, from its intended arrival.
        stages: ``preprocess``, ``copy``, ``compute``, ``postprocess``: a request taken apart, one at a time. Without ``copy`` the
            backend does not tell it from ``compute``.
        load: of an open loop; None back to back.
        warnings: what makes these numbers doubtful.
    """

    label: str
    bundle: str
    model: str
    variant: str
    precision: str
    backend: str
    batch: int
    threads: int
    streams: int
    end_to_end: bool
    seconds: float
    throughput: float
    latency: Latency
    histogram: Histogram
    start_up: StartUp
    memory: Memory
    stages: Mapping[str, Latency] = field(default_factory=dict)
    load: Load | None = None
    telemetry: Telemetry | None = None
    roofline: Roofline | None = None
    layers: tuple[LayerTime, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison(_Json):
    """Two runs that were measured in turns.

    Attributes:
        baseline, candidate: labels. ``rounds``: pairs of turns.
        ratio: candidate's time / baseline's. ``low``, ``high``: its interval at ``confidence``, by ``method``.
        verdict: of the candidate; ``none`` where the interval holds 1. ``text``: in words.
    """

    baseline: str
    candidate: str
    rounds: int
    ratio: float
    low: float
    high: float
    confidence: float
    method: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, kw_only=True)
class Device(_Json):
    """Where it was measured: ``name`` of the board or processor, its architecture, logical cores, GPUs, and versions."""

    name: str
    arch: str
    system: str
    cores: int
    gpus: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BenchResult(_Json):
    """Everything that one call of ``edgecnn bench`` found.

    Attributes:
        runs: cells of the matrix, in order; of a comparison the baseline first.
        config: the options, as data. ``created``: ISO 8601, UTC. ``edgecnn``: version. ``kind``, ``schema``: of this format.
        warnings: about the whole; each run has its own besides.
    """

    device: Device
    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    comparisons: tuple[Comparison, ...] = ()
    peaks: tuple[Peak, ...] = ()
    warnings: tuple[str, ...] = ()
    created: str = ""
    edgecnn: str = __version__
    kind: str = KIND
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, data: Any, where: str = "benchmark") -> Self:
        """Read the document. Raises DataError: no benchmark, of a newer schema, or with values of other types."""
        if not isinstance(data, Mapping) or data.get("kind") != KIND:
            raise DataError(f"{where}: not a result of 'edgecnn bench --json'")
        schema = data.get("schema")
        if isinstance(schema, bool) or not isinstance(schema, int) or schema > SCHEMA or schema < 1:
            raise DataError(f"{where}: schema {schema!r}, and this edgecnn reads up to {SCHEMA}: update edgecnn")
        return super().from_json(data, where)


def read_result(path: Path) -> BenchResult:
    """Read a file that holds the document of ``edgecnn bench --json``, or a device's in its bundle (``results/DEVICE/bench.json``).

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    kept = data["result"] if isinstance(data, dict) and data.get("verb") == "bench" and "result" in data else data
    return BenchResult.from_json(kept, str(path))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, _Json):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Return a JSON value as a field's type has it. Raises DataError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _typed(inner[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(inner[0], item, where) for item in value)
    if origin is _MAPPING and isinstance(value, Mapping):
        return {str(key): _typed(inner[1], item, where) for key, item in value.items()}
    if origin is Literal and value in inner:
        return value
    if isinstance(hint, type) and issubclass(hint, _Json):
        return hint.from_json(value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise DataError(f"{where} must be {_spoken(hint)}, found {json.dumps(value, default=str)[:60]}")


def _spoken(hint: Any) -> str:
    """Return what a field holds, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(item) for item in inner)
    if origin is types.UnionType:
        return f"{_spoken(inner[0])} or null"
    if origin is tuple:
        return "a list"
    if origin is _MAPPING or (isinstance(hint, type) and issubclass(hint, _Json)):
        return "an object"
    return {str: "text", bool: "true or false", int: "a whole number", float: "a number"}.get(hint, str(hint))
