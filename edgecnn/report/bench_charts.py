"""Charts of a benchmark as SVG text; colours and fonts are the page's, by class name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from edgecnn.bench.result import Run

__all__ = ["latency_chart"]

WIDTH, TOP, HIGH, HEIGHT = 300, 44, 84, 148


def latency_chart(run: Run) -> str:
    """Return the histogram of a run's latencies with its median, 95th and 99th percentiles."""
    edges, counts = run.histogram.edges_ms, run.histogram.counts
    if len(edges) != len(counts) + 1 or not any(counts) or edges[-1] <= edges[0]:
        return ""
    low, high = edges[0], edges[-1]

    def place(value: float) -> float:
        return WIDTH * (min(max(value, low), high) - low) / (high - low)

    base, most = TOP + HIGH, max(counts)
    parts = [f'<line class="rule" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>']
    for index, count in enumerate(counts):
        if not count:
            continue
        left, right = place(edges[index]), place(edges[index + 1])
        tall = max(HIGH * count / most, 1)
        said = f"{edges[index]:.3g} to {edges[index + 1]:.3g} ms: {count}"
        parts.append(
            f'<rect class="bin" x="{left + 0.4:.1f}" y="{base - tall:.1f}" width="{max(right - left - 0.8, 0.6):.1f}" height="{tall:.1f}">'
            f"<title>{escape(said)}</title></rect>"
        )
    latency = run.latency
    parts += _marks([("p50", latency.p50_ms), ("p95", latency.p95_ms), ("p99", latency.p99_ms)], place, high)
    parts.append(f'<text class="tick" x="0" y="{HEIGHT - 4}">{low:.3g} ms</text>')
    above = "≥ " if latency.max_ms > high * (1 + 1e-9) else ""
    parts.append(f'<text class="tick" x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{above}{high:.3g} ms</text>')
    label = f"Latency of {run.label}: median {latency.p50_ms:.3g} ms, 99th percentile {latency.p99_ms:.3g} ms"
    return f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _marks(marks: Sequence[tuple[str, float]], place: Callable[[float], float], high: float) -> list[str]:
    """Draw percentiles; a name that would lie on the one before it goes down a step."""
    parts, taken, step = [], -1.0, 0
    for name, value in marks:
        x = min(max(place(value), 0.6), WIDTH - 0.6)
        text = name if value <= high else f"{name} →"
        wide = 7.0 * len(text)
        anchor, at = ("end", x - 3) if x + wide + 3 > WIDTH else ("start", x + 3)
        left, right = (at - wide, at) if anchor == "end" else (at, at + wide)
        step = step + 1 if left < taken else 0
        taken = max(taken, right) if step else right
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 40 + 14 * step}" y2="{TOP + HIGH}"/>'
            f'<text class="tick" x="{at:.1f}" y="{TOP - 30 + 14 * step}" text-anchor="{anchor}">{text}</text>'
        )
    return parts
