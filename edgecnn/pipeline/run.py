"""The main job, step by step: build, export, quantize, verify, measure, pack."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import zoo
from edgecnn.artifacts import OnnxModel, cache_dir
from edgecnn.bench.timing import Timing, interleave
from edgecnn.calib.methods import parse
from edgecnn.doctor import machine
from edgecnn.export import export
from edgecnn.pack import BundleContents, VariantContents, check_destination, make_golden, pack
from edgecnn.parity.report import ParityReport
from edgecnn.parity.stages import Stage, verify
from edgecnn.pipeline.config import Outcome, PipelineConfig
from edgecnn.pipeline.samples import Data, gather
from edgecnn.progress import Progress, silent
from edgecnn.quantize import QuantizeConfig, quantize
from edgecnn.runtime.manifest import Speed, Weights
from edgecnn.runtime.ort import OrtOptions, OrtSession
from edgecnn.runtime.session import Session
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.weights import LoadedWeights
    from edgecnn.zoo_build import Built

__all__ = ["run"]

GOLDEN_IMAGES = 3
TOOLS = ("edgecnn", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "Pillow")


@dataclass
class _Made:
    """The graphs, and what is known of the quantized ones."""

    models: dict[str, OnnxModel] = field(default_factory=dict)
    placements: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ranges: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None


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
        config: what to make.
        to: the bundle's folder.
        module: the network itself, in place of what the spec's builder returns.
        progress: told about steps.

    Returns:
        The bundle, written also when verification failed: it is then marked unverified, and the runtime refuses it.

    Raises:
        UserError: anything the caller can fix: the destination exists, no weights, unusable images.
        ToolError: torch.onnx or a runtime failed.
    """
    config = config or PipelineConfig()
    check_destination(to, force=config.force)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as scratch, ExitStack() as stack:
        with _step("build", seconds, progress):
            built = zoo.build(spec, config.weights, config.num_classes, progress, module=module)
        data = gather(built.spec, config)
        with _step("export", seconds, progress):
            path = Path(scratch) / "model.fp32.onnx"
            made = _Made(
                {"fp32": export(built.module, built.spec, config.export, to=path, labels=zoo.labels(built.spec))}
            )
        if config.int8:
            with _step("quantize", seconds, progress):
                _quantize(made, data, config, Path(scratch), progress)
        options = OrtOptions(threads=config.threads)
        sessions: dict[str, Session] = {
            name: stack.enter_context(OrtSession(model.path, options)) for name, model in made.models.items()
        }
        with _step("verify", seconds, progress):
            reference = stack.enter_context(_reference(built.module, built.spec, config))
            report = _verify(reference, sessions, data, built.spec, progress)
        with _step("measure", seconds, progress):
            timings = _measure(sessions, data, config, progress)
        with _step("pack", seconds, progress):
            contents = _contents(built, made, sessions | {"pytorch": reference}, report, timings, data, config)
            bundle = pack(to, contents, force=config.force)
    return Outcome(bundle=bundle, report=report, timings=timings, seconds=seconds, notes=tuple(contents.notes))


def _contents(
    built: Built,
    made: _Made,
    sessions: Mapping[str, Session],
    report: ParityReport,
    timings: Mapping[str, Timing],
    data: Data,
    config: PipelineConfig,
) -> BundleContents:
    """Gather what goes into the bundle."""
    pictures = data.pictures(GOLDEN_IMAGES)
    golden = make_golden(pictures, built.spec.preprocess, sessions) if pictures else {}
    notes = (*data.notes, *built.weights.notes)
    return BundleContents(
        spec=built.spec,
        weights=_weights(built.weights),
        variants=[_variant(name, made, report, timings, config) for name in made.models],
        labels=zoo.labels(built.spec),
        golden=golden,
        ranges=made.ranges,
        parity=report.to_json(),
        parity_summary=report.summary(),
        verified=bool(report),
        calibration=made.calibration,
        notes=notes,
        lineage=made.models["fp32"].lineage,
        tools={name: metadata.version(name) for name in TOOLS if _installed(name)},
    )


def _quantize(made: _Made, data: Data, config: PipelineConfig, scratch: Path, progress: Progress) -> None:
    """Make the INT8 variants: ``int8`` always, ``int8-cpu`` where a CPU is the target."""
    cpu = config.target == "cpu" or (config.target == "auto" and not machine().nvidia)
    for scheme in ("int8", "int8-cpu") if cpu else ("int8",):
        result = quantize(
            made.models["fp32"],
            data.calibration,
            QuantizeConfig(
                scheme=scheme,
                method=parse(config.method),
                keep_float=config.keep_float,
                bias_correction=config.bias_correction,
            ),
            to=scratch / f"model.{scheme}.onnx",
            cache=cache_dir() / "calibration" if config.use_cache else None,
            threads=config.threads,
            progress=progress,
        )
        made.models[scheme] = result.model
        made.placements[scheme] = result.placement.to_json()
        made.ranges[scheme] = result.ranges.to_json()
        made.calibration = {
            **data.calibration.describe(),
            "hash": result.ranges.hashes["data"],
            "method": dict(result.ranges.method),
            "reused": result.ranges.reused,
        }


def _reference(module: nn.Module, spec: ModelSpec, config: PipelineConfig) -> Session:
    """Return PyTorch as a session."""
    from edgecnn.parity.torch_runner import TorchSession

    return TorchSession(module, spec.inputs, output=config.export.output, output_name=spec.outputs[0].name)


def _verify(
    reference: Session, sessions: Mapping[str, Session], data: Data, spec: ModelSpec, progress: Progress
) -> ParityReport:
    """Compare every graph with PyTorch and with what it was made from."""
    stages = [Stage("pytorch", "fp32", reference)]
    for name, session in sessions.items():
        stages.append(Stage(name, name, session, after="pytorch" if name == "fp32" else "fp32"))
    return verify(stages, data.sets(spec), progress=progress)


def _measure(
    sessions: Mapping[str, Session], data: Data, config: PipelineConfig, progress: Progress
) -> dict[str, Timing]:
    """Measure the variants in turns on a real input."""
    if config.measure_seconds <= 0:
        return {}
    import numpy as np

    feed = next(iter(data.verification))
    batch = next(iter(sessions.values())).inputs[0].shape[0]
    if isinstance(batch, int):
        feed = {name: np.repeat(value, batch, axis=0) for name, value in feed.items()}
    feeds = dict.fromkeys(sessions, feed)
    return interleave(sessions, feeds, baseline="fp32", seconds=config.measure_seconds, progress=progress)


def _variant(
    name: str, made: _Made, report: ParityReport, timings: Mapping[str, Timing], config: PipelineConfig
) -> VariantContents:
    """Describe one graph for the bundle."""
    timing = timings.get(name)
    speed = None
    if timing is not None:
        speed = Speed(milliseconds=timing.median_ms, ratio=timing.ratio, threads=config.threads, machine=machine().arch)
    return VariantContents(
        model=made.models[name], placement=made.placements.get(name), verified=report.stage(name).passed, speed=speed
    )


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
