"""The page of a benchmark: one HTML file that needs no network and no library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from edgecnn._version import __version__
from edgecnn.artifacts import atomic_file
from edgecnn.bench.result import BenchResult, Latency, Run
from edgecnn.report.page import POLICY, check_place

__all__ = ["bench_page", "write_bench_page"]

STAGES = ("preprocess", "copy", "compute", "postprocess")
COLUMNS = (
    ("#", "Position"),
    ("Run", "Variant and backend, and what else differs"),
    ("Model", "Network"),
    ("Batch", "Images in a request"),
    ("p50", "Median latency of a request, ms"),
    ("Mean", "Mean latency, ms"),
    ("Min", "Shortest latency, ms"),
    ("p90", "ms"),
    ("p95", "ms"),
    ("p99", "ms"),
    ("p99.9", "ms; with fewer than 1000 requests it lies between the two longest"),
    ("Images/s", "Throughput"),
    ("Load", "From the file to a session, ms"),
    ("First", "First inference, ms"),
    ("MB", "Memory that the process gained"),
    ("mJ", "Energy of an image, millijoules, idle power included"),
    ("Peak %", "Of the peak of a matrix product on the same backend"),
)
TERMS = (
    ("Latency", "of one request from its start; where requests come by the clock, from its intended arrival, so that waiting counts."),
    ("Stages", "a request taken apart, one at a time: from pixels to the tensor, copies to and from a device, the network, classes."),
    ("Load, first", "what an application pays before its first result."),
    ("Peak", "multiply-adds a second against a large matrix product of the same precision on the same backend in the same run."),
    ("Interval", "of the ratio of two runs that were measured in turns; where it holds 1, the difference is smaller than the noise."),
)  # fmt: skip
WIDTH, LEFT, ROW = 1160, 260, 26
CARD_WIDTH, CARD_HIGH, CARD_HEIGHT = 300, 84, 104
SHOWN = 15


def write_bench_page(result: BenchResult, path: Path) -> None:
    """Write the page, whole or not at all; a file of that name is replaced. Raises OutputError."""
    check_place(path)
    with atomic_file(path) as stream:
        stream.write(bench_page(result).encode())


def bench_page(result: BenchResult) -> str:
    """Return the page's HTML."""
    models = ", ".join(dict.fromkeys(run.model for run in result.runs))
    parts = [
        *_head(result, models),
        *_verdicts(result),
        *_table(result.runs),
        *_distributions(result.runs),
        *_stages(result.runs),
        *_loads(result.runs),
        *_sensors(result.runs),
        *_layers(result.runs),
        *_terms(),
        *_footer(result),
    ]
    styles = "".join((files("edgecnn.report") / name).read_text(encoding="utf-8") for name in ("page.css", "bench.css"))
    script = (files("edgecnn.report") / "page.js").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(models)}, measured</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<style>\n{styles}</style>\n</head>\n<body>\n<main>{''.join(parts)}</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _head(result: BenchResult, models: str) -> Iterator[str]:
    """Yield the title, the warnings and the figures of the fastest run."""
    device = result.device
    gpus = f", {', '.join(device.gpus)}" if device.gpus else ""
    yield (
        f"<header><p class='kicker'>Benchmark</p><h1>{escape(models)}</h1><p class='source'>{escape(device.name + gpus)}, "
        f"{device.cores} cores, {escape(device.arch)}, {escape(result.created)}</p></header>"
    )
    said: dict[str, list[str]] = {text: [] for text in result.warnings}
    for run in result.runs:
        for text in run.warnings:
            said.setdefault(text, []).append(run.label)
    for text, labels in said.items():
        yield f"<p class='note'>{escape(': '.join([', '.join(labels), text] if labels else [text]))}</p>"
    best = min(result.runs, key=lambda run: run.latency.p50_ms / run.batch)
    memory = best.memory.rss_peak_mb
    yield "<section class='figures'>"
    for name, value, unit, text in (
        ("Median latency", _number(best.latency.p50_ms), "ms", f"{best.label}, the fastest"),
        ("99th percentile", _number(best.latency.p99_ms), "ms", f"of {best.latency.count} requests"),
        ("Throughput", _number(best.throughput), "images/s", f"batch {best.batch}, streams {best.streams}"),
        ("Memory", "-" if memory is None else f"{memory:.0f}", "MB", "peak of the whole process"),
    ):
        yield f"<div><h2>{name}</h2><strong>{value} <small>{unit}</small></strong><p>{escape(text)}</p></div>"
    yield "</section>"


def _verdicts(result: BenchResult) -> Iterator[str]:
    """Yield what comparisons found."""
    for found in result.comparisons:
        how = f"{found.rounds} rounds; {found.method}."
        yield f"<section class='advice'><p>{escape(found.text)}</p><p class='act'>{escape(how)}</p></section>"


def _table(runs: Sequence[Run]) -> Iterator[str]:
    """Yield every run, in the order that they were measured."""
    yield "<section><div class='bar'><h2>Every run</h2><p class='controls'><label>Filter <input id='filter' type='search' "
    yield "placeholder='variant or model' autocomplete='off'></label><label><input id='quantized' type='checkbox'> INT8 only</label>"
    yield "</p></div><div class='scroll'><table id='layers' class='wide'><thead><tr>"
    for index, (name, text) in enumerate(COLUMNS):
        kind = "" if name in ("Run", "Model") else " class='number'"
        order = " aria-sort='ascending'" if index == 0 else ""
        yield f"<th scope='col'{kind}{order}><button type='button' title='{escape(text)}'>{name}</button></th>"
    yield "</tr></thead><tbody>"
    for position, run in enumerate(runs, 1):
        kind = "int8" if run.precision.startswith("int8") else "float"
        yield f"<tr data-kind='{kind}'>{_cell(position, str(position))}{_text_cell(run.label)}{_text_cell(run.model)}"
        yield "".join(_cell(value, _number(value)) for value in _values(run)) + "</tr>"
    yield "</tbody></table></div></section>"


def _values(run: Run) -> tuple[float | None, ...]:
    """Return the numbers of a run in the order of the columns."""
    found, memory, sensed = run.latency, run.memory, run.telemetry
    gained = None
    if memory.rss_after_mb is not None and memory.rss_before_mb is not None:
        gained = memory.rss_after_mb - memory.rss_before_mb
    joules = sensed.joules_per_inference if sensed else None
    times = (found.p50_ms, found.mean_ms, found.min_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.p99_9_ms)
    return (
        run.batch,
        *times,
        run.throughput,
        run.start_up.load_ms,
        run.start_up.first_ms,
        gained,
        None if joules is None else 1e3 * joules,
        100 * run.roofline.fraction if run.roofline else None,
    )


def _distributions(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a histogram for each run."""
    yield "<section><div class='bar'><h2>Latency distribution</h2>"
    yield _legend(("box bin", "requests"), ("line median", "median"), ("line late", "99th percentile"))
    yield "</div><div class='cards'>"
    for run in runs:
        yield (
            f"<figure><figcaption><a title='{escape(run.label)}'>{escape(run.label)}</a><span>{_number(run.latency.p50_ms)} ms</span>"
            f"</figcaption>{_histogram(run)}<p>{run.latency.count} requests, {_number(run.latency.min_ms)} to "
            f"{_number(run.latency.max_ms)} ms</p></figure>"
        )
    yield "</div></section>"


def _histogram(run: Run) -> str:
    """Return a run's histogram."""
    edges, counts = run.histogram.edges_ms, run.histogram.counts
    low, high = edges[0], edges[-1]
    most, width = max(counts), (high - low) or 1.0
    parts = [f'<line class="rule" x1="0" x2="{CARD_WIDTH}" y1="{CARD_HIGH}" y2="{CARD_HIGH}"/>']
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            tall = max(CARD_HIGH * 0.94 * count / most, 1)
            x, wide = CARD_WIDTH * (left - low) / width, CARD_WIDTH * (right - left) / width
            parts.append(
                f'<rect class="bin" x="{x + 0.4:.2f}" y="{CARD_HIGH - tall:.1f}" width="{max(wide - 0.8, 0.6):.2f}" height="{tall:.1f}"/>'
            )
    for kind, value in (("median", run.latency.p50_ms), ("late", run.latency.p99_ms)):
        x = CARD_WIDTH * min(max(value - low, 0) / width, 1)
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{CARD_HIGH}"/>')
    parts.append(f'<text x="0" y="{CARD_HEIGHT - 6}">{_number(low)}</text>')
    parts.append(f'<text class="end" x="{CARD_WIDTH}" y="{CARD_HEIGHT - 6}">{_number(high)} ms</text>')
    label = f"Latency of {run.label}: from {low:.3g} ms to {high:.3g} ms"
    size = f"0 0 {CARD_WIDTH} {CARD_HEIGHT}"
    return f'<svg class="histogram" viewBox="{size}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _stages(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a bar for each run, in parts."""
    whole = [run for run in runs if run.stages]
    if not whole:
        return
    longest = max(sum(found.p50_ms for found in run.stages.values()) for run in whole) or 1.0
    parts = []
    for row, run in enumerate(whole):
        x, y = float(LEFT), row * ROW + 4
        total = sum(found.p50_ms for found in run.stages.values())
        parts.append(f'<text class="name end" x="{LEFT - 12}" y="{y + 14}">{escape(_short(run.label))}</text>')
        for name in STAGES:
            if name in run.stages:
                wide = (WIDTH - LEFT - 90) * run.stages[name].p50_ms / longest
                title = escape(f"{run.label}: {name} {run.stages[name].p50_ms:.3f} ms")
                parts.append(
                    f'<rect class="{name}" x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{ROW - 8}"><title>{title}</title></rect>'
                )
                x += wide
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 14}">{_number(total)} ms</text>')
    yield "<section><div class='bar'><h2>Stages of a request, medians</h2>"
    yield _legend(*((f"box {name}", name) for name in STAGES if any(name in run.stages for run in whole)))
    yield (
        f"</div><div class='scroll'><svg class='chart' viewBox='0 0 {WIDTH} {len(whole) * ROW + 8}' role='img' "
        f"aria-label='Stages of a request'>{''.join(parts)}</svg></div></section>"
    )


def _loads(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what became of requests that came by the clock."""
    for run in runs:
        load = run.load
        if load is None:
            continue
        yield f"<section><h2>{escape(run.label)} under load</h2><dl class='facts'>"
        yield _fact("Arrivals", f"{load.rate:g} a second, {load.pattern}; {load.achieved:.1f} a second served")
        yield _fact("Missed", f"{load.misses} of {load.requests} missed the deadline of {load.deadline_ms:.1f} ms")
        yield _fact("Waiting", _spread(load.queue))
        yield _fact("Service", _spread(load.service))
        yield _fact("Busy", f"{load.utilisation:.0%} of the time")
        yield "</dl></section>"


def _sensors(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what sensors said, where they said anything."""
    for run in runs:
        sensed = run.telemetry
        if sensed is None or not sensed.sources:
            continue
        yield f"<section><h2>{escape(run.label)}: sensors</h2><dl class='facts'>"
        yield _fact("Read", f"{', '.join(sensed.sources)}; {sensed.samples} readings in {sensed.seconds:.1f} s")
        for name, values, unit in (
            ("Power, mean", sensed.watts, "W"),
            ("Clocks, highest", sensed.mhz_max, "MHz"),
            ("Temperature, highest", sensed.celsius_max, "°C"),
        ):
            if values:
                yield _fact(name, ", ".join(f"{key} {value:.4g} {unit}" for key, value in values.items()))
        if sensed.joules_per_inference is not None:
            yield _fact("Energy", f"{1e3 * sensed.joules_per_inference:.3g} mJ an image ({sensed.energy_source})")
        if sensed.power_mode:
            yield _fact("Power mode", sensed.power_mode)
        if sensed.throttling:
            yield _fact("Throttled", ", ".join(sensed.throttling))
        yield "</dl></section>"


def _layers(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the slowest operators of each run that was profiled."""
    for run in runs:
        if not run.layers:
            continue
        ranked = sorted(run.layers, key=lambda layer: -layer.mean_ms)[:SHOWN]
        most = ranked[0].share or 1.0
        title = f"{run.label}: the slowest {len(ranked)} of {len(run.layers)} operators"
        yield f"<section><h2>{escape(title)}</h2><div class='scroll'><table class='wide'>"
        yield "<thead><tr><th scope='col'>Operator</th><th scope='col'>Kind</th><th scope='col' class='number'>ms</th>"
        yield "<th scope='col' class='number'>Share</th></tr></thead><tbody>"
        for layer in ranked:
            yield (
                f"<tr><td><span class='name'>{escape(layer.name)}</span></td><td>{escape(layer.op)}</td>"
                f"<td class='number'>{layer.mean_ms:.3f}</td><td class='number bars'>{layer.share:.1%}"
                f"<i style='width:{100 * layer.share / most:.1f}%'></i></td></tr>"
            )
        yield "</tbody></table></div></section>"


def _terms() -> Iterator[str]:
    """Yield what the words mean."""
    yield "<section class='terms'><h2>How to read this</h2><dl>"
    for name, text in TERMS:
        yield f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
    yield "</dl></section>"


def _footer(result: BenchResult) -> Iterator[str]:
    """Yield the last line."""
    versions = ", ".join(f"{name} {version}" for name, version in result.device.versions.items())
    yield f"<footer>{escape(versions)}. Written by edgecnn {escape(__version__)}.</footer>"


def _fact(name: str, text: str) -> str:
    """Return a line of a list of facts."""
    return f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"


def _spread(found: Latency) -> str:
    """Return a distribution in short."""
    return f"p50 {found.p50_ms:.2f}, p99 {found.p99_ms:.2f}, longest {found.max_ms:.2f} ms"


def _legend(*items: tuple[str, str]) -> str:
    """Return what the marks of a chart mean: (classes, text) of each."""
    marks = "".join(f"<span><i class='{kind}'></i>{text}</span>" for kind, text in items)
    return f"<p class='legend'>{marks}</p>"


def _short(text: str) -> str:
    """Return a label that fits in front of a bar."""
    return text if len(text) <= 36 else f"{text[:35]}…"


def _text_cell(text: str) -> str:
    """Return a cell of text."""
    return f"<td data-v='{escape(text)}'><span class='name'>{escape(text)}</span></td>"


def _cell(value: float | None, text: str) -> str:
    """Return a number's cell."""
    return f"<td class='number' data-v='{'' if value is None else format(value, '.6g')}'>{text}</td>"


def _number(value: float | None) -> str:
    """Return a number with the digits that it needs."""
    if value is None:
        return ""
    return (
        f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value >= 100 or value == int(value) else f"{value:.2f}"
    )
