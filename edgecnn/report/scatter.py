"""The picture of a comparison: accuracy against operations or latency, a bubble a network, its area the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgecnn.comparison import Axis, Comparison, Point, front
from edgecnn.comparison.names import FAMILIES
from edgecnn.errors import UserError
from edgecnn.report.drawing import Disc, Drawing, Line, Shape, Text
from edgecnn.report.labels import Bubble, place_labels
from edgecnn.report.raster import text_width

__all__ = ["AXIS_TITLES", "FRONT", "Frame", "describe", "scatter"]

WIDTH, HEIGHT = 1160.0, 780.0
LEFT, RIGHT, BOTTOM = 62.0, 18.0, 58.0
LABEL = 12.0
AREA = 34.0**2 / 150e6
"""Square pixels of radius for each parameter: 150 M parameters have a radius of 34 pixels."""
LEAST, MOST = 3.5, 46.0
SIZES = (5_000_000, 25_000_000, 100_000_000)
FRONT = "front"

AXIS_TITLES: dict[Axis, str] = {
    "macs": "Multiply-adds for one image (G)",
    "latency": "Latency of one image (ms)",
}
_UNIT: dict[Axis, float] = {"macs": 1e9, "latency": 1.0}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How to draw.

    Attributes:
        axis: what accuracy is drawn against.
        log: whether that axis is logarithmic.
        headed: with title and legends, for a picture that stands alone.
    """

    axis: Axis = "macs"
    log: bool = True
    headed: bool = True


def scatter(comparison: Comparison, frame: Frame | None = None) -> Drawing:
    """Lay the picture out.

    Raises:
        UserError: no point has an accuracy and a number on this axis.
    """
    frame = frame or Frame()
    points = sorted((p for p in comparison.points if p.drawn(frame.axis)), key=lambda p: -(p.params or 0))
    if not points:
        what = "measured latency" if frame.axis == "latency" else "number of operations"
        raise UserError(f"nothing to draw: no network has both an accuracy and a {what}")
    top, shapes = _head(comparison, points, frame) if frame.headed else (14.0, [])
    across, x_ticks = _x_scale([(p.value(frame.axis) or 0.0) / _UNIT[frame.axis] for p in points], log=frame.log)
    upward, y_ticks = _y_scale([p.top1 or 0.0 for p in points], top)

    def place(point: Point) -> tuple[float, float]:
        return across((point.value(frame.axis) or 0.0) / _UNIT[frame.axis]), upward(point.top1 or 0.0)

    best = front(points, frame.axis)
    line = [place(point) for point in best]
    shapes += _grid(x_ticks, y_ticks, (across, upward), top)
    shapes += _axis_titles(points, frame, top)
    shapes.append(Line(points=line, role=FRONT, width=1.2, dashed=True, key=FRONT))
    shapes += [_disc(point, place(point)) for point in points]
    shapes += _names(points, place, line, best, top)
    label = f"{comparison.title}: top-1 accuracy against {AXIS_TITLES[frame.axis].lower()}, {len(points)} networks"
    return Drawing(width=WIDTH, height=HEIGHT, shapes=tuple(shapes), label=label)


def describe(point: Point) -> str:
    """Return what is known of a point, in a line."""
    parts = [point.name, f"top-1 {point.top1:.2f} % ({point.accuracy})" if point.top1 is not None else "no accuracy"]
    if point.macs:
        parts.append(f"{point.macs / 1e9:.2f} G multiply-adds")
    if point.params:
        parts.append(f"{point.params / 1e6:.1f} M parameters")
    if point.latency:
        parts.append(f"{point.latency.milliseconds:.2f} ms")
    return ", ".join(parts)


def _radius(params: int) -> float:
    """Return the radius for a number of parameters, pixels."""
    return min(max(math.sqrt(params * AREA), LEAST), MOST)


def _disc(point: Point, place: tuple[float, float]) -> Disc:
    """Return a point's bubble."""
    return Disc(
        x=place[0],
        y=place[1],
        r=_radius(point.params or 0),
        role=point.family,
        key=point.name,
        title=describe(point),
        hollow=not point.own_accuracy,
    )


def _names(
    points: Sequence[Point],
    place: Callable[[Point], tuple[float, float]],
    line: Sequence[tuple[float, float]],
    best: Sequence[Point],
    top: float,
) -> Iterator[Shape]:
    """Yield the names, those on the front first, with lines to those that are far from their bubbles."""
    on_front = {point.name for point in best}
    ranked = sorted(points, key=lambda p: (p.name not in on_front, p.params or 0))
    bubbles = [
        Bubble(*place(point), _radius(point.params or 0), 1.04 * text_width(point.label, LABEL) + 4, LABEL + 1)
        for point in ranked
    ]
    placed = place_labels(bubbles, (LEFT + 4, top + 4, WIDTH - RIGHT, HEIGHT - BOTTOM - 4), line)
    for point, found in zip(ranked, placed, strict=True):
        if found is not None and found.leader:
            yield Line(points=found.leader, role=point.family, width=0.7, key=point.name)
    for point, found in zip(ranked, placed, strict=True):
        if found is not None:
            bold = point.name in on_front
            yield Text(
                x=found.x + 2,
                y=found.y + 0.36 * LABEL,
                text=point.label,
                role=point.family,
                size=LABEL,
                bold=bold,
                halo=not found.inside,
                key=point.name,
            )


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    scales: tuple[Callable[[float], float], Callable[[float], float]],
    top: float,
) -> Iterator[Shape]:
    """Yield rules with their values."""
    base = HEIGHT - BOTTOM
    for value in y_ticks:
        y = scales[1](value)
        yield Line(points=((LEFT, y), (WIDTH - RIGHT, y)), role="hair")
        yield Text(x=LEFT - 8, y=y + 4.5, text=f"{value:g}", anchor="end")
    for value in x_ticks:
        x = scales[0](value)
        yield Line(points=((x, top), (x, base)), role="hair")
        yield Text(x=x, y=base + 20, text=f"{value:g}", anchor="middle")
    yield Line(points=((LEFT, base), (WIDTH - RIGHT, base)), role="soft")


def _axis_titles(points: Sequence[Point], frame: Frame, top: float) -> Iterator[Shape]:
    """Yield what the axes show."""
    measured = all(point.accuracy.startswith("measured") for point in points)
    upward = "Top-1 accuracy, measured (%)" if measured else "ImageNet-1k top-1 accuracy, published (%)"
    across = AXIS_TITLES[frame.axis] + (", log scale" if frame.log else "")
    yield Text(x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 12, text=across, role="ink", size=14, anchor="middle")
    yield Text(x=18, y=(top + HEIGHT - BOTTOM) / 2, text=upward, role="ink", size=14, anchor="middle", upright=True)


def _head(comparison: Comparison, points: Sequence[Point], frame: Frame) -> tuple[float, list[Shape]]:
    """Return where the plot begins, and title, legend of the families, and legend of the sizes."""
    title = f"{comparison.title}: accuracy against {'latency' if frame.axis == 'latency' else 'operations'}"
    shapes: list[Shape] = [Text(x=16, y=32, text=title, role="ink", size=20, bold=True)]
    told = "Bubble area: parameters. Dashed: Pareto front."
    if not all(point.own_accuracy for point in points):
        told += " Hollow: accuracy of the fp32 network."
    if frame.axis == "latency":
        told += f" Measured on {comparison.device}, {_precisions(points)}."
    shapes.append(Text(x=16, y=54, text=told, size=13))
    x, y = 24.0, 82.0
    present = {point.family for point in points}
    for family in (name for name in FAMILIES if name in present):
        width = 16 + text_width(FAMILIES[family], 13) + 18
        if x + width > WIDTH - RIGHT:
            x, y = 24.0, y + 24
        shapes += [
            Disc(x=x, y=y - 4.5, r=6, role=family),
            Text(x=x + 12, y=y, text=FAMILIES[family], role="ink", size=13),
        ]
        x += width
    at = WIDTH - RIGHT - 4
    for size in reversed(SIZES):
        text = f"{size / 1e6:g} M"
        at -= text_width(text, 12)
        shapes.append(Text(x=at, y=48, text=text, size=12))
        at -= 6 + _radius(size)
        shapes.append(Disc(x=at, y=44, r=_radius(size), role="soft"))
        at -= _radius(size) + 16
    return y + 24, shapes


def _precisions(points: Sequence[Point]) -> str:
    """Return what was measured, in words."""
    found = [p.latency for p in points if p.latency]
    backends = ", ".join(dict.fromkeys(item.backend for item in found))
    threads = {item.threads for item in found}
    count = "" if threads == {0} else f", {max(threads)} {'thread' if threads == {1} else 'threads'}"
    precisions = list(dict.fromkeys(point.precision for point in points))
    return f"{precisions[0] if len(precisions) == 1 else 'by variant'} on {backends}{count}"


def _x_scale(values: Sequence[float], *, log: bool) -> tuple[Callable[[float], float], list[float]]:
    """Return the place of a value in pixels, and where rules go."""
    span = WIDTH - RIGHT - LEFT
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low) - 0.1, math.log10(high) + 0.12
        ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        shown = [round(tick, 12) for tick in ticks if low <= math.log10(tick) <= high]
        if len(shown) < 4:  # a narrow range has not enough of these
            step = _step(10**high - 10**low, 7)
            shown = [round(step * n, 12) for n in range(math.ceil(10**low / step), int(10**high / step) + 1)]
        return lambda value: LEFT + span * (math.log10(value) - low) / (high - low), shown
    top = high * 1.05
    step = _step(top, 8)
    shown = [round(step * index, 12) for index in range(int(top / step) + 1)]
    return lambda value: LEFT + span * (value + 0.01 * top) / (1.01 * top), shown


def _y_scale(values: Sequence[float], top: float) -> tuple[Callable[[float], float], list[float]]:
    """Return the place of an accuracy in pixels, and where rules go."""
    low, high = min(values), max(values)
    pad = max(0.06 * (high - low), 0.4)
    low, high = max(low - pad, 0.0), min(high + pad, 100.0)
    step = _step(high - low, 12)
    shown = [round(step * index, 12) for index in range(math.ceil(low / step), int(high / step) + 1)]
    base = HEIGHT - BOTTOM
    return lambda value: base - (base - top) * (value - low) / (high - low), shown


def _step(span: float, most: int) -> float:
    """Return a round distance between rules, so that there are at most so many."""
    raw = span / most
    unit = 10.0 ** math.floor(math.log10(raw))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9))
