"""What a comparison holds: a point a network, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["AXES", "Axis", "Comparison", "LeftOut", "Measured", "Point", "front"]

Axis = Literal["macs", "latency"]
AXES: tuple[Axis, ...] = ("macs", "latency")
"""What accuracy is drawn against."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Latency of one image, measured in turns with a reference.

    Attributes:
        milliseconds: ``ratio`` x the reference's time over the whole comparison, so that points are comparable though the machine
            was not equally busy all along.
        ratio: median over the rounds of (this time / the reference's in the same round).
        spread: half the interquartile range of these ratios.
        rounds: inferences measured.
        backend, threads: what ran it; 0 threads is the backend's choice.
    """

    milliseconds: float
    ratio: float
    spread: float
    rounds: int
    backend: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network.

    Attributes:
        name: unique in the comparison: the model's, or a bundle's with its variant.
        label: short, for a chart.
        family: of the zoo, ``user`` for others.
        params: number of parameters. ``macs``: multiply-adds for one image; None where they cannot be told.
        top1: accuracy, percent.
        accuracy: what that is: ``published``, ``published for fp32``, ``measured on N images``.
        source: where a published accuracy is stated.
        weights: which ones have it. ``size``: (channels, height, width) of the input.
        precision: of the graph that latency was measured of.
        latency: None where it was not measured.
        agreement: percent of the verification's images where a quantized variant says what PyTorch says; None for others.
    """

    name: str
    label: str
    family: str
    params: int | None
    macs: int | None
    top1: float | None
    accuracy: str = "published"
    source: str = ""
    weights: str = ""
    size: tuple[int, ...] = ()
    precision: str = "fp32"
    latency: Measured | None = None
    agreement: float | None = None

    @property
    def own_accuracy(self) -> bool:
        """Whether the accuracy is this graph's own, and not that of the fp32 network that it was made from."""
        return self.accuracy != "published for fp32"

    def value(self, axis: Axis) -> float | None:
        """Return multiply-adds, or milliseconds; None where there is no such number."""
        if axis == "macs":
            return None if self.macs is None else float(self.macs)
        return None if self.latency is None else self.latency.milliseconds

    def drawn(self, axis: Axis) -> bool:
        """Whether the point can be drawn against an axis."""
        value = self.value(axis)
        return self.top1 is not None and self.params is not None and value is not None and value > 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dict(vars(self)) | {
            "size": list(self.size),
            "latency": None if self.latency is None else self.latency.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A network that is not compared, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Networks to compare.

    Attributes:
        points: all of them, those without a published accuracy too.
        title: of the picture.
        device: what latency was measured on; "" where it was not.
        reference: the network that every other one was measured in turns with; "" where latency was not measured.
        left_out: what could not be measured or read.
        notes: what a reader must know.
    """

    points: tuple[Point, ...]
    title: str
    device: str = ""
    reference: str = ""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes against which at least one point can be drawn."""
        return tuple(axis for axis in AXES if any(point.drawn(axis) for point in self.points))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; ``front`` holds the names on each axis' Pareto front."""
        return {
            "title": self.title,
            "device": self.device or None,
            "reference": self.reference or None,
            "points": [point.to_json() for point in self.points],
            "front": {axis: [point.name for point in front(self.points, axis)] for axis in self.axes},
            "left_out": [item.to_json() for item in self.left_out],
            "notes": list(self.notes),
        }


def front(points: Iterable[Point], axis: Axis) -> tuple[Point, ...]:
    """Return the points that no other one beats: none is at least as accurate and cheaper, or more accurate and as cheap.

    Args:
        points: those that cannot be drawn, or whose accuracy is another graph's, are passed over.
        axis: what is to be small; accuracy is to be large.

    Returns:
        By rising cost. Of points that are equal in both, the first.
    """
    drawn = [point for point in points if point.drawn(axis) and point.own_accuracy]
    ranked = sorted(drawn, key=lambda point: (point.value(axis) or 0.0, -(point.top1 or 0.0)))
    best = float("-inf")
    found = []
    for point in ranked:
        if (point.top1 or 0.0) > best:
            best = point.top1 or 0.0
            found.append(point)
    return tuple(found)
