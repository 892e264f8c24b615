"""The main job, step by step: build, export, quantize, verify, measure, pack."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn import zoo
from edgecnn.bench.timing import Timing, interleave
from edgecnn.onnxio import release_memory, trim_memory
from edgecnn.pack import BundleContents, VariantContents, check_destination, make_golden, pack
from edgecnn.parity.remembered import Remembered
from edgecnn.parity.report import ParityReport, StageResult
from edgecnn.parity.samples import feed_for, real_images
from edgecnn.parity.stages import Stage, verify
from edgecnn.pipeline.backends import findings, runnable, speed_of, split, verify_others
from edgecnn.pipeline.config import Outcome, PipelineConfig
from edgecnn.pipeline.engines import build_engines, engine_config, unsound
from edgecnn.pipeline.gate import LatencyGate, cpu_gate, engine_gate, timed
from edgecnn.pipeline.samples import Data, gather
from edgecnn.pipeline.variants import EMULATED, Graphs, Step, make_graphs
from edgecnn.progress import Progress, silent
from edgecnn.runtime.manifest import Embedded, Speed, Weights
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.runtime.session import Session
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.engine import BuildConfig
    from edgecnn.weights import LoadedWeights
    from edgecnn.zoo_build import Built

__all__ = ["run"]

GOLDEN_IMAGES = 3
TOOLS = ("edgecnn", "torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "openvino", "numpy", "Pillow")


def run(
    spec: ModelSpec,
    config: PipelineConfig | None = None,
    *,
    to: Path,
    module: nn.Module | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Do the main job.

    Args:
        spec: of the zoo (:func:`edgecnn.zoo.find`) or the user's own (:func:`edgecnn.zoo.user_spec`).
        config: what to make. ``to``: the bundle's folder.
        module: the network itself, in place of what the spec's builder returns.
        progress: told about steps.

    Returns:
        The bundle, written also when verification failed: it is then marked unverified, and the runtime refuses it.

    Raises:
        UserError: anything the caller can fix: the destination exists, no weights, unusable images, no TensorRT-RTX.
        ToolError: torch.onnx, a runtime or a builder failed.
    """
    config, seconds = config or PipelineConfig(), dict[str, float]()
    check_destination(to, force=config.force)
    builds, notes = engine_config(config)
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as scratch, ExitStack() as stack:
        with _step("build", seconds, progress):
            built = zoo.build(spec, config.weights, config.num_classes, progress, module=module)
        with _step("samples", seconds, progress):
            data = gather(built, config, progress)
        step = partial(_step, seconds=seconds, progress=progress)
        held_out = data.held_out(built.spec, config)
        graphs = make_graphs(built, data.calibration, held_out, config, Path(scratch), step, progress)
        with _step("verify", seconds, progress):
            found = _verified(built, graphs, data, config, stack, progress)
        report, variants = found.report, found.variants
        with step("measure"):
            measured = _measure({**variants, **runnable(found.others, found.failed)}, data, config, progress)
            for session in found.others.values():
                session.close()
        graphs.notes += [*report.notes, *findings(measured), *notes]
        gate = _add_engines(graphs, report, builds, config.latency_gate, Path(scratch), step, progress)
        with _step("pack", seconds, progress):
            golden = {**variants, "pytorch": found.reference}
            contents = _contents(built, graphs, golden, report, found.failed, measured, data, config)
            bundle = pack(to, contents, force=config.force)
    return Outcome(
        bundle=bundle,
        report=report,
        timings={name: measured[name] for name in variants if name in measured},
        seconds=seconds,
        notes=tuple(contents.notes),
        searches=graphs.searches,
        engines=graphs.engines,
        gate=cpu_gate(bundle) if config.latency_gate and config.for_cpu else gate,
    )


@dataclass(frozen=True, kw_only=True)
class _Verified:
    """What verification found, and what it leaves open.

    Attributes:
        report: without what failed on OpenVINO alone, which is ``failed``.
        reference: PyTorch. ``variants``: on onnxruntime. ``others``: on OpenVINO.
    """

    report: ParityReport
    failed: tuple[StageResult, ...]
    reference: Session
    variants: Mapping[str, Session]
    others: Mapping[str, Session]


def _verified(
    built: Built, graphs: Graphs, data: Data, config: PipelineConfig, stack: ExitStack, progress: Progress
) -> _Verified:
    """Compare every graph with PyTorch, on onnxruntime, then on OpenVINO; ``stack`` closes the sessions."""
    release_memory()
    sessions = _sessions(graphs, config, stack)
    reference = stack.enter_context(_reference(built.module, built.spec, config))
    sets = data.sets(built.spec, pixels=config.embed_preprocess)
    stages = _stages(reference, sessions, graphs)
    report = verify(stages, sets, progress=progress)
    _close(sessions, graphs)
    others = verify_others(graphs, stages, sets, config, stack, progress)
    report, failed = split(replace(report, stages=(*report.stages, *others.stages)))
    variants = {name: sessions[name] for name in graphs.variants}
    return _Verified(report=report, failed=failed, reference=reference, variants=variants, others=others.sessions)


def _add_engines(
    graphs: Graphs,
    report: ParityReport,
    config: BuildConfig | None,
    latency_gate: bool,
    scratch: Path,
    step: Step,
    progress: Progress,
) -> LatencyGate | None:
    """Build an engine of every variant that passed verification, and measure them if that was asked for and there is what to compare."""
    if config is None:
        return None
    with step("engine"):
        sound = {name: graphs.stages[name] for name in graphs.variants if _passed(name, report)}
        graphs.engines = build_engines(sound, config, to=scratch, progress=progress)
    graphs.notes += unsound(graphs.engines)
    if not latency_gate or not {"int8", "fp16"} <= set(graphs.engines):
        return None
    with step("gate"):
        graphs.engines = timed(graphs.engines, graphs.stages, config, progress=progress)
    gate = engine_gate(graphs.engines)
    graphs.notes.append(f"latency of {config.target}: {gate}")
    return gate


def _contents(
    built: Built,
    graphs: Graphs,
    sessions: Mapping[str, Session],
    report: ParityReport,
    failed: Sequence[StageResult],
    measured: Mapping[str, Timing],
    data: Data,
    config: PipelineConfig,
) -> BundleContents:
    """Gather what goes into the bundle."""
    pictures = data.pictures(GOLDEN_IMAGES)
    golden = make_golden(pictures, built.spec.preprocess, sessions) if pictures else {}
    return BundleContents(
        spec=zoo.recorded(built.spec),
        weights=_weights(built.weights),
        variants=[_variant(name, graphs, report, speed_of(name, measured, failed, config)) for name in graphs.variants],
        labels=zoo.labels(built.spec),
        embedded=Embedded(preprocess=config.embed_preprocess, softmax=config.embed_softmax),
        golden=golden,
        ranges=graphs.ranges,
        parity=report.to_json() | {"failed_elsewhere": [stage.to_json() for stage in failed]},
        parity_summary=report.summary(),
        verified=bool(report),
        calibration=graphs.calibration,
        notes=(*data.notes, *built.weights.notes, *graphs.notes),
        lineage=graphs.stages["fp32"].lineage,
        tools={name: metadata.version(name) for name in TOOLS if _installed(name)},
    )


def _reference(module: nn.Module, spec: ModelSpec, config: PipelineConfig) -> Session:
    """Return PyTorch as a session."""
    from edgecnn.parity.torch_runner import TorchSession

    return TorchSession(module, spec.inputs, output=config.export.output, output_name=spec.outputs[0].name)


def _sessions(graphs: Graphs, config: PipelineConfig, stack: ExitStack) -> dict[str, Session]:
    """Return every stage's graph on onnxruntime."""
    options = OrtOptions(threads=config.threads)
    return {name: stack.enter_context(OrtSession(model.path, options)) for name, model in graphs.stages.items()}


def _stages(reference: Session, sessions: Mapping[str, Session], graphs: Graphs) -> list[Stage]:
    """Return what to compare: every graph with PyTorch, and with the graph that it was made from."""
    stages = [Stage("pytorch", "fp32", Remembered(reference))]
    for name, session in sessions.items():
        precision, after = graphs.stages[name].precision, graphs.after[name]
        stages.append(Stage(name, precision, Remembered(session), after=after, exact=precision == "fp32"))
    return stages


def _close(sessions: dict[str, Session], graphs: Graphs) -> None:
    """Let go the sessions of graphs that the bundle will not hold, but for those that a variant was made from."""
    for name in sessions.keys() - {
        *graphs.variants,
        *(graphs.after[name] for name in graphs.variants if name != "fp32"),
    }:
        sessions.pop(name).close()
    trim_memory()


def _measure(
    sessions: Mapping[str, Session], data: Data, config: PipelineConfig, progress: Progress
) -> dict[str, Timing]:
    """Measure the variants in turns on a real input."""
    if config.measure_seconds <= 0:
        return {}
    sample = next(iter(real_images(data.verification)))
    first = next(iter(sessions.values()))
    batch = first.inputs[0].shape[0]
    feed = feed_for(first, [sample] * (batch if isinstance(batch, int) else 1))
    feeds = dict.fromkeys(sessions, feed)
    return interleave(sessions, feeds, baseline="fp32", seconds=config.measure_seconds, progress=progress)


def _variant(name: str, graphs: Graphs, report: ParityReport, speed: Speed | None) -> VariantContents:
    """Describe one graph for the bundle."""
    return VariantContents(
        model=graphs.stages[name],
        placement=graphs.placements.get(name),
        verified=_passed(name, report),
        speed=speed,
        engines=[graphs.engines[name]] if name in graphs.engines else [],
    )


def _passed(name: str, report: ParityReport) -> bool:
    """Whether a variant passed verification, in every arithmetic that it was run in."""
    return all(stage.passed for stage in report.stages if stage.name in (name, f"{name}-{EMULATED}"))


def _weights(loaded: LoadedWeights) -> Weights:
    """Describe the weights for the manifest."""
    return Weights(
        entry=loaded.name,
        source=loaded.source,
        sha256=loaded.sha256,
        licence=loaded.licence,
        top1=loaded.top1,
        top5=loaded.top5,
        untrained=loaded.untrained,
        seed=loaded.seed,
    )


@contextmanager
def _step(name: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    """Time a step and report its beginning and its end."""
    started = time.perf_counter()
    progress(name, 0, 0)
    yield
    seconds[name] = time.perf_counter() - started
    progress(name, 1, 1)


def _installed(distribution: str) -> bool:
    """Whether a distribution is installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
