"""A report's part on a benchmark: where it was taken, what makes it doubtful, what the benchmark's own page shows, and the roofline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from edgecnn.bench.result import BenchResult, Run
from edgecnn.report import html
from edgecnn.report.bench_page import bench_sections

__all__ = ["measured_sections"]


def measured_sections(result: BenchResult) -> Iterator[str]:
    """Yield the parts that there is something to show of."""
    device = result.device
    gpus = f", {', '.join(device.gpus)}" if device.gpus else ""
    told = f"On {device.name} ({device.arch}, {device.cores} cores{gpus}), {device.system}; "
    told += ", ".join([*(f"{name} {version}" for name, version in device.versions.items()), result.created])
    yield "<h2 class='part' id='measured'>Measured</h2>"
    lead = f"<p class='lead'>{escape(told)}</p>"
    yield html.section("Where, and how far to trust it", lead, html.bullets([*result.warnings, *_doubts(result.runs)]))
    yield from bench_sections(result)
    yield from _roofline(result)


def _doubts(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what makes runs doubtful; what is said of several, with other numbers, is said once."""
    found: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for text in run.warnings:
            found.setdefault(re.sub(r"[\d.]+", "#", text), []).append((run.label, text))
    for said in found.values():
        others = f", and the like of {', '.join(label for label, _ in said[1:])}" if len(said) > 1 else ""
        yield f"{said[0][0]}: {said[0][1]}{others}"


def _roofline(result: BenchResult) -> Iterator[str]:
    """Yield how much of the device's peak each run reaches."""
    found = [(run, run.roofline) for run in result.runs if run.roofline is not None]
    if not found:
        return
    bars = []
    for run, line in found:
        told = f"{line.gmacs:.3g} of {line.peak_gmacs:.3g} GMAC/s ({line.precision}): {line.fraction:.0%}; "
        told += f"{line.macs / 1e9:.2f} G multiply-adds ({line.macs_source})"
        width = 100 * min(max(line.fraction, 0.0), 1.0)
        bars.append(
            f"<div class='stack'><b>{escape(run.label)}</b><span class='track'><i style='width:{width:.1f}%'></i></span>"
            f"<small>{escape(told)}</small></div>"
        )
    peaks = [
        f"peak of {peak.precision} on {peak.backend}{f', {peak.threads} threads' if peak.threads else ''}: {peak.gmacs:.3g} GMAC/s, "
        f"a product of {' x '.join(map(str, peak.shape))}"
        for peak in result.peaks
    ]
    text = "The whole bar is the speed of a matrix product, measured in the same run: what the backend reaches at best."
    yield html.section("Roofline", f"<p class='lead'>{text}</p>", *bars, html.bullets(peaks), ident="roofline")
