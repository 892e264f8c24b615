"""Latency on this device, in turns with a reference; what was measured once is kept by content."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn import zoo
from edgecnn._version import __version__
from edgecnn.artifacts import cache_dir, cache_folder, sha256_json
from edgecnn.bench.device import describe
from edgecnn.bench.timing import Timing, interleave
from edgecnn.comparison.points import LeftOut, Measured, Point
from edgecnn.errors import BackendError, ToolError
from edgecnn.optional import need
from edgecnn.progress import Progress
from edgecnn.runtime import OrtOptions, OrtSession
from edgecnn.runtime.session import Array, Session
from edgecnn.spec import ModelSpec, TensorSpec
from edgecnn.writing import write_json

if TYPE_CHECKING:
    from edgecnn.comparison.zoo import ZooConfig

__all__ = ["Latencies", "feed", "images", "measure_zoo", "processor"]

SCHEMA = 1
"""Of what is kept; another one is measured again."""

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """What was measured: name -> latency, on which device, and what could not be measured."""

    of: Mapping[str, Measured]
    device: str
    left_out: tuple[LeftOut, ...]


def measure_zoo(points: Sequence[Point], config: ZooConfig, reference: str, progress: Progress) -> Latencies:
    """Measure networks of the zoo with random weights, each in turns with the reference.

    Args:
        points: their names and input sizes.
        config: threads and seconds.
        reference: name of a network of the zoo.
        progress: called once a network.

    Raises:
        MissingDependencyError: torch, onnx or onnxruntime is not installed.
    """
    for module in ("torch", "onnx", "onnxruntime"):
        need(module)
    device = processor()
    kept: dict[str, dict[str, Any]] = {}
    left_out: list[LeftOut] = []
    with ExitStack() as stack:
        against: Session | None = None  # made when the first network has to be measured
        for done, point in enumerate(points):
            place = _place(point, config, reference)
            row = None if config.fresh else _read(place)
            if row is None:
                against = against or stack.enter_context(_random_session(zoo.find(reference), config.threads))
                try:
                    row = _measure(point, against, config)
                except ToolError as error:
                    left_out.append(LeftOut(name=point.name, reason=str(error).splitlines()[0]))
                    progress("measure", done + 1, len(points))
                    continue
                cache_folder(place.parent)
                write_json(place, row)
            kept[point.name] = row
            progress("measure", done + 1, len(points))
    if not kept:
        return Latencies(of={}, device=device, left_out=tuple(left_out))
    # The reference's time over all of them: what the ratios, which the machine's load does not disturb, are scaled with.
    base = statistics.median(row["reference_ms"] for row in kept.values())
    return Latencies(
        of={name: _measured(row, base, config.threads) for name, row in kept.items()},
        device=device,
        left_out=tuple(left_out),
    )


def _measured(row: Mapping[str, Any], base: float, threads: int) -> Measured:
    """Return a kept row as a latency."""
    return Measured(
        milliseconds=row["ratio"] * base,
        ratio=row["ratio"],
        spread=row["spread"],
        rounds=row["runs"],
        backend="onnxruntime",
        threads=threads,
    )


def _measure(point: Point, against: Session, config: ZooConfig) -> dict[str, Any]:
    """Measure one network in turns with the reference."""
    with _random_session(_sized(zoo.find(point.name), point.size), config.threads) as session:
        sessions = {"reference": against, "own": session}
        feeds = {name: feed(one.inputs[0]) for name, one in sessions.items()}
        _check(session.run(feeds["own"]), point.name)
        found = interleave(sessions, feeds, baseline="reference", seconds=config.seconds)
    return _row(found["own"], found["reference"])


def _row(own: Timing, reference: Timing) -> dict[str, Any]:
    """Return what is kept of a measurement."""
    return own.to_json() | {"schema": SCHEMA, "reference_ms": reference.median_ms}


def _check(outputs: Mapping[str, Array], name: str) -> None:
    """Check that random weights did not lead where arithmetic has another speed: infinity, NaN, denormals."""
    for value in outputs.values():
        if not np.isfinite(value).all() or float(np.abs(value).max()) < 1e-30:
            raise BackendError(f"{name} with random weights gives numbers that say nothing about its speed")


@contextmanager
def _random_session(spec: ModelSpec, threads: int) -> Iterator[Session]:
    """Export a network with random weights, and yield a session on it."""
    from edgecnn.export import ExportConfig, export

    with tempfile.TemporaryDirectory(prefix="edgecnn-compare-") as folder:
        module = zoo.build(spec, f"random:{SEED}").module
        model = export(module, spec, ExportConfig(batch=1), to=Path(folder) / f"{spec.name}.onnx")
        del module
        with OrtSession(model.path, OrtOptions(threads=threads)) as session:
            yield session


def _sized(spec: ModelSpec, size: tuple[int, ...]) -> ModelSpec:
    """Return a description that takes images of (channels, height, width): those that the default weights are for."""
    (tensor,) = spec.inputs
    _, height, width = size
    return replace(
        spec,
        inputs=(replace(tensor, shape=(tensor.shape[0], *size)),),
        preprocess=replace(spec.preprocess, size=(height, width), resize=max(height, width)),
    )


def feed(spec: TensorSpec) -> dict[str, Array]:
    """Return noise for a graph's input, one image where the batch is dynamic: real-valued, since zeros run at another speed."""
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    draw = np.random.default_rng(SEED)
    if spec.dtype == "uint8":
        return {spec.name: draw.integers(0, 256, shape, dtype=np.uint8)}
    return {spec.name: draw.standard_normal(shape).astype(spec.dtype)}


def images(spec: TensorSpec) -> int:
    """Return how many images :func:`feed` makes."""
    return spec.shape[0] if isinstance(spec.shape[0], int) else 1


def _place(point: Point, config: ZooConfig, reference: str) -> Path:
    """Return where a network's measurement is kept: a name made of everything that it depends on."""
    key = {
        "schema": SCHEMA,
        "edgecnn": __version__,
        "networks": _networks(),
        "specs": [zoo.find(name).to_json() for name in (point.name, reference)],
        "size": list(point.size),
        "threads": config.threads,
        "device": processor(),
        "versions": [_version("torch"), _version("onnxruntime", "onnxruntime-gpu")],
    }
    return cache_dir() / "latency" / f"{point.name}-{sha256_json(key)[:20]}.json"


def _version(*distributions: str) -> str:
    """Return the version of the first of these that is installed, "" where none is."""
    for name in distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""


def _networks() -> str:
    """Return the hash of the code of the networks."""
    sources = sorted(files("edgecnn.models").iterdir(), key=lambda item: item.name)
    return sha256_json([item.read_text(encoding="utf-8") for item in sources if item.name.endswith(".py")])


def _read(place: Path) -> dict[str, Any] | None:
    """Read a kept measurement; what is not whole is measured again."""
    try:
        row: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        usable = row["schema"] == SCHEMA and all(
            math.isfinite(row[name]) and row[name] > 0 for name in ("ratio", "reference_ms", "runs")
        )
        return row if usable and math.isfinite(row["spread"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def processor() -> str:
    """Return this device's name and its logical cores, as a reader knows it."""
    device = describe()
    return f"{device.name}, {device.cores} cores"
