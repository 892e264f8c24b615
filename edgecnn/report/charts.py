"""Charts as SVG text; colours and fonts are the page's, by class name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from edgecnn.analysis import InputRange, LayerNoise

__all__ = ["histogram", "noise_chart"]

WIDTH, LEFT, RIGHT = 1160, 46, 8
TOP, HIGH = 14, 210
GAP, BARS = 44, 84
HEIGHT = TOP + HIGH + GAP + BARS + 24
CARD_WIDTH, CARD_HIGH, CARD_HEIGHT = 300, 84, 104
STEPS = (5, 10, 20, 40)


def noise_chart(layers: Sequence[LayerNoise]) -> str:
    """Return a chart over the position in the graph: isolated and cumulative SQNR, and below the share of the logits' noise."""
    step = (WIDTH - LEFT - RIGHT) / max(len(layers), 1)
    columns = [(layer, LEFT + (index + 0.5) * step) for index, layer in enumerate(layers)]
    parts = [*_levels(layers, columns), *_shares(columns, step), *_positions(columns)]
    label = "Signal-to-noise ratio of each layer's output, and its share of the noise at the logits, by position"
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _levels(layers: Sequence[LayerNoise], columns: Sequence[tuple[LayerNoise, float]]) -> list[str]:
    """Draw the upper panel: a line of the cumulative ratio, a dot for each isolated one."""
    values = [
        v for item in layers for v in (item.isolated_db, item.cumulative_db) if v is not None and math.isfinite(v)
    ]
    low, high, tick = _axis(values)

    def height(value: float) -> float:
        return TOP + HIGH * (high - value) / (high - low)

    marks = [low + tick * index for index in range(round((high - low) / tick) + 1)]
    parts = [_rule(height(mark), f"{mark:g}") for mark in marks]
    parts.append(f'<text class="unit" x="0" y="{TOP - 3}">dB</text>')
    line = [(x, height(layer.cumulative_db)) for layer, x in columns if math.isfinite(layer.cumulative_db)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    parts.append(f'<polyline class="cumulative" points="{path}"/>')
    for layer, x in columns:
        value = layer.isolated_db
        if value is None or not math.isfinite(value):
            continue
        title = escape(
            f"{layer.position} {layer.node}: isolated {value:.1f} dB, cumulative {layer.cumulative_db:.1f} dB"
        )
        parts.append(
            f'<a href="#layer-{layer.position}"><circle class="isolated" cx="{x:.1f}" cy="{height(value):.1f}" r="4">'
            f"<title>{title}</title></circle></a>"
        )
    return parts


def _shares(columns: Sequence[tuple[LayerNoise, float]], step: float) -> list[str]:
    """Draw the lower panel: a bar for each layer's share."""
    base = TOP + HIGH + GAP + BARS
    most = max((layer.share for layer, _ in columns), default=0.0)
    top = next((limit for limit in (0.05, 0.1, 0.25, 0.5, 1.0) if most <= limit), 1.0)
    parts = [_rule(base - BARS * part, f"{top * part:.3g}", percent=True) for part in (0, 0.5, 1)]
    parts.append(f'<text class="unit" x="0" y="{base - BARS - 10}">share of the noise at the logits</text>')
    width = max(min(step * 0.7, 18), 1)
    for layer, x in columns:
        if layer.share <= 0:
            continue
        tall = max(BARS * layer.share / top, 1)
        title = escape(f"{layer.position} {layer.node}: {layer.share:.1%} of the noise at the logits")
        parts.append(
            f'<a href="#layer-{layer.position}"><rect class="share" x="{x - width / 2:.1f}" y="{base - tall:.1f}" '
            f'width="{width:.1f}" height="{tall:.1f}" rx="1.5"><title>{title}</title></rect></a>'
        )
    return parts


def _positions(columns: Sequence[tuple[LayerNoise, float]]) -> list[str]:
    """Write positions along the bottom: the first, and every fifth or tenth."""
    every = 5 if len(columns) <= 80 else 20
    return [
        f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{layer.position}</text>'
        for layer, x in columns
        if layer.position == 1 or layer.position % every == 0
    ]


def _axis(values: Sequence[float]) -> tuple[float, float, float]:
    """Return round limits for values in dB, and the distance of the rules."""
    low, high = min(values, default=0.0), max(values, default=40.0)
    tick = next((step for step in STEPS if (high - low) / step <= 7), 100)
    bottom, top = math.floor(low / tick) * tick, math.ceil(high / tick) * tick
    return bottom, max(top, bottom + tick), tick


def _rule(y: float, text: str, *, percent: bool = False) -> str:
    """Draw a horizontal rule with its value."""
    label = f"{float(text) * 100:g}%" if percent else text
    return (
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def histogram(found: InputRange) -> str:
    """Return the histogram of a quantized input on a logarithmic scale, with the limits of its range."""
    low, high = found.edges
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return CARD_WIDTH * (value - low) / width

    most = max(found.histogram)
    bar = CARD_WIDTH / len(found.histogram)
    parts = [f'<line class="rule" x1="0" x2="{CARD_WIDTH}" y1="{CARD_HIGH}" y2="{CARD_HIGH}"/>']
    for index, count in enumerate(found.histogram):
        if not count:
            continue
        tall = max(CARD_HIGH * 0.94 * math.log1p(count) / math.log1p(most), 1)
        middle = low + (index + 0.5) * width / len(found.histogram)
        kind = "bin" if found.low <= middle <= found.high else "bin outside"
        parts.append(
            f'<rect class="{kind}" x="{index * bar + 0.4:.2f}" y="{CARD_HIGH - tall:.1f}" width="{bar - 0.8:.2f}" '
            f'height="{tall:.1f}"/>'
        )
    parts += _limits(found, place(found.low), place(found.high))
    label = f"Histogram of {found.tensor}: values from {found.smallest:.3g} to {found.largest:.3g}"
    size = f"0 0 {CARD_WIDTH} {CARD_HEIGHT}"
    return f'<svg class="histogram" viewBox="{size}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _limits(found: InputRange, left: float, right: float) -> Iterable[str]:
    """Mark the ends of the range that lie on the chart, and name the chart's ends otherwise."""
    low, high = found.edges
    for value, x, end, anchor in ((found.low, left, low, "start"), (found.high, right, high, "end")):
        inside = low <= value <= high
        at = min(max(x, 0.75), CARD_WIDTH - 0.75)
        if inside:
            yield f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{CARD_HIGH + 4}"/>'
        text, place = (f"{value:.3g}", at) if inside else (f"{end:.3g}", 0 if anchor == "start" else CARD_WIDTH)
        yield f'<text class="tick" x="{place:.1f}" y="{CARD_HEIGHT - 4}" text-anchor="{anchor}">{text}</text>'
