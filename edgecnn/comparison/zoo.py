"""The zoo's networks with their published accuracy, and their latency on this device with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from edgecnn import zoo
from edgecnn.comparison.measure import Latencies, measure_zoo
from edgecnn.comparison.names import short
from edgecnn.comparison.points import Comparison, Point
from edgecnn.comparison.published import references, stated_of
from edgecnn.errors import UserError
from edgecnn.progress import Progress, silent

__all__ = ["REFERENCE", "ZooConfig", "compare_zoo", "zoo_points"]

REFERENCE = "resnet18"
"""Every network is measured in turns with this one: quick to run, and at home on every backend."""

TITLE = "ImageNet classifiers"


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """What to compare.

    Attributes:
        models: a glob over the names of the zoo.
        latency: measure it; otherwise what was measured before on this device is not looked for either.
        threads: of the backend; 0 lets it choose.
        seconds: measuring time a network, after warming up.
        fresh: measure again what was measured before.
    """

    models: str = "*"
    latency: bool = False
    threads: int = 0
    seconds: float = 2.0
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check the values. Raises UserError."""
        if self.threads < 0:
            raise UserError(f"threads {self.threads} must not be negative; 0 lets the backend choose")
        if not 0 < self.seconds <= 3600:
            raise UserError(f"{self.seconds:g} seconds of measuring a network: give more than 0, at most 3600")


def compare_zoo(config: ZooConfig | None = None, progress: Progress = silent) -> Comparison:
    """Compare the networks of the zoo.

    Latency is that of the exported fp32 graph with random weights on onnxruntime, one image of the size that the published
    accuracy belongs to; each result is kept in the cache as soon as there is one, so an interrupted call goes on where it was.

    Raises:
        UserError: no model's name matches.
        MissingDependencyError: latency needs torch, onnx and onnxruntime.
    """
    config = config or ZooConfig()
    points, notes = zoo_points(config.models)
    found = Latencies(of={}, device="", left_out=())
    if config.latency:
        found = measure_zoo([p for p in points if p.name in zoo.names()], config, REFERENCE, progress)
        points = tuple(replace(point, latency=found.of.get(point.name)) for point in points)
    return Comparison(
        points=points,
        title=TITLE,
        device=found.device,
        reference=REFERENCE if config.latency else "",
        left_out=found.left_out,
        notes=notes,
    )


def zoo_points(models: str = "*") -> tuple[tuple[Point, ...], tuple[str, ...]]:
    """Return the zoo's networks whose names match a glob, and what a reader must know of them.

    A network whose default weights are another one's too (the two forms of EfficientNet-Lite) is taken once. AlexNet, which is
    not in the zoo, comes along as a published point of reference. Raises UserError where nothing matches.
    """
    rows = [row for row in zoo.table() if fnmatchcase(row["name"], models)]
    extra = [item for item in references() if fnmatchcase(item["name"], models)]
    if not rows and not extra:
        raise UserError(
            f"no model's name matches {models!r}: 'edgecnn models' lists them; 'efficientnet_*' takes a family"
        )
    points, seen = [], set[str]()
    for row in rows:
        entry = next((item for item in row["weights"] if item["name"] == row["default_weights"]), None)
        spec = zoo.find(row["name"])
        sha256 = next((item.sha256 for item in spec.weights if item.name == row["default_weights"]), "")
        if sha256 and sha256 in seen:
            continue
        seen.add(sha256)
        points.append(_point(row, entry, sha256))
    points += _references(extra)
    unknown = sum(point.top1 is None for point in points)
    notes = [f"{unknown} networks have no published accuracy, and are in the table alone"] if unknown else []
    return tuple(points), tuple(notes)


def _point(row: Mapping[str, Any], entry: Mapping[str, Any] | None, sha256: str) -> Point:
    """Return a network of the zoo."""
    top1, source = (entry["top1"], entry["source"]) if entry else (None, "")
    if top1 is None and (stated := stated_of(sha256, row["input_size"][1])):
        top1, source = stated
    return Point(
        name=row["name"],
        label=short(row["name"]),
        family=row["family"],
        params=row["num_params"],
        macs=row["macs"],
        top1=top1,
        accuracy="published" if top1 is not None else "",
        source=source,
        weights=row["default_weights"],
        size=tuple(row["input_size"]),
    )


def _references(items: list[dict[str, Any]]) -> Iterator[Point]:
    """Yield published networks that the zoo does not have."""
    for item in items:
        yield Point(**item | {"size": tuple(item["size"])}, label=short(item["name"]))
