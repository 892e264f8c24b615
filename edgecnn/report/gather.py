"""What a report shows, brought together: what the bundle says, and what is measured for the occasion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.comparison.bundles import size_of
from edgecnn.errors import BundleMissingError, EdgecnnError, UserError
from edgecnn.optional import available
from edgecnn.progress import Progress, silent
from edgecnn.runtime import Bundle

if TYPE_CHECKING:
    from edgecnn.analysis import Analysis
    from edgecnn.bench import BenchResult
    from edgecnn.parity.evaluate import Evaluation
    from edgecnn.parity.report import ParityReport

__all__ = ["Findings", "ReportConfig", "gather"]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What to put on the page besides what the bundle itself says.

    Attributes:
        data: a folder of labelled images: accuracy of every variant. ``limit``: of them; 0 takes all.
        analyze: what INT8 does to each layer, on the bundle's golden images. ``variant``: which; "" takes ``int8``, or the first.
        bench: a file of ``edgecnn bench --json``.
        measure: measure the bundle here and now, ``seconds`` a graph; goes without ``bench``.
    """

    data: Path | None = None
    limit: int = 0
    analyze: bool = False
    variant: str = ""
    bench: Path | None = None
    measure: bool = False
    seconds: float = 3.0

    def __post_init__(self) -> None:
        """Check the values. Raises UserError."""
        if self.measure and self.bench is not None:
            raise UserError("a report shows one benchmark: a file, or what is measured now")
        if self.limit < 0:
            raise UserError(f"limit {self.limit} must not be negative; 0 takes every image")
        if not 0 < self.seconds <= 3600:
            raise UserError(f"{self.seconds:g} seconds of measuring a graph: give more than 0, at most 3600")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a report shows.

    Attributes:
        bundle: it.
        params, macs: of the network; None where they cannot be told.
        parity: its verification; None where it has none that can be read.
        evaluation: accuracy on labelled images; ``data`` is what they are called.
        analysis: what INT8 does to each layer.
        bench: a benchmark.
        results: what devices made of commands, ``<device>/<verb>.json`` -> document.
        notes: what could not be had, and why.
    """

    bundle: Bundle
    params: int | None = None
    macs: int | None = None
    parity: ParityReport | None = None
    evaluation: Evaluation | None = None
    data: str = ""
    analysis: Analysis | None = None
    bench: BenchResult | None = None
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def gather(path: Path | str, config: ReportConfig | None = None, progress: Progress = silent) -> Findings:
    """Read a bundle, verified or not, and measure what was asked for.

    Raises:
        BundleError: it is no bundle, or damaged.
        UserError: ``analyze`` of a bundle without INT8 variants.
        DataError: ``data`` or ``bench`` cannot be used, or the benchmark is of other bundles.
        BackendError, MissingDependencyError: what was asked for cannot run here.
    """
    config = config or ReportConfig()
    bundle = Bundle.open(path, allow_unverified=True)
    notes: list[str] = []
    params, macs = size_of(bundle)
    found: dict[str, Any] = {"parity": _parity(bundle, notes), "results": _results(bundle, notes)}
    if config.bench is not None:
        found["bench"] = _read_bench(bundle, config.bench)
    if config.measure:
        found["bench"] = _measure(bundle, config, progress)
    if config.data is not None:
        from edgecnn.parity.evaluate import evaluate

        found["data"] = config.data.name
        found["evaluation"] = evaluate(
            bundle,
            config.data,
            limit=config.limit or None,
            allow_unverified=True,
            progress=progress,
        )
    if config.analyze:
        from edgecnn.analysis import analyze

        found["analysis"] = analyze(bundle.path, variant=config.variant, progress=progress)
    return Findings(bundle=bundle, params=params, macs=macs, notes=tuple(notes), **found)


def _parity(bundle: Bundle, notes: list[str]) -> ParityReport | None:
    """Read the verification."""
    from edgecnn.parity.report import ParityReport

    try:
        return ParityReport.from_json(bundle.parity())
    except BundleMissingError:
        notes.append("the bundle has no parity.json: how it was verified is not known")
    except EdgecnnError as error:
        notes.append(f"the bundle's parity.json cannot be shown: {error}")
    return None


def _results(bundle: Bundle, notes: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """Read what devices found."""
    try:
        return bundle.results()
    except EdgecnnError as error:
        notes.append(f"what devices found cannot be shown: {error}")
    return {}


def _read_bench(bundle: Bundle, file: Path) -> BenchResult:
    """Read a benchmark's runs of this bundle, by the folder's name, or by the network's where the device had it elsewhere."""
    from edgecnn.bench import read_result
    from edgecnn.errors import DataError

    result = read_result(file)
    name = bundle.path.resolve().name
    runs = [run for run in result.runs if Path(run.bundle).name == name]
    runs = runs or [run for run in result.runs if run.model == bundle.spec.name and run.variant in bundle.variants]
    if not runs:
        measured = ", ".join(sorted({Path(run.bundle).name for run in result.runs})) or "nothing"
        raise DataError(
            f"{file} measured {measured}, not {bundle.path.resolve().name}: run 'edgecnn bench {bundle.path} --json'"
        )
    labels = {run.label for run in runs}
    compared = tuple(item for item in result.comparisons if {item.baseline, item.candidate} <= labels)
    return replace(result, runs=tuple(runs), comparisons=compared)


def _measure(bundle: Bundle, config: ReportConfig, progress: Progress) -> BenchResult:
    """Measure every verified variant, on every backend that it passed on and that is installed."""
    from edgecnn.bench import BenchConfig, Candidate, bench

    candidates = []
    for name, variant in bundle.variants.items():
        speed = variant.speed
        backends = [speed.backend, *speed.backends] if speed else ["onnxruntime"]
        candidates += [
            Candidate(variant=name, backend=backend)
            for backend in backends
            if available(backend) and (variant.verified_on(backend) or not bundle.manifest.verified)
        ]
    if not candidates:
        raise UserError(
            f"{bundle.path}: nothing to measure: no variant passed verification on a backend that is installed"
        )
    settings = BenchConfig(candidates=tuple(candidates), duration=config.seconds, allow_unverified=True)
    return bench([bundle], settings, progress=progress)
