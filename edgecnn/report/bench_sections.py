"""A report's part on a benchmark: latency distributions, stages, load, roofline, telemetry, layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from edgecnn.bench.result import BenchResult, Latency, Load, Run, Telemetry
from edgecnn.report import html
from edgecnn.report.bench_charts import latency_chart
from edgecnn.report.html import Column, Row, Table, cell, text_cell

__all__ = ["bench_sections"]

STAGES = ("preprocess", "copy", "compute", "postprocess")
MOST_LAYERS = 100

RUNS = (
    Column("Run", "Variant and backend, and what else differs"),
    Column("Batch", number=True),
    Column("Threads", "0: as the backend chooses", number=True),
    Column("n", "Requests measured", number=True),
    *(Column(name, f"{text} latency of a request, ms", number=True) for name, text in (
        ("min", "Least"), ("p50", "Median"), ("p90", "90th percentile of"), ("p95", "95th percentile of"), ("p99", "99th percentile of"),
        ("p99.9", "99.9th percentile of"), ("max", "Largest"),
    )),
    Column("Images/s", "Throughput", number=True),
    Column("First", "First inference, ms", number=True),
    Column("Load", "From the file to a session, ms", number=True),
    Column("RSS MB", "Highest memory of the process", number=True),
)  # fmt: skip


def bench_sections(result: BenchResult) -> Iterator[str]:
    """Yield the parts that there is something to show of."""
    device = result.device
    versions = ", ".join(f"{name} {version}" for name, version in device.versions.items())
    told = f"On {device.name} ({device.arch}, {device.cores} cores{', ' + ', '.join(device.gpus) if device.gpus else ''}), {device.system}"
    told += f"; {versions}. {result.created}".rstrip(". ") + "."
    asides = [*result.warnings, *_doubts(result.runs)]
    verdicts = [f"{item.candidate} against {item.baseline}: {item.text}" for item in result.comparisons]
    found = Table(
        ident="runs",
        caption="Latency and throughput of every run",
        columns=RUNS,
        rows=[_row(run) for run in result.runs],
    )
    yield html.section(
        "Latency",
        f"<p class='lead'>{escape(told)}</p>",
        html.table(found),
        html.bullets([*verdicts, *asides]),
        ident="latency",
    )
    yield from _distributions(result.runs)
    yield from _stages(result.runs)
    yield from _loads(result.runs)
    yield from _roofline(result)
    yield from _telemetry(result.runs)
    yield from _layers(result.runs)


def _doubts(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what makes runs doubtful; what is said of several, with other numbers, is said once."""
    found: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for text in run.warnings:
            found.setdefault(re.sub(r"[\d.]+", "#", text), []).append((run.label, text))
    for said in found.values():
        others = f", and the like of {', '.join(label for label, _ in said[1:])}" if len(said) > 1 else ""
        yield f"{said[0][0]}: {said[0][1]}{others}"


def _row(run: Run) -> Row:
    """Return one run's row."""
    found = run.latency
    times = (found.min_ms, found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.p99_9_ms, found.max_ms)
    return Row(
        cells=[
            text_cell(
                run.label, f"<span class='name'>{escape(run.label)}</span>", "end to end" if run.end_to_end else ""
            ),
            cell(run.batch, str(run.batch)),
            cell(run.threads, str(run.threads)),
            cell(found.count, str(found.count)),
            *(_milliseconds(value) for value in times),
            cell(run.throughput, f"{run.throughput:.4g}"),
            _milliseconds(run.start_up.first_ms),
            _milliseconds(run.start_up.load_ms),
            cell(run.memory.rss_peak_mb, html.number(run.memory.rss_peak_mb, 0)),
        ]
    )


def _milliseconds(value: float) -> str:
    """Return a cell of a time."""
    return cell(value, f"{value:.3g}" if value < 1000 else f"{value:.0f}")


def _distributions(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the histograms."""
    cards = [
        f"<figure><figcaption><b>{escape(run.label)}</b><span>{run.latency.p50_ms:.3g} ± {run.latency.std_ms:.2g} ms</span></figcaption>"
        f"{chart}<p>batch {run.batch}, {run.latency.count} requests</p></figure>"
        for run in runs
        if (chart := latency_chart(run))
    ]
    if cards:
        marks = html.legend(("box part0", "requests"), ("line limit", "percentile"))
        yield html.section(
            "Latency distribution",
            f"<div class='cards latencies'>{''.join(cards)}</div>",
            beside=marks,
            ident="distribution",
        )


def _stages(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what a request is made of."""
    timed = [run for run in runs if run.stages]
    if not timed:
        return
    names = [name for name in STAGES if any(name in run.stages for run in timed)]
    names += [name for run in timed for name in run.stages if name not in names]
    bars = []
    for run in timed:
        found = {name: run.stages[name] for name in names if name in run.stages}
        whole = sum(stage.p50_ms for stage in found.values()) or 1.0
        parts = "".join(
            f"<i class='part{names.index(name) % 4}' style='width:{100 * stage.p50_ms / whole:.2f}%'></i>"
            for name, stage in found.items()
        )
        bars.append(_stack(run.label, parts, ", ".join(_stage_told(*item) for item in found.items())))
    marks = html.legend(*((f"box part{index % 4}", escape(name)) for index, name in enumerate(names)))
    yield html.section("A request taken apart", *bars, beside=marks, ident="stages")


def _stage_told(name: str, found: Latency) -> str:
    """Return a stage's median in words."""
    return f"{name} {found.p50_ms:.3g} ms"


def _loads(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what happened under a load by the clock."""
    told = [f"{run.label}: {_load_told(run.load)}" for run in runs if run.load is not None]
    if told:
        yield html.section("Under load", html.bullets(told), ident="load")


def _load_told(load: Load) -> str:
    """Return what happened under a load in words."""
    return (
        f"{load.pattern} arrivals, {load.rate:g} a second ({load.achieved:.3g} served): {load.misses} of {load.requests} requests after "
        f"their deadline of {load.deadline_ms:g} ms; waited {load.queue.p50_ms:.3g} ms, worked {load.service.p50_ms:.3g} ms (medians); "
        f"utilisation {load.utilisation:.0%}"
    )


def _stack(name: str, parts: str, told: str) -> str:
    """Return a horizontal bar, whose parts are HTML, with what it says in words."""
    return (
        f"<div class='stack'><b>{escape(name)}</b><span class='track'>{parts}</span><small>{escape(told)}</small></div>"
    )


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
        bars.append(_stack(run.label, f"<i class='part0' style='width:{width:.1f}%'></i>", told))
    peaks = [
        f"peak of {peak.precision} on {peak.backend}{f', {peak.threads} threads' if peak.threads else ''}: {peak.gmacs:.3g} GMAC/s, "
        f"a product of {' x '.join(map(str, peak.shape))}"
        for peak in result.peaks
    ]
    lead = "<p class='lead'>The whole bar is the speed of a matrix product, measured in the same run: what the backend reaches at best.</p>"
    yield html.section("Roofline", lead, *bars, html.bullets(peaks), ident="roofline")


def _telemetry(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what the device's sensors said."""
    read = [(run, run.telemetry) for run in runs if run.telemetry is not None and run.telemetry.sources]
    if not read:
        return
    columns = (
        Column("Run"),
        Column("Power", "Mean, W, by rail"),
        Column("J / image", "Energy, idle power included", number=True),
        Column("Clocks", "Lowest to highest seen, MHz"),
        Column("Heat", "Highest seen, degrees Celsius"),
        Column("State", "Power mode, throttling, locked clocks, other processes"),
        Column("Sensors"),
    )
    rows = [
        Row(
            cells=[
                text_cell(run.label, f"<span class='name'>{escape(run.label)}</span>"),
                text_cell(_by_name(told.watts, "{:.3g} W".format)),
                cell(
                    told.joules_per_inference,
                    "" if told.joules_per_inference is None else f"{told.joules_per_inference:.3g}",
                ),
                text_cell(_clocks(told)),
                text_cell(_by_name(told.celsius_max, "{:.0f} °C".format)),
                text_cell(_state(told)),
                text_cell(", ".join(told.sources), small=f"{told.samples} readings in {told.seconds:.3g} s"),
            ]
        )
        for run, told in read
    ]
    found = Table(ident="telemetry", caption="The device's sensors during each run", columns=columns, rows=rows)
    yield html.section("Telemetry", html.table(found), ident="telemetry-read")


def _by_name(values: Mapping[str, float], form: Callable[[float], str]) -> str:
    """Return values with their names."""
    return ", ".join(f"{name} {form(value)}" for name, value in values.items())


def _clocks(told: Telemetry) -> str:
    """Return the range of each clock."""
    return ", ".join(f"{name} {told.mhz_min.get(name, high):.0f} to {high:.0f}" for name, high in told.mhz_max.items())


def _state(told: Telemetry) -> str:
    """Return what may have bent the numbers."""
    locked = {True: "clocks locked", False: "clocks NOT locked", None: ""}[told.clocks_locked]
    busy = "" if told.others_share is None else f"other processes {told.others_share:.0%}"
    throttled = f"THROTTLED: {', '.join(told.throttling)}" if told.throttling else ""
    return "; ".join(part for part in (told.power_mode, throttled, locked, busy) if part)


def _layers(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the profile of the layers, the longest first."""
    for index, run in enumerate(runs):
        if not run.layers:
            continue
        ranked = sorted(run.layers, key=lambda layer: -layer.mean_ms)[:MOST_LAYERS]
        most = ranked[0].share or 1.0
        rows = [
            Row(
                cells=[
                    text_cell(layer.name, f"<span class='name'>{escape(layer.name)}</span>"),
                    text_cell(layer.op, html.breakable(layer.op)),
                    cell(layer.mean_ms, f"{layer.mean_ms:.3g}"),
                    f"<td class='number bars' data-v='{layer.share:.6g}'>{html.percent(layer.share)}{html.filled(layer.share / most)}</td>",
                ]
            )
            for layer in ranked
        ]
        ident = f"layers-{index}"
        columns = (
            Column("Node"),
            Column("Operator"),
            Column("ms", "Mean of a run", number=True),
            Column("Share", number=True),
        )
        found = Table(
            ident=ident, caption=f"Time of the nodes of {run.label}", columns=columns, rows=rows, ordered="Share"
        )
        cut = f"The {MOST_LAYERS} longest of {len(run.layers)} nodes." if len(run.layers) > MOST_LAYERS else ""
        yield html.section(
            f"Where the time goes: {run.label}",
            f"<p class='lead'>{cut}</p>" if cut else "",
            html.table(found),
            beside=html.controls(ident, "node or operator"),
            ident=f"profile-{index}",
        )
