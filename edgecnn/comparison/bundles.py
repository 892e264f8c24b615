"""The variants of bundles side by side, measured on this device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import zoo
from edgecnn.bench.layers import count_macs
from edgecnn.bench.timing import interleave
from edgecnn.comparison.measure import feed, images, processor
from edgecnn.comparison.names import FAMILIES, short
from edgecnn.comparison.points import Comparison, LeftOut, Measured, Point
from edgecnn.comparison.published import stated_of
from edgecnn.errors import BackendError, EdgecnnError, UserError
from edgecnn.onnxio import parameter_count
from edgecnn.optional import available
from edgecnn.parity.runner import bundle_hash
from edgecnn.progress import Progress, silent
from edgecnn.runtime import AutoOptions, Bundle
from edgecnn.runtime.session import Session

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["BundleConfig", "Score", "compare_bundles", "size_of"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """An accuracy that was measured before, such as by a sweep.

    Attributes:
        bundle: sha256 of the bundle's manifest. ``variant``, ``backend``: what was evaluated.
        top1: percent, of ``images`` images of ``data``.
    """

    bundle: str
    variant: str
    backend: str
    top1: float
    images: int
    data: str


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """How to compare.

    Attributes:
        variants: names; those that a bundle does not have are passed over. Empty takes every one that passed verification.
        options: as of :func:`edgecnn.runtime.load`; by default each variant runs on the backend that was faster at export.
        data: a folder of labelled images to measure accuracy on, in place of the published one; None measures none.
        limit: of these images; 0 takes all.
        scores: accuracies that were measured before, in place of ``data``.
        seconds: measuring time a graph.
        allow_unverified: compare what failed verification too.
    """

    variants: tuple[str, ...] = ()
    options: Options = field(default_factory=AutoOptions)
    data: Path | None = None
    limit: int = 0
    scores: tuple[Score, ...] = ()
    seconds: float = 2.0
    allow_unverified: bool = False

    def __post_init__(self) -> None:
        """Check the values. Raises UserError."""
        if not 0 < self.seconds <= 3600:
            raise UserError(f"{self.seconds:g} seconds of measuring a graph: give more than 0, at most 3600")
        if self.limit < 0:
            raise UserError(f"limit {self.limit} must not be negative; 0 takes every image")
        if self.data is not None and self.scores:
            raise UserError("accuracy is measured now, or was measured before: give data or scores, not both")


@dataclass(frozen=True)
class _Candidate:
    """A variant that is to be measured."""

    bundle: Bundle
    variant: str
    point: Point


def compare_bundles(
    paths: Sequence[Path], config: BundleConfig | None = None, progress: Progress = silent
) -> Comparison:
    """Measure the variants of bundles in turns, and set them beside each other.

    Raises:
        UserError: no bundle, no variant to measure, or a variant that no bundle has.
        BundleError, BackendError, MissingDependencyError: as :func:`edgecnn.runtime.load`.
        DataError: ``data`` cannot be used.
    """
    config = config or BundleConfig()
    bundles = [Bundle.open(path, allow_unverified=config.allow_unverified) for path in dict.fromkeys(paths)]
    candidates, left_out = _candidates(bundles, config)
    points = _measured(candidates, config, left_out, progress)
    if config.data is not None:
        points = _scored(points, candidates, config, progress)
    elif config.scores:
        points = _scored_before(points, candidates, config.scores)
    notes = [f"{bundle.path.name}: {alarm}" for bundle in bundles for alarm in bundle.alarms()]
    if any(point.top1 is not None and not point.own_accuracy for point in points):
        notes.append("accuracy of quantized graphs is that published for fp32, drawn hollow: --data measures their own")
    if config.scores and (absent := [point.name for point in points if not point.accuracy.startswith("measured")]):
        notes.append(f"the accuracies that were given are not of {', '.join(absent)} as it is now")
    if all(point.top1 is None for point in points):
        notes.append("no accuracy is published for these weights: --data with labelled images measures it")
    return Comparison(
        points=points,
        title="Bundles",
        device=processor(),
        reference=points[0].name,
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def _candidates(bundles: Sequence[Bundle], config: BundleConfig) -> tuple[list[_Candidate], list[LeftOut]]:
    """Return the variants to measure, and those that must not be. Raises UserError where nothing is left."""
    if not bundles:
        raise UserError("no bundle to compare: give the folders that 'edgecnn export' wrote, or --zoo")
    held = {name for bundle in bundles for name in bundle.variants}
    if unknown := [name for name in config.variants if name not in held]:
        raise UserError(f"no bundle has a variant {unknown[0]!r}; there are {', '.join(sorted(held))}")
    found, left_out = [], []
    for bundle, called in zip(bundles, _names(bundles), strict=True):
        counts = size_of(bundle)
        for name, variant in bundle.variants.items():
            if config.variants and name not in config.variants:
                continue
            point = _point(bundle, name, counts, called)
            if len(bundles) == 1:
                point = replace(point, label=name)
            if not variant.verified and not config.allow_unverified:
                left_out.append(LeftOut(name=point.name, reason="it failed verification"))
                continue
            found.append(_Candidate(bundle, name, point))
    if not found:
        raise UserError(
            "no variant to compare: none passed verification; --allow-unverified compares them all the same"
        )
    return found, left_out


def size_of(bundle: Bundle) -> tuple[int | None, int | None]:
    """Return a network's parameters and multiply-adds: the zoo's own count, or its fp32 graph's; None where neither can be had."""
    row = next((row for row in zoo.table() if row["name"] == bundle.spec.name), None)
    size = [bundle.preprocess.channels, *bundle.preprocess.size]
    if row is not None and bundle.spec.num_classes == row["num_classes"] and size == row["input_size"]:
        return row["num_params"], row["macs"]
    if "fp32" not in bundle.variants:
        return None, None
    path, spec = bundle.model_path("fp32"), bundle.variants["fp32"].inputs[0]
    params = parameter_count(path) if available("onnx_ir") else None
    try:
        return params, count_macs(path, feed(spec)) // images(spec) if available("onnxruntime") else None
    except BackendError:  # an operator of a plugin, which onnxruntime has not
        return params, None


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Return what bundles are called: their folders' names, or whole paths where two folders share one."""
    names = [bundle.path.resolve().name for bundle in bundles]
    return [str(bundle.path) if names.count(name) > 1 else name for bundle, name in zip(bundles, names, strict=True)]


def _point(bundle: Bundle, variant: str, counts: tuple[int | None, int | None], called: str) -> Point:
    """Describe a variant; its latency comes later."""
    weights, spec = bundle.manifest.weights, bundle.spec
    precision = bundle.variants[variant].precision
    stage = (bundle.manifest.parity.get("stages") or {}).get(variant, {})
    agreement = stage.get("top1") if precision != "fp32" and isinstance(stage, Mapping) else None
    size = (bundle.preprocess.channels, *bundle.preprocess.size)
    top1, source = weights.top1, weights.source
    if top1 is None and (stated := stated_of(weights.sha256, size[1])):
        top1, source = stated
    published = "published" if precision == "fp32" else "published for fp32"
    return Point(
        name=f"{called} {variant}",
        label=f"{short(spec.name)} {variant}",
        family=spec.family if spec.family in FAMILIES else "user",
        params=counts[0],
        macs=counts[1],
        top1=top1,
        accuracy=published if top1 is not None else "",
        source=source,
        weights=weights.entry,
        size=size,
        precision=precision,
        agreement=float(agreement) if isinstance(agreement, (int, float)) else None,
    )


def _measured(
    candidates: Sequence[_Candidate], config: BundleConfig, left_out: list[LeftOut], progress: Progress
) -> tuple[Point, ...]:
    """Measure all candidates in turns; what cannot run here is left out, unless nothing can."""
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for item in candidates:
            try:
                session = item.bundle.session(
                    item.variant, allow_unverified=config.allow_unverified, options=config.options
                )
            except EdgecnnError as error:
                if len(candidates) == 1:
                    raise
                left_out.append(LeftOut(name=item.point.name, reason=str(error).splitlines()[0]))
                continue
            sessions[item.point.name] = stack.enter_context(session)
        if not sessions:
            raise UserError(f"none of the graphs runs here; the first: {left_out[-1].reason}")
        feeds = {name: feed(session.inputs[0]) for name, session in sessions.items()}
        first = next(iter(sessions))
        found = interleave(sessions, feeds, baseline=first, seconds=config.seconds, progress=progress)
    batches = {name: images(session.inputs[0]) for name, session in sessions.items()}
    base = found[first].median_ms / batches[first]
    latencies = {}
    for name, timing in found.items():
        share = batches[first] / batches[name]  # of a run's time that one image has, against the first one's
        latencies[name] = Measured(
            milliseconds=timing.ratio * share * base,
            ratio=timing.ratio * share,
            spread=timing.spread * share,
            rounds=timing.runs,
            backend=sessions[name].backend,
            threads=config.options.threads,
        )
    return tuple(
        replace(item.point, latency=latencies[item.point.name]) for item in candidates if item.point.name in latencies
    )


def _scored(
    points: tuple[Point, ...], candidates: Sequence[_Candidate], config: BundleConfig, progress: Progress
) -> tuple[Point, ...]:
    """Give points the accuracy that was measured on labelled images."""
    from edgecnn.parity.evaluate import evaluate

    assert config.data is not None
    scores: dict[str, Any] = {}
    kept = {point.name for point in points}
    for bundle in dict.fromkeys(item.bundle for item in candidates):
        own = [item for item in candidates if item.bundle is bundle and item.point.name in kept]
        if not own:
            continue
        found = evaluate(
            bundle,
            config.data,
            variants=[item.variant for item in own],
            limit=config.limit or None,
            allow_unverified=config.allow_unverified,
            options=config.options,
            progress=progress,
        )
        scores |= {item.point.name: score for item, score in zip(own, found.variants, strict=True)}
    return tuple(
        replace(point, top1=score.top1, accuracy=f"measured on {score.images} images", source=str(config.data.name))
        if (score := scores[point.name]).top1 is not None
        else point
        for point in points
    )


def _scored_before(
    points: tuple[Point, ...], candidates: Sequence[_Candidate], scores: Sequence[Score]
) -> tuple[Point, ...]:
    """Give points the accuracy that is known of them: on the backend that was timed, where there is one, and on the most images."""
    hashes = {bundle.path: bundle_hash(bundle) for bundle in dict.fromkeys(item.bundle for item in candidates)}
    keys = {item.point.name: (hashes[item.bundle.path], item.variant) for item in candidates}
    found = []
    for point in points:
        own = [score for score in scores if (score.bundle, score.variant) == keys[point.name]]
        if own:
            timed = point.latency.backend if point.latency else ""
            best = max(own, key=lambda score: (score.backend == timed, score.images))
            known = f"measured on {best.images} images"
            point = replace(point, top1=best.top1, accuracy=known, source=f"{best.data}, on {best.backend}")  # noqa: PLW2901
        found.append(point)
    return tuple(found)
