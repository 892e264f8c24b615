"""The page of a benchmark: one HTML file that needs no network and no library."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from edgecnn.bench.result import BenchResult
from edgecnn.report.bench_sections import bench_sections
from edgecnn.report.html import document, figures, footer, write_text

__all__ = ["bench_page", "write_bench_page"]

TERMS = (
    ("Latency", "of one request from its start; where requests come by the clock, from its intended arrival, so that waiting counts."),
    ("A request taken apart", "one at a time, from pixels to the tensor, copies to and from a GPU, the network, classes."),
    ("First, load", "what an application pays before its first result."),
    ("Roofline", "multiply-adds a second against a large matrix product of the same precision on the same backend in the same run."),
    ("CI", "interval of the ratio of two runs that were measured in turns; where it holds 1, the difference is smaller than the noise."),
)  # fmt: skip


def write_bench_page(result: BenchResult, path: Path) -> None:
    """Write the page, whole or not at all; a file of that name is replaced. Raises OutputError."""
    write_text(bench_page(result), path)


def bench_page(result: BenchResult) -> str:
    """Return the page's HTML."""
    models = ", ".join(dict.fromkeys(run.model for run in result.runs))
    parts = (*_head(result, models), *bench_sections(result), *_terms(), footer())
    return document(f"{models}, measured", parts, styles=("bundle.css",))


def _head(result: BenchResult, models: str) -> Iterator[str]:
    """Yield the title, the verdicts, and the figures of the fastest run."""
    device = result.device
    gpus = f", {', '.join(device.gpus)}" if device.gpus else ""
    yield (
        f"<header><p class='kicker'>Benchmark</p><h1>{escape(models)}</h1><p class='source'>{escape(device.name + gpus)}, "
        f"{device.cores} cores, {escape(device.arch)}, {escape(result.created)}</p></header>"
    )
    best = min(result.runs, key=lambda run: run.latency.p50_ms / run.batch)
    memory = best.memory.rss_peak_mb
    yield from figures(
        (
            ("Median latency", f"{best.latency.p50_ms:.3g} ms", f"{best.label}, the fastest"),
            ("99th percentile", f"{best.latency.p99_ms:.3g} ms", f"of {best.latency.count} requests"),
            ("Throughput", f"{best.throughput:.4g} images/s", f"batch {best.batch}, streams {best.streams}"),
            ("Memory", "-" if memory is None else f"{memory:.0f} MB", "peak of the whole process"),
        )
    )
    for found in result.comparisons:
        how = f"{found.rounds} rounds; {found.method}."
        yield f"<section class='advice'><p>{escape(found.text)}</p><p class='act'>{escape(how)}</p></section>"


def _terms() -> Iterator[str]:
    """Yield what the words mean."""
    yield "<section class='terms'><h2>How to read this</h2><dl>"
    for name, text in TERMS:
        yield f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
    yield "</dl></section>"
