"""How the result of a benchmark is printed, wherever it was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecnn.cli.output import console, number, table, warn

if TYPE_CHECKING:
    from edgecnn.bench import BenchResult
    from edgecnn.bench.result import Run

__all__ = ["print_result", "warn_of"]

SHOWN = 10


def warn_of(result: BenchResult) -> None:
    """Print what makes the numbers doubtful."""
    for text in (*result.warnings, *(f"{run.label}: {text}" for run in result.runs for text in run.warnings)):
        warn(text)


def print_result(result: BenchResult) -> None:
    """Print the tables and the verdict."""
    out = console()
    columns = (
        "",
        "p50 ms",
        "mean",
        "min",
        "p90",
        "p95",
        "p99",
        "p99.9",
        "images/s",
        "load ms",
        "first ms",
        "MB",
        "peak MB",
    )
    table(columns, [_latency_row(run) for run in result.runs], title=result.device.name)
    stages = [run for run in result.runs if run.stages]
    if stages:
        names = ("preprocess", "copy", "compute", "postprocess")
        rows = [(run.label, *(_p50(run, name) for name in names)) for run in stages]
        table(("median ms", *names), rows)
    for run in result.runs:
        if run.load is not None:
            load = run.load
            out.print(
                f"{run.label}: {load.misses} of {load.requests} missed the deadline of {load.deadline_ms:.1f} ms at {load.rate:g} a second "
                f"({load.pattern}); waiting p50 {load.queue.p50_ms:.2f}, p99 {load.queue.p99_ms:.2f} ms; busy {load.utilisation:.0%}"
            )
        if run.roofline is not None:
            line = run.roofline
            out.print(
                f"{run.label}: {line.fraction:.0%} of the {line.precision} peak, {line.gmacs:.1f} of {line.peak_gmacs:.1f} GMAC/s "
                f"({line.macs / 1e6:.0f} M multiply-adds an image)"
            )
        _print_sensors(run)
        _print_layers(run)
    for comparison in result.comparisons:
        out.print(comparison.text)


def _print_sensors(run: Run) -> None:
    """Print what the sensors said, where there are any."""
    found = run.telemetry
    if found is None:
        return
    parts = [f"{name} {value:.2f} W" for name, value in found.watts.items()]
    if found.joules_per_inference is not None:
        parts.append(f"{1e3 * found.joules_per_inference:.1f} mJ an image ({found.energy_source})")
    parts += [f"{name} up to {value:.0f} MHz" for name, value in found.mhz_max.items()]
    if found.celsius_max:
        sensor, value = max(found.celsius_max.items(), key=lambda item: item[1])
        parts.append(f"{sensor} up to {value:.0f} degrees C")
    if found.power_mode:
        parts.append(f"power mode {found.power_mode}")
    if parts:
        console().print(f"{run.label}: {', '.join(parts)}")


def _print_layers(run: Run) -> None:
    """Print the operators that take most of the time."""
    if not run.layers:
        return
    ranked = sorted(run.layers, key=lambda layer: -layer.mean_ms)[:SHOWN]
    rows = [(layer.name, layer.op, number(layer.mean_ms, 3), number(100 * layer.share, 1)) for layer in ranked]
    table(
        ("operator", "kind", "ms", "share %"), rows, title=f"{run.label}: the slowest {len(rows)} of {len(run.layers)}"
    )


def _latency_row(run: Run) -> tuple[str, ...]:
    """Return one cell's line."""
    found, memory = run.latency, run.memory
    grown = None
    if memory.rss_after_mb is not None and memory.rss_before_mb is not None:
        grown = memory.rss_after_mb - memory.rss_before_mb
    times = (found.p50_ms, found.mean_ms, found.min_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.p99_9_ms)
    return (
        run.label,
        *(number(value, 2) for value in times),
        number(run.throughput, 1),
        number(run.start_up.load_ms, 0),
        number(run.start_up.first_ms, 1),
        number(grown, 0),
        number(memory.rss_peak_mb, 0),
    )


def _p50(run: Run, stage: str) -> str:
    """Return a stage's median."""
    found = run.stages.get(stage)
    return number(found.p50_ms if found else None, 3)
