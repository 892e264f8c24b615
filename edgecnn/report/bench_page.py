"""The page of a benchmark: one HTML file that needs no network and no library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from edgecnn.bench.result import BenchResult, Latency, Run
from edgecnn.report.html import (
    Column,
    Row,
    Table,
    cell,
    controls,
    document,
    figures,
    filled,
    footer,
    legend,
    section,
    table,
    text_cell,
    write_text,
)

__all__ = ["bench_page", "bench_sections", "write_bench_page"]

STAGES = ("preprocess", "copy", "compute", "postprocess")
COLUMNS = (
    Column("#", "Position", number=True),
    Column("Run", "Variant and backend, and what else differs"),
    Column("Model", "Network"),
    Column("Batch", "Images in a request", number=True),
    Column("p50", "Median latency of a request, ms", number=True),
    Column("Mean", "Mean latency, ms", number=True),
    Column("Min", "Shortest latency, ms", number=True),
    *(
        Column(name, f"{name[1:]} % of the requests were faster, ms", number=True)
        for name in ("p90", "p95", "p99", "p99.9")
    ),
    Column("Images/s", "Throughput", number=True),
    Column("Load", "From the file to a session, ms", number=True),
    Column("First", "First inference, ms", number=True),
    Column("MB", "Memory that the process gained", number=True),
    Column("mJ", "Energy of an image, millijoules, idle power included", number=True),
    Column("Peak %", "Of the peak of a matrix product on the same backend", number=True),
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
    write_text(bench_page(result), path)


def bench_page(result: BenchResult) -> str:
    """Return the page's HTML."""
    models = ", ".join(dict.fromkeys(run.model for run in result.runs))
    versions = ", ".join(f"{name} {version}" for name, version in result.device.versions.items())
    parts = (
        *_head(result, models),
        *bench_sections(result),
        *_terms(),
        footer(f"{versions}."),
    )
    return document(f"{models}, measured", parts, styles=("bench.css",))


def bench_sections(result: BenchResult) -> Iterator[str]:
    """Yield what was measured, without a title: for every page that shows it; their style is ``bench.css``."""
    yield from _verdicts(result)
    yield _table(result.runs)
    yield from _distributions(result.runs)
    yield from _stages(result.runs)
    yield from _loads(result.runs)
    yield from _sensors(result.runs)
    yield from _layers(result.runs)


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
    yield from figures(
        (
            ("Median latency", f"{_number(best.latency.p50_ms)} ms", f"{best.label}, the fastest"),
            ("99th percentile", f"{_number(best.latency.p99_ms)} ms", f"of {best.latency.count} requests"),
            ("Throughput", f"{_number(best.throughput)} images/s", f"batch {best.batch}, streams {best.streams}"),
            ("Memory", "-" if memory is None else f"{memory:.0f} MB", "peak of the whole process"),
        )
    )


def _verdicts(result: BenchResult) -> Iterator[str]:
    """Yield what comparisons found."""
    for found in result.comparisons:
        how = f"{found.rounds} rounds; {found.method}."
        yield f"<section class='advice'><p>{escape(found.text)}</p><p class='act'>{escape(how)}</p></section>"


def _table(runs: Sequence[Run]) -> str:
    """Return every run, in the order that they were measured."""
    rows = [
        Row(
            cells=(
                cell(position, str(position)),
                text_cell(run.label, f"<span class='name'>{escape(run.label)}</span>"),
                text_cell(run.model),
                *(cell(value, _number(value)) for value in _values(run)),
            ),
            kind="int8" if run.precision.startswith("int8") else "float",
        )
        for position, run in enumerate(runs, 1)
    ]
    beside = controls("runs", "variant or model", kind="int8", label="INT8 only")
    return section(
        "Every run", table(Table(ident="runs", caption="Every run", columns=COLUMNS, rows=rows)), beside=beside
    )


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
    cards = [
        f"<figure><figcaption><a title='{escape(run.label)}'>{escape(run.label)}</a><span>{_number(run.latency.p50_ms)} ms</span>"
        f"</figcaption>{_histogram(run)}<p>{run.latency.count} requests, {_number(run.latency.min_ms)} to "
        f"{_number(run.latency.max_ms)} ms</p></figure>"
        for run in runs
    ]
    marks = legend(("box bin", "requests"), ("line median", "median"), ("line late", "99th percentile"))
    yield section("Latency distribution", f"<div class='cards'>{''.join(cards)}</div>", beside=marks)


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
    chart = (
        f"<div class='scroll'><svg class='chart' viewBox='0 0 {WIDTH} {len(whole) * ROW + 8}' role='img' "
        f"aria-label='Stages of a request'>{''.join(parts)}</svg></div>"
    )
    marks = legend(*((f"box {name}", name) for name in STAGES if any(name in run.stages for run in whole)))
    yield section("Stages of a request, medians", chart, beside=marks)


def _loads(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what became of requests that came by the clock."""
    for run in runs:
        if (load := run.load) is not None:
            yield _facts(
                f"{run.label} under load",
                ("Arrivals", f"{load.rate:g} a second, {load.pattern}; {load.achieved:.1f} a second served"),
                ("Missed", f"{load.misses} of {load.requests} missed the deadline of {load.deadline_ms:.1f} ms"),
                ("Waiting", _spread(load.queue)),
                ("Service", _spread(load.service)),
                ("Busy", f"{load.utilisation:.0%} of the time"),
            )


def _sensors(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what sensors said, where they said anything."""
    for run in runs:
        sensed = run.telemetry
        if sensed is None or not sensed.sources:
            continue
        facts = [("Read", f"{', '.join(sensed.sources)}; {sensed.samples} readings in {sensed.seconds:.1f} s")]
        for name, values, unit in (
            ("Power, mean", sensed.watts, "W"),
            ("Clocks, highest", sensed.mhz_max, "MHz"),
            ("Temperature, highest", sensed.celsius_max, "°C"),
        ):
            if values:
                facts.append((name, ", ".join(f"{key} {value:.4g} {unit}" for key, value in values.items())))
        if sensed.joules_per_inference is not None:
            facts.append(("Energy", f"{1e3 * sensed.joules_per_inference:.3g} mJ an image ({sensed.energy_source})"))
        if sensed.power_mode:
            facts.append(("Power mode", sensed.power_mode))
        if sensed.throttling:
            facts.append(("Throttled", ", ".join(sensed.throttling)))
        yield _facts(f"{run.label}: sensors", *facts)


def _layers(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the slowest operators of each run that was profiled."""
    columns = (
        Column("Operator"),
        Column("Kind"),
        Column("ms", "Mean of a run", number=True),
        Column("Share", number=True),
    )
    for index, run in enumerate(runs):
        if not run.layers:
            continue
        ranked = sorted(run.layers, key=lambda layer: -layer.mean_ms)[:SHOWN]
        most = ranked[0].share or 1.0
        rows = [
            Row(
                cells=(
                    text_cell(layer.name, f"<span class='name'>{escape(layer.name)}</span>"),
                    text_cell(layer.op),
                    cell(layer.mean_ms, f"{layer.mean_ms:.3f}"),
                    cell(layer.share, f"{layer.share:.1%}{filled(layer.share / most)}").replace(
                        "'number'", "'number bars'", 1
                    ),
                )
            )
            for layer in ranked
        ]
        title = f"{run.label}: the slowest {len(ranked)} of {len(run.layers)} operators"
        shown = Table(ident=f"operators-{index}", caption=title, columns=columns, rows=rows, ordered="ms")
        yield section(title, table(shown))


def _terms() -> Iterator[str]:
    """Yield what the words mean."""
    yield "<section class='terms'><h2>How to read this</h2><dl>"
    for name, text in TERMS:
        yield f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
    yield "</dl></section>"


def _facts(title: str, *facts: tuple[str, str]) -> str:
    """Return a section that lists facts by name."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return section(title, f"<dl class='facts'>{lines}</dl>")


def _spread(found: Latency) -> str:
    """Return a distribution in short."""
    return f"p50 {found.p50_ms:.2f}, p99 {found.p99_ms:.2f}, longest {found.max_ms:.2f} ms"


def _short(text: str) -> str:
    """Return a label that fits in front of a bar."""
    return text if len(text) <= 36 else f"{text[:35]}…"


def _number(value: float | None) -> str:
    """Return a number with the digits that it needs."""
    if value is None:
        return ""
    return (
        f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value >= 100 or value == int(value) else f"{value:.2f}"
    )
