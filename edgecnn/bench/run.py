"""The benchmark: every cell of the matrix one after another, or two candidates in turns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edgecnn.bench.compare import in_turns, judge
from edgecnn.bench.config import BenchConfig
from edgecnn.bench.device import describe
from edgecnn.bench.layers import engine_layer_times, layer_times
from edgecnn.bench.loops import Served, Times, arrivals, back_to_back, open_loop
from edgecnn.bench.memory import peak_mb, rss_mb
from edgecnn.bench.requests import take_apart
from edgecnn.bench.result import BenchResult, Comparison, LayerTime, Load, Memory, Peak, Run
from edgecnn.bench.roofline import rooflines
from edgecnn.bench.sessions import Cell, Ready, cell_of, ready
from edgecnn.bench.statistics import histogram_of, latency_of
from edgecnn.bench.telemetry import Recorder, Sensors, find_sensors, warnings_of
from edgecnn.errors import BackendError, UserError
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import ENGINE_BACKENDS
from edgecnn.runtime.ort import OrtOptions
from edgecnn.runtime.tensorrt import Rebuild, TensorRtOptions, TensorRtSession

__all__ = ["bench"]

_DEFAULT = BenchConfig()
_STAGES_SHARE = 0.2
_STAGES_MOST = 2.0


def bench(
    bundles: Sequence[Bundle | Path | str],
    config: BenchConfig = _DEFAULT,
    *,
    rebuild: Rebuild | None = None,
    progress: Progress = silent,
) -> BenchResult:
    """Measure bundles on this device.

    Args:
        bundles: folders, or opened bundles; the config's candidates name them by their place.
        config: what, how, and how long.
        rebuild: what to do with an engine that does not fit this device, such as :func:`edgecnn.pipeline.engines.rebuilt`.
        progress: called between measurements.

    Raises:
        BundleError: a bundle cannot be read, or is not verified.
        UserError, BackendError: nothing can be measured. One cell of several that cannot be is left out, and a warning says why.
    """
    opened = [
        one if isinstance(one, Bundle) else Bundle.open(one, allow_unverified=config.allow_unverified)
        for one in bundles
    ]
    if any(candidate.bundle not in range(len(opened)) for candidate in config.candidates):
        raise UserError(f"a candidate names a bundle that is not among the {len(opened)} given")
    warnings = list(dict.fromkeys(text for bundle in opened for text in bundle.alarms()))
    cells, skipped = _cells(opened, config, rebuild)
    comparisons: tuple[Comparison, ...] = ()
    sensors = find_sensors() if config.telemetry else Sensors(())
    try:
        if config.compare:
            if skipped:
                raise skipped[0][1]
            runs, comparisons = _compared(cells, config, sensors, progress)
        else:
            runs = _each(cells, config, sensors, skipped, progress)
    finally:
        sensors.close()
    peaks: tuple[Peak, ...] = ()
    if config.roofline and runs:
        runs, peaks, reasons = rooflines(runs, cells)
        warnings += reasons
    if not runs:
        raise skipped[0][1]
    warnings += [f"skipped {label}: {error}" for label, error in skipped]
    return BenchResult(
        device=describe(gpus=sensors.gpus),
        config=config.to_json(),
        runs=tuple(runs),
        comparisons=comparisons,
        peaks=peaks,
        warnings=tuple(warnings),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _cells(
    bundles: Sequence[Bundle], config: BenchConfig, rebuild: Rebuild | None
) -> tuple[list[Cell], list[tuple[str, UserError | BackendError]]]:
    """Return the matrix's cells with their labels, and what cannot be one with the reason."""
    cells: list[Cell] = []
    skipped: list[tuple[str, UserError | BackendError]] = []
    names = _names(bundles)
    for candidate, threads, batch in itertools.product(config.candidates, config.threads, config.batches):
        bundle = bundles[candidate.bundle]
        try:
            cell = cell_of(bundle, candidate, config, batch, threads, rebuild)
        except UserError as error:
            asked = "@".join(text for text in (candidate.variant, candidate.backend) if text)
            skipped.append((f"{names[candidate.bundle]}:{asked}", error))
            continue
        label = str(cell.choice).replace(" on ", "@")
        label = f"{names[candidate.bundle]}:{label}" if len(bundles) > 1 else label
        label += f" batch {batch}" if len(config.batches) > 1 else ""
        label += f" threads {threads}" if len(config.threads) > 1 else ""
        if all(other.label != label or config.compare for other in cells):
            cells.append(replace(cell, label=label))
    if config.compare and len({cell.label for cell in cells}) < len(cells):
        cells = [replace(cell, label=f"{cell.label} #{index}") for index, cell in enumerate(cells, 1)]
    return cells, skipped


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Return the name of each bundle's folder, its whole path where several have one name."""
    names = [bundle.path.name for bundle in bundles]
    return [name if names.count(name) == 1 else str(bundle.path) for name, bundle in zip(names, bundles, strict=True)]


def _each(
    cells: Sequence[Cell],
    config: BenchConfig,
    sensors: Sensors,
    skipped: list[tuple[str, UserError | BackendError]],
    progress: Progress,
) -> list[Run]:
    """Measure one cell after another; what cannot be measured is added to ``skipped``."""
    runs = []
    for index, cell in enumerate(cells):
        progress("measure", index, len(cells))
        try:
            runs.append(_measured(cell, config, sensors))
        except (UserError, BackendError) as error:
            skipped.append((cell.label, error))
    progress("measure", len(cells), len(cells))
    return runs


def _measured(cell: Cell, config: BenchConfig, sensors: Sensors) -> Run:
    """Measure one cell."""
    before = sensors.gpu_used_mb()
    one = ready(cell, config)
    try:
        load = None
        with Recorder(sensors) as recorder:
            if config.rate is None:
                found: Times | Served = back_to_back(one.requests, seconds=config.duration, count=config.count)
            else:
                moments = arrivals(
                    config.rate.pattern, config.rate.rate, seconds=config.duration, count=config.count, seed=config.seed
                )
                found = open_loop(one.requests, moments, limit=moments[-1] / 1e9 + config.duration + 1)
                load = _load(found, config, len(moments))
        run = _run(one, config, found, load)
        if before is not None and (after := sensors.gpu_used_mb()) is not None:
            run = replace(run, memory=replace(run.memory, gpu_used_mb=after - before))
        if not config.telemetry:
            return run
        sensed = recorder.telemetry(images=run.latency.count * cell.batch, gpu=_on_gpu(cell, config))
        return replace(run, telemetry=sensed, warnings=(*run.warnings, *warnings_of(sensed, sensors)))
    finally:
        one.close()


def _on_gpu(cell: Cell, config: BenchConfig) -> bool:
    """Whether a GPU does the work."""
    return cell.choice.backend in ENGINE_BACKENDS or config.provider != "cpu"


def _compared(
    cells: list[Cell], config: BenchConfig, sensors: Sensors, progress: Progress
) -> tuple[list[Run], tuple[Comparison, ...]]:
    """Measure two cells in turns; the first is the baseline. Sensors cannot tell them apart: they give warnings alone."""
    with ExitStack() as stack:
        pair: list[Ready] = []
        for cell in cells:
            one = ready(cell, config)
            stack.callback(one.close)
            pair.append(one)
        with Recorder(sensors) as recorder:
            times, rounds = in_turns(
                [one.requests[0] for one in pair],
                [one.warm.last for one in pair],
                seconds=config.duration,
                count=config.count,
                progress=progress,
            )
        runs = [_run(one, config, found, None) for one, found in zip(pair, times, strict=True)]
        if config.telemetry:
            sensed = recorder.telemetry(images=0, gpu=any(_on_gpu(cell, config) for cell in cells))
            texts = warnings_of(sensed, sensors)
            runs = [replace(run, telemetry=sensed, warnings=(*run.warnings, *texts)) for run in runs]
    return runs, (judge(cells[0].label, cells[1].label, *rounds),)


def _run(one: Ready, config: BenchConfig, found: Times | Served, load: Load | None) -> Run:
    """Write down what was measured, and measure the stages of a request."""
    cell = one.cell
    if isinstance(found, Served):
        taken = [wait + work for wait, work in zip(found.queue, found.service, strict=True)]
    else:
        taken = list(found.nanoseconds)
    memory = Memory(
        rss_before_mb=one.memory["before"],
        rss_loaded_mb=one.memory["loaded"],
        rss_after_mb=rss_mb(),
        rss_peak_mb=peak_mb(),
    )
    apart = take_apart(cell.bundle, one.session, one.inputs, seconds=min(_STAGES_MOST, _STAGES_SHARE * config.duration))
    return Run(
        label=cell.label,
        bundle=str(cell.bundle.path),
        model=cell.bundle.spec.name,
        variant=cell.choice.variant,
        precision=cell.bundle.variants[cell.choice.variant].precision,
        backend=cell.choice.backend,
        batch=cell.batch,
        threads=cell.threads,
        streams=config.streams,
        end_to_end=config.end_to_end,
        seconds=found.seconds,
        throughput=len(taken) * cell.batch / found.seconds,
        latency=latency_of(taken),
        histogram=histogram_of(taken),
        start_up=one.start_up,
        memory=memory,
        stages={name: latency_of(times) for name, times in apart.items()},
        load=load,
        layers=_layers(one) if config.profile else (),
        warnings=tuple(_warnings(one, load, config)),
    )


def _load(found: Served, config: BenchConfig, requests: int) -> Load:
    """Count deadlines."""
    assert config.rate is not None
    rate = config.rate.rate
    deadline = config.deadline_ms or 1e3 / rate
    late = sum((wait + work) / 1e6 > deadline for wait, work in zip(found.queue, found.service, strict=True))
    service = latency_of(found.service)
    return Load(
        pattern=config.rate.pattern,
        rate=rate,
        achieved=len(found.service) / found.seconds,
        deadline_ms=deadline,
        requests=requests,
        served=len(found.service),
        misses=late + requests - len(found.service),
        queue=latency_of(found.queue),
        service=service,
        utilisation=rate * service.mean_ms / 1e3 / config.streams,
    )


def _layers(one: Ready) -> tuple[LayerTime, ...]:
    """Measure the operators, where the backend has a tracer of its own."""
    cell, feed = one.cell, one.inputs.feeds[0]
    if isinstance(cell.options, OrtOptions):
        return layer_times(cell.bundle.model_path(cell.choice.variant), cell.options, feed)
    if isinstance(cell.options, TensorRtOptions):
        with cell.bundle.session(
            cell.choice.variant, cell.choice.backend, allow_unverified=True, options=cell.options
        ) as session:
            assert isinstance(session, TensorRtSession)
            return engine_layer_times(session, feed)
    return ()


def _warnings(one: Ready, load: Load | None, config: BenchConfig) -> list[str]:
    """Return what makes a run doubtful, and what it lacks."""
    found = [one.inputs.note] if one.inputs.note else []
    if config.profile and not isinstance(one.cell.options, OrtOptions | TensorRtOptions):
        found.append(f"layers are not profiled on {one.cell.choice.backend}")
    if not one.start_up.steady:
        found.append(f"latency was not steady after {one.start_up.warmup_ms / 1e3:.1f} s of warming up")
    if load is not None and load.utilisation >= 1:
        found.append(
            f"it cannot keep up with {load.rate:g} requests a second: service alone takes {load.utilisation:.0%} of the time"
        )
    return found
