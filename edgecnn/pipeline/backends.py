"""The variants on the other backend that a CPU may have: verified and measured beside onnxruntime, where OpenVINO is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from edgecnn.bench.timing import Timing
from edgecnn.doctor import machine
from edgecnn.errors import BackendError
from edgecnn.onnxio import trim_memory
from edgecnn.optional import available
from edgecnn.parity.report import ParityReport, StageResult
from edgecnn.parity.samples import SampleSet
from edgecnn.parity.stages import Stage, verify
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.pipeline.variants import Graphs
from edgecnn.progress import Progress
from edgecnn.runtime.manifest import BackendSpeed, Speed
from edgecnn.runtime.openvino import OpenVinoOptions, OpenVinoSession
from edgecnn.runtime.session import Session

__all__ = ["AT", "Others", "findings", "runnable", "speed_of", "split", "verify_others"]

AT = "@openvino"
"""Suffix of the stages that run a variant there."""


@dataclass(frozen=True, kw_only=True)
class Others:
    """The variants on OpenVINO.

    Attributes:
        sessions: variant and :data:`AT` -> open.
        stages: what verification found of each.
    """

    sessions: Mapping[str, Session]
    stages: tuple[StageResult, ...]


def verify_others(
    graphs: Graphs,
    known: Sequence[Stage],
    sets: Sequence[SampleSet],
    config: PipelineConfig,
    stack: ExitStack,
    progress: Progress,
) -> Others:
    """Open every variant that OpenVINO takes, and compare it with PyTorch and with the graph that it was made from, on onnxruntime.

    One is opened after the other was verified, since batches take memory that is given back. None without OpenVINO, or where a GPU
    is the target. What OpenVINO refuses becomes a note: the bundle runs on onnxruntime all the same.

    Args:
        graphs: tell what was made from what. ``known``: PyTorch, then every graph on onnxruntime.
        sets: of samples.
        config: of the job. ``stack``: closes the sessions.
        progress: told about samples.
    """
    if not config.for_cpu or not available("openvino"):
        return Others(sessions={}, stages=())
    sessions: dict[str, Session] = {}
    found: list[StageResult] = []
    refused: dict[str, list[str]] = {}
    for name in graphs.variants:
        try:
            session = OpenVinoSession(graphs.stages[name].path, OpenVinoOptions(threads=config.threads))
        except BackendError as error:
            reason = str(error).replace(graphs.stages[name].path.name, "this")
            refused.setdefault(reason, []).append(name)
            continue
        sessions[name + AT] = stack.enter_context(session)
        report = verify(_compared(name, session, graphs, known), sets, progress=progress)
        found.append(report.stages[-1])
        trim_memory()
    graphs.notes += [f"{', '.join(names)}: onnxruntime alone, because {reason}" for reason, names in refused.items()]
    return Others(sessions=sessions, stages=tuple(found))


def _compared(name: str, session: Session, graphs: Graphs, known: Sequence[Stage]) -> list[Stage]:
    """Return what a variant is compared with, and itself last. fp32 goes with itself on onnxruntime, as the same arithmetic."""
    precision, first = graphs.stages[name].precision, known[0]
    exact = precision == "fp32"
    after = name if exact else graphs.after[name]
    before = [replace(stage, after=first.name) for stage in known if stage.name == after and stage is not first]
    return [first, *before, Stage(name + AT, precision, session, after=after, exact=exact)]


def split(report: ParityReport) -> tuple[ParityReport, tuple[StageResult, ...]]:
    """Return the report without those stages that failed on OpenVINO, and these.

    They are no reason to refuse the bundle: it records that it must not be run there.
    """
    failed = tuple(stage for stage in report.stages if stage.name.endswith(AT) and not stage.passed)
    kept = tuple(stage for stage in report.stages if stage not in failed)
    notes = tuple(f"{stage.name.removesuffix(AT)} failed verification on openvino: {_why(stage)}" for stage in failed)
    return replace(report, stages=kept, notes=(*report.notes, *notes)), failed


def runnable(sessions: Mapping[str, Session], failed: Iterable[StageResult]) -> dict[str, Session]:
    """Return the sessions that ran; one that only gave other numbers did."""
    broken = {stage.name for stage in failed if stage.problems}
    return {name: session for name, session in sessions.items() if name not in broken}


def speed_of(
    name: str, timings: Mapping[str, Timing], failed: Iterable[StageResult], config: PipelineConfig
) -> Speed | None:
    """Return what was measured of a variant, on every backend."""
    if name not in timings:
        return None
    own, other = timings[name], timings.get(name + AT)
    passed = name + AT not in {stage.name for stage in failed}
    others = {}
    if other is not None:
        others["openvino"] = BackendSpeed(milliseconds=other.median_ms, ratio=other.ratio, verified=passed)
    return Speed(
        milliseconds=own.median_ms,
        ratio=own.ratio,
        threads=config.threads,
        machine=machine().arch,
        backends=others,
    )


def findings(timings: Mapping[str, Timing]) -> tuple[str, ...]:
    """Say how long every variant takes on every backend, if there is more than one, and which are slower than fp32 there."""
    if not any(name.endswith(AT) for name in timings):
        return ()
    said = []
    for name, timing in sorted(timings.items(), key=lambda item: item[1].ratio):
        variant, backend = name.removesuffix(AT), "openvino" if name.endswith(AT) else "onnxruntime"
        base = timings.get("fp32" + AT if name.endswith(AT) else "fp32")
        slow = variant != "fp32" and base is not None and timing.ratio >= base.ratio
        said.append(f"{variant} on {backend} {timing.ratio:.2f}{' (not faster than fp32 there)' if slow else ''}")
    return (f"time on this machine, as a fraction of fp32's on onnxruntime: {', '.join(said)}",)


def _why(stage: StageResult) -> str:
    """Return the first reason for which a stage failed."""
    return next((reason for one in stage.failures for reason in one.verdict.reasons), "".join(stage.problems[:1]))
