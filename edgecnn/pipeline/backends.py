"""The variants on the other backend that a CPU may have: verified and measured beside onnxruntime, where OpenVINO is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from edgecnn.bench.timing import Timing
from edgecnn.doctor import machine
from edgecnn.errors import BackendError
from edgecnn.optional import available
from edgecnn.parity.report import ParityReport, StageResult
from edgecnn.parity.stages import Stage
from edgecnn.pipeline.config import PipelineConfig
from edgecnn.pipeline.variants import Graphs
from edgecnn.runtime.manifest import BackendSpeed, Speed
from edgecnn.runtime.openvino import OpenVinoOptions, OpenVinoSession
from edgecnn.runtime.session import Session

__all__ = ["AT", "findings", "open_others", "other_stages", "runnable", "speed_of", "split"]

AT = "@openvino"
"""Suffix of the stages that run a variant there."""


def open_others(graphs: Graphs, config: PipelineConfig, stack: ExitStack) -> dict[str, Session]:
    """Return a session on OpenVINO of every variant that it takes; none without OpenVINO, or where a GPU is the target.

    What it refuses becomes a note: the bundle runs on onnxruntime all the same.
    """
    if not config.for_cpu or not available("openvino"):
        return {}
    sessions: dict[str, Session] = {}
    refused: dict[str, list[str]] = {}
    for name in graphs.variants:
        try:
            session = OpenVinoSession(graphs.stages[name].path, OpenVinoOptions(threads=config.threads))
        except BackendError as error:
            reason = str(error).replace(graphs.stages[name].path.name, "this")
            refused.setdefault(reason, []).append(name)
            continue
        sessions[name + AT] = stack.enter_context(session)
    graphs.notes += [f"{', '.join(names)}: onnxruntime alone, because {reason}" for reason, names in refused.items()]
    return sessions


def other_stages(sessions: Mapping[str, Session], graphs: Graphs) -> list[Stage]:
    """Return what to compare: each with PyTorch and with the graph that its variant was made from, on onnxruntime.

    fp32 is compared with itself on onnxruntime, as the same arithmetic.
    """
    stages = []
    for key, session in sessions.items():
        name = key.removesuffix(AT)
        precision = graphs.stages[name].precision
        exact = precision == "fp32"
        stages.append(Stage(key, precision, session, after=name if exact else graphs.after[name], exact=exact))
    return stages


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
