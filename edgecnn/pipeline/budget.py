"""Quantization within an accuracy budget: which layers stay float is decided by measuring on images that calibration did not see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgecnn.artifacts import OnnxModel, sha256_json
from edgecnn.calib.data import ImageFolder, InMemory, Samples
from edgecnn.calib.statistics import Statistics
from edgecnn.errors import DataError
from edgecnn.parity.labelled import LabelledImages
from edgecnn.parity.metrics import compare
from edgecnn.progress import Progress, silent
from edgecnn.quantize import QuantizeConfig, QuantizeResult, quantize
from edgecnn.quantize.known import Known
from edgecnn.quantize.search import Budget, Search, search
from edgecnn.quantize.sensitivity import cheapest_first, exactly, logits_of, sensitivities

__all__ = ["HeldOut", "Within", "told", "within_budget"]

Array = NDArray[Any]
SENSITIVITY_IMAGES = 8
"""Images that layers are compared on: their order settles with a few."""

FORMAT = 1
"""Version of the arithmetic; part of the key under which measurements are kept."""


@dataclass(frozen=True)
class HeldOut:
    """Images to measure on.

    Attributes:
        samples: one input each.
        labelled: the same pictures with their classes; none where there are no labels.
    """

    samples: Samples
    labelled: LabelledImages | None = None

    def __iter__(self) -> Iterator[tuple[Mapping[str, Array], int | None]]:
        """Yield (feed, class); pictures that cannot be read are left out."""
        if self.labelled is None:
            yield from ((feed, None) for feed in self.samples)
            return
        assert isinstance(self.samples, ImageFolder)
        for file, label in self.labelled:
            one = ImageFolder(file.parent, self.samples.preprocess, input_name=self.samples.input_name, paths=(file,))
            try:
                yield from ((feed, label) for feed in one)
            except DataError:
                continue

    def fingerprint(self) -> str:
        """Return the sha256 of the images and their classes."""
        labels = [] if self.labelled is None else [[file.name, label] for file, label in self.labelled]
        return sha256_json([self.samples.fingerprint(), labels])


class _Measure:
    """Compares mixtures of precisions with the float model."""

    def __init__(self, model: OnnxModel, held_out: HeldOut, threads: int) -> None:
        """Measure nothing yet."""
        self.model, self.held_out, self.threads = model, held_out, threads
        self.labels = [label for _, label in held_out] if held_out.labelled else []

    @cached_property
    def reference(self) -> Array:
        """The float model's logits."""
        return self.logits(self.model.path)

    def logits(self, path: Path) -> Array:
        """Return a model's logits for every image, (N, classes)."""
        return logits_of(path, (feed for feed, _ in self.held_out), self.threads)

    def of(self, path: Path) -> tuple[float, float]:
        """Return (drop in percentage points, SQNR in dB)."""
        found = self.logits(path)
        metrics = compare(self.reference, found)
        if not self.labels:
            return 100.0 - metrics.top1, metrics.sqnr_db
        right = [100 * float((logits.argmax(axis=1) == self.labels).mean()) for logits in (self.reference, found)]
        return right[0] - right[1], metrics.sqnr_db


@dataclass(frozen=True, kw_only=True)
class Within:
    """How to keep a budget.

    Attributes:
        budget: to keep. ``held_out``: to measure it on.
        cache: folder of sensitivities and of mixtures that were measured before; None measures anew.
        threads: cores to use; 0 uses all.
    """

    budget: Budget
    held_out: HeldOut
    cache: Path | None = None
    threads: int = 0


def within_budget(
    model: OnnxModel,
    samples: Samples,
    config: QuantizeConfig,
    how: Within,
    *,
    to: Path,
    statistics: Statistics,
    progress: Progress = silent,
) -> tuple[QuantizeResult, Search]:
    """Quantize with as many layers in INT8 as the budget allows; cheapest first, layers return to float until it holds.

    Args:
        model: float.
        samples: of the calibration.
        config: of the quantization; nodes that it keeps float stay so.
        how: the budget and the images to measure it on.
        to: the file to write; also where the budget cannot be kept, then with the most accurate mixture found.
        statistics: of the samples.
        progress: told about layers and measurements.

    Raises:
        DataError: no images to measure on. GraphError: quantized already, or nothing to quantize.
    """
    measure = _Measure(model, how.held_out, how.threads)
    key = [FORMAT, statistics.hashes["key"], samples.fingerprint(), config.to_json(), how.held_out.fingerprint()]
    known = Known(how.cache, "trials", key, _measured)
    made: dict[tuple[str, ...], QuantizeResult] = {}

    def make(kept: tuple[str, ...]) -> QuantizeResult:
        own = replace(config, keep_float=(*config.keep_float, *exactly(kept)))
        made.clear()  # each is written to the same file
        made[kept] = quantize(model, samples, own, to=to, statistics=statistics, threads=how.threads, progress=progress)
        return made[kept]

    def attempt(kept: tuple[str, ...]) -> tuple[float, float]:
        name = sha256_json(list(kept))
        if name not in known.values:
            make(kept)
            drop, sqnr = measure.of(to)
            known.add(name, (repr(drop), repr(sqnr)))
        found, db = known.values[name]
        return float(found), float(db)

    whole = attempt(())
    order: tuple[str, ...] = ()
    if not how.budget.holds(*whole):
        few = InMemory(islice(samples, SENSITIVITY_IMAGES))
        order = cheapest_first(
            sensitivities(model, few, config, statistics, cache=how.cache, threads=how.threads, progress=progress)
        )
    found = search(order, attempt, how.budget, progress=progress)
    return made.get(found.restored) or make(found.restored), found


def _measured(value: Any) -> tuple[str, str]:
    """Return (drop, SQNR) as they are kept, in digits: JSON has no infinity, which is what identical logits have."""
    drop, sqnr = value
    return repr(float(drop)), repr(float(sqnr))


def told(scheme: str, found: Search, budget: Budget, held_out: HeldOut) -> str:
    """Return what a reader should know of a search."""
    best, measured = found.best, "top-1" if held_out.labelled else "top-1 agreement"
    reached = f"{best.drop:.2g} points of {measured} and {best.sqnr_db:.1f} dB on {len(held_out.samples)} images"
    kept = ", ".join(found.restored[:3]) + (" ..." if len(found.restored) > 3 else "")
    layers = f"{len(found.restored)} layers stay float ({kept})" if found.restored else "no layer needs to stay float"
    if not found:
        return f"{scheme}: {budget} was NOT reached: at best {reached} with {layers}"
    coarse = 100 / max(1, len(held_out.samples))
    warning = f"; one image is {coarse:.2g} points: give more with --verify-images" if coarse > budget.max_drop else ""
    return f"{scheme}: {layers}: lost {reached}{warning}"
