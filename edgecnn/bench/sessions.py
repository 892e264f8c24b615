"""From a candidate to a session that is ready to be measured, and what that cost."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecnn.bench.config import BenchConfig, Candidate
from edgecnn.bench.loops import Warm, warm_up
from edgecnn.bench.memory import reset_peak, rss_mb
from edgecnn.bench.requests import Inputs, calls, check_batch, inputs_of
from edgecnn.bench.result import StartUp
from edgecnn.errors import UserError
from edgecnn.onnxio import trim_memory
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import ENGINE_BACKENDS, AutoOptions, Choice, Options
from edgecnn.runtime.openvino import OpenVinoOptions, available_devices
from edgecnn.runtime.ort import OrtOptions, available_providers
from edgecnn.runtime.session import Session
from edgecnn.runtime.tensorrt import Rebuild, TensorRtFlavour, TensorRtOptions
from edgecnn.runtime.trt_api import module_of

__all__ = ["Cell", "Ready", "cell_of", "check_options", "options_of", "ready"]

_PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the matrix: what runs, and how."""

    label: str
    bundle: Bundle
    choice: Choice
    batch: int
    threads: int
    options: Options


@dataclass(kw_only=True)
class Ready:
    """A cell whose session has run until it was steady. Close it.

    Attributes:
        requests: one for each stream. ``warm``: how the warm-up ended.
        memory: ``before`` and ``loaded``, megabytes.
    """

    cell: Cell
    session: Session
    inputs: Inputs
    requests: list[Callable[[], object]]
    start_up: StartUp
    warm: Warm
    memory: dict[str, float | None] = field(default_factory=dict)

    def close(self) -> None:
        """Give everything back, so that the next cell's memory is its own."""
        self.session.close()
        self.requests.clear()
        gc.collect()
        trim_memory()


def options_of(
    config: BenchConfig, backend: str, threads: int, rebuild: Rebuild | None = None
) -> OrtOptions | OpenVinoOptions | TensorRtOptions | AutoOptions:
    """Return a backend's options.

    Args:
        config: with the provider, and as many contexts of an engine as there are streams.
        backend: ``auto`` where the bundle chooses.
        threads: of one inference.
        rebuild: what to do with an engine that does not fit this device.

    Raises:
        UserError: threads for a GPU, or a provider of another backend.
    """
    if config.provider not in _PROVIDERS:
        raise UserError(f"provider {config.provider!r} is not one of {', '.join(_PROVIDERS)}")
    if (config.plugins or config.cuda_graph) and backend not in ENGINE_BACKENDS:
        raise UserError(f"plugins and CUDA graphs are for engines, and the backend is {backend}")
    if config.provider != "cpu":
        if backend not in ("auto", "onnxruntime"):
            raise UserError(f"provider {config.provider} is onnxruntime's, and {backend} was asked for")
        return OrtOptions(threads=threads, providers=_PROVIDERS[config.provider])
    if backend in ENGINE_BACKENDS:
        if threads:
            raise UserError(f"threads are for CPUs, and {backend} was asked for: leave them out")
        flavour: TensorRtFlavour = "tensorrt" if backend == "tensorrt" else "tensorrt-rtx"
        return TensorRtOptions(
            flavour=flavour,
            contexts=config.streams,
            cuda_graph=config.cuda_graph,
            plugins=config.plugins,
            rebuild=rebuild,
        )
    if backend == "onnxruntime":
        return OrtOptions(threads=threads)
    return OpenVinoOptions(threads=threads) if backend == "openvino" else AutoOptions(threads=threads)


def check_options(config: BenchConfig) -> None:
    """Refuse options that leave nothing to measure, or one side of a comparison, whatever the bundles hold. Raises UserError."""
    refused: list[UserError] = []
    wanted = list(itertools.product(config.candidates, config.threads))
    for candidate, threads in wanted:
        try:
            options_of(config, candidate.backend, threads)
        except UserError as error:
            refused.append(error)
    if refused and (config.compare or len(refused) == len(wanted)):
        raise refused[0]


def cell_of(
    bundle: Bundle, candidate: Candidate, config: BenchConfig, batch: int, threads: int, rebuild: Rebuild | None
) -> Cell:
    """Decide what a candidate is. Raises UserError: no such variant, backend or engine."""
    asked = options_of(config, candidate.backend, threads, rebuild)
    choice = bundle.choose(candidate.variant or None, candidate.backend, asked)
    options = options_of(config, choice.backend, threads, rebuild)
    return Cell(label="", bundle=bundle, choice=choice, batch=batch, threads=threads, options=options)


def ready(cell: Cell, config: BenchConfig) -> Ready:
    """Load a cell's session and warm it up.

    Raises:
        UserError, BackendError, MissingDependencyError: as :func:`edgecnn.runtime.load`, or it does not take the batch.
    """
    import_ms = _milliseconds(lambda: _start_backend(cell.choice.backend))
    inputs = inputs_of(cell.bundle, cell.bundle.variants[cell.choice.variant].inputs[0], cell.batch)
    gc.collect()
    reset_peak()
    memory = {"before": rss_mb()}
    begun = time.perf_counter()
    session = cell.bundle.session(
        cell.choice.variant, cell.choice.backend, allow_unverified=config.allow_unverified, options=cell.options
    )
    load_ms = (time.perf_counter() - begun) * 1e3
    memory["loaded"] = rss_mb()
    try:
        check_batch(session, cell.batch)
        first_ms = _milliseconds(lambda: session.run(inputs.feeds[0]))
        requests = calls(cell.bundle, session, inputs, streams=config.streams, end_to_end=config.end_to_end)
        warm = warm_up(requests[0], config.warmup)
    except BaseException:
        session.close()
        raise
    start_up = StartUp(
        import_ms=import_ms,
        load_ms=load_ms,
        first_ms=first_ms,
        warmup_runs=warm.runs,
        warmup_ms=warm.seconds * 1e3,
        steady=warm.steady,
    )
    return Ready(
        cell=cell, session=session, inputs=inputs, requests=requests, start_up=start_up, warm=warm, memory=memory
    )


def _start_backend(backend: str) -> None:
    """Import a backend. Raises MissingDependencyError."""
    if backend == "onnxruntime":
        available_providers()
    elif backend == "openvino":
        available_devices()
    elif backend in ENGINE_BACKENDS:
        module_of(backend, "Runtime")


def _milliseconds(work: Callable[[], object]) -> float:
    """Return what a call takes."""
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3
