"""Accuracy of a bundle's variants on labelled pictures, and how far each is from fp32. Memory does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendError, DataError, UserError
from edgecnn.parity.labelled import LabelledImages, read_labelled
from edgecnn.parity.metrics import Accumulator, Metrics, logits_of
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.choice import AutoOptions
from edgecnn.runtime.classifier import run_pixels
from edgecnn.runtime.preprocess import decode, fit
from edgecnn.runtime.session import Session
from edgecnn.runtime.tensorrt import TensorRtOptions

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["Evaluation", "VariantScore", "evaluate"]

Array = NDArray[Any]
REFERENCE = "fp32"


@dataclass(frozen=True, kw_only=True)
class VariantScore:
    """One variant's result.

    Attributes:
        variant: its name.
        images: how many were classified.
        top1, top5: accuracy, percent; None without labels.
        agreement: percent of images where its best class is fp32's; None if the bundle has no fp32.
        sqnr_db: energy of fp32's logits over that of the difference, dB; None for fp32 itself, or where nothing differs.
        mean_kl: mean divergence of its softmax from fp32's, nats; None if the bundle has no fp32.
    """

    variant: str
    images: int
    top1: float | None
    top5: float | None
    agreement: float | None
    sqnr_db: float | None
    mean_kl: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        variants: a score each.
        skipped: file -> why it could not be decoded.
        labels: where the classes came from.
    """

    variants: tuple[VariantScore, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    labels: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return ``{"variants": [{"variant", "images", "top1", "top5", "agreement", "sqnr_db", "mean_kl"}, ...]}``."""
        return {"variants": [score.to_json() for score in self.variants]}


def evaluate(
    bundle: Bundle | Path | str,
    data: Path | str | LabelledImages,
    *,
    variants: Sequence[str] | None = None,
    limit: int | None = None,
    allow_unverified: bool = False,
    options: Options | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a bundle's variants on labelled pictures, one picture at a time, as an application runs them.

    Args:
        bundle: a folder, or an opened bundle.
        data: a folder for :func:`~edgecnn.parity.labelled.read_labelled`, or what it returned.
        variants: names; all of the bundle by default, with TensorRT those that have an engine. fp32, the reference, runs in any case.
        limit: use so many pictures, spread evenly over the classes.
        allow_unverified: evaluate a bundle or variant whose verification failed.
        options: as of :func:`edgecnn.runtime.load`.
        progress: called once a picture.

    Raises:
        DataError: no pictures, classes that do not fit, or not one picture that can be decoded.
        UserError: an unknown variant.
        BundleError, BackendError, MissingDependencyError: as :func:`edgecnn.runtime.load`.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=allow_unverified)
    names = _chosen(bundle, variants, options)
    if not isinstance(data, LabelledImages):
        data = read_labelled(Path(data), bundle.spec.num_classes, bundle.labels)
    running = list(dict.fromkeys([*([REFERENCE] if REFERENCE in bundle.variants else []), *names]))
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name in running:
            # The reference need not be verified to be a reference; the variants that were asked for must.
            asked = name in names
            own = options if asked else _for_reference(bundle, options)
            session = bundle.session(name, allow_unverified=allow_unverified or not asked, options=own)
            sessions[name] = stack.enter_context(session)
        tallies = {name: _Tally(softmax=bundle.manifest.embedded.softmax) for name in running}
        skipped: dict[str, str] = {}
        chosen = data.limited(limit)
        for done, (file, label) in enumerate(chosen):
            try:
                pixels = fit(decode(file), bundle.preprocess)
            except DataError as error:
                skipped[str(file)] = str(error)
                continue
            finally:
                progress("evaluate", done + 1, len(chosen))
            outputs = {name: run_pixels(session, pixels[None], bundle.preprocess) for name, session in sessions.items()}
            for name, output in outputs.items():
                tallies[name].add(output, outputs.get(REFERENCE), label)
    if len(skipped) == len(chosen):
        raise DataError(
            f"none of the {len(chosen)} pictures can be decoded; the first: {next(iter(skipped.values()), '')}"
        )
    scores = tuple(tallies[name].score(name, REFERENCE in bundle.variants) for name in names)
    return Evaluation(variants=scores, skipped=skipped, labels=data.how)


def _for_reference(bundle: Bundle, options: Options | None) -> Options | None:
    """Return the options of fp32 where it is the reference alone: its graph runs where it has no engine."""
    if isinstance(options, TensorRtOptions) and REFERENCE not in bundle.engine_variants(options.flavour):
        return AutoOptions()
    return options


def _chosen(bundle: Bundle, variants: Sequence[str] | None, options: Options | None) -> list[str]:
    """Return the variants to evaluate, by default those that can run. Raises UserError for an unknown one, or none."""
    names = list(dict.fromkeys(variants)) if variants is not None else list(bundle.variants)
    if variants is None and isinstance(options, TensorRtOptions):
        bundle.choose(options=options)  # says what to do where there is no engine
        names = list(bundle.engine_variants(options.flavour))
    if not names:
        raise UserError(f"no variants to evaluate; {bundle.path} has {', '.join(bundle.variants)}")
    for name in names:
        bundle.variant(name)
    return names


class _Tally:
    """Counts for one variant."""

    def __init__(self, *, softmax: bool) -> None:
        """Start at zero."""
        self._softmax = softmax
        self._images = self._labelled = self._top1 = self._top5 = 0
        self._accumulator = Accumulator()

    def add(self, output: Array, reference: Array | None, label: int | None) -> None:
        """Take one picture's output (1, classes)."""
        if not np.isfinite(output).all():
            raise BackendError("a variant gave NaN or infinity: `edgecnn verify` finds out which and where")
        self._images += 1
        if label is not None:
            best = np.argsort(-output[0].astype(np.float64), kind="stable")[:5]
            self._labelled += 1
            self._top1 += int(best[0] == label)
            self._top5 += int(label in best)
        if reference is not None:
            pair = (logits_of(reference), logits_of(output)) if self._softmax else (reference, output)
            self._accumulator.add(*pair)

    def score(self, variant: str, referenced: bool) -> VariantScore:
        """Return the result."""
        metrics: Metrics | None = self._accumulator.result() if referenced else None
        same = metrics is None or variant == REFERENCE or math.isinf(metrics.sqnr_db)
        return VariantScore(
            variant=variant,
            images=self._images,
            top1=100 * self._top1 / self._labelled if self._labelled else None,
            top5=100 * self._top5 / self._labelled if self._labelled else None,
            agreement=None if metrics is None else metrics.top1,
            sqnr_db=None if metrics is None or same else metrics.sqnr_db,
            mean_kl=None if metrics is None else metrics.kl,
        )
