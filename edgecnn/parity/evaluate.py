"""Accuracy of a bundle's variants on labelled pictures, and how far each is from fp32. Memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.calib.data import MOST_CORRUPT
from edgecnn.errors import DataError, UserError
from edgecnn.parity.labelled import LabelledImages
from edgecnn.parity.listing import Listing, Pictures
from edgecnn.parity.runner import Plan, Runner
from edgecnn.parity.tally import REFERENCE, Tally, VariantScore
from edgecnn.progress import Progress, silent
from edgecnn.runtime.bundle import Bundle
from edgecnn.runtime.tensorrt import TensorRtOptions

if TYPE_CHECKING:
    from edgecnn.runtime.choice import Options

__all__ = ["SHARD", "Evaluation", "VariantScore", "check_readable", "chosen_variants", "evaluate", "evaluation_of"]

SHARD = 64
"""Pictures that are read from the listing, run and added up at a time."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        variants: a score each.
        unreadable: how many pictures could not be decoded.
        skipped: file -> why it could not be decoded, for the first of them.
        labels: where the classes came from.
        images_per_s: variant -> pictures that one worker normalises and classifies in a second, one at a time; decoding is not in it.
    """

    variants: tuple[VariantScore, ...]
    unreadable: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    labels: str = ""
    images_per_s: Mapping[str, float] = field(default_factory=dict)

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

    :func:`edgecnn.scale.evaluate_at_scale` does the same in many processes, and goes on where it was interrupted.

    Args:
        bundle: a folder, or an opened bundle.
        data: a folder for :func:`~edgecnn.parity.labelled.scan`, or pictures in memory.
        variants: names; all of the bundle by default, with TensorRT those that have an engine. fp32, the reference, runs in any case.
        limit: use so many pictures, spread evenly over the classes.
        allow_unverified: evaluate a bundle or variant whose verification failed.
        options: as of :func:`edgecnn.runtime.load`.
        progress: called once a picture.

    Raises:
        DataError: no pictures, classes that do not fit, or more than 10 % of the pictures cannot be decoded.
        UserError: an unknown variant.
        BundleError, BackendError, MissingDependencyError: as :func:`edgecnn.runtime.load`.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle, allow_unverified=allow_unverified)
    names = chosen_variants(bundle, variants, options)
    with ExitStack() as stack:
        pictures: Pictures
        if isinstance(data, LabelledImages):
            pictures = data.limited(limit)
        else:
            pictures = stack.enter_context(Listing(Path(data), bundle.spec.num_classes, bundle.labels, limit))
        plan = Plan.of(bundle, names, options, allow_unverified=allow_unverified)
        runner = stack.enter_context(Runner(plan, bundle))
        totals = {name: Tally() for name in names}
        for start in range(0, len(pictures), SHARD):
            rows = pictures.rows(start, start + SHARD)
            step = _shifted(progress, start, len(pictures))
            for name, tally in runner.run(rows, names, first=start, progress=step).items():
                totals[name].merge(tally)
            for error in runner.failed.values():
                raise error
            check_readable(totals[names[0]], len(pictures), start + len(rows))
    return evaluation_of(totals, REFERENCE in bundle.variants, pictures.how)


def evaluation_of(totals: Mapping[str, Tally], referenced: bool, how: str) -> Evaluation:
    """Return the scores of what was counted; ``referenced``: whether there is an fp32 to compare with."""
    first = next(iter(totals.values()))
    return Evaluation(
        variants=tuple(tally.score(name, referenced) for name, tally in totals.items()),
        unreadable=first.unreadable,
        skipped={file: reason for _, file, reason in first.reasons},
        labels=how,
        images_per_s={name: tally.images / tally.seconds for name, tally in totals.items() if tally.seconds},
    )


def check_readable(tally: Tally, count: int, done: int) -> None:
    """Refuse pictures of which more than 10 % cannot be decoded.

    Args:
        tally: of what was done so far.
        count: of all pictures.
        done: pictures that were tried.

    Raises:
        DataError: with the first reason.
    """
    if tally.unreadable <= MOST_CORRUPT * count or (tally.unreadable == done < count):
        return  # where nothing was readable yet, perhaps nothing is: that is another message
    reason = tally.reasons[0][2]
    if tally.unreadable == count:
        raise DataError(f"none of the {count} pictures can be decoded; the first: {reason}")
    raise DataError(
        f"{tally.unreadable} of the first {done} pictures cannot be decoded, more than 10 % of all {count}: "
        f"remove or mend them; the first: {reason}"
    )


def chosen_variants(bundle: Bundle, variants: Sequence[str] | None, options: Options | None) -> list[str]:
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


def _shifted(progress: Progress, start: int, whole: int) -> Progress:
    """Return a progress function for a part that begins at ``start``."""

    def report(step: str, done: int, total: int) -> None:  # noqa: ARG001 -- a part's; the whole's is shown
        progress(step, start + done, whole)

    return report
