"""What is added up over pictures: sums that are exact, so that it does not matter in what order, or in how many parts, they were made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendError
from edgecnn.parity.metrics import Accumulator, logits_of, ratio_db

__all__ = ["MOST_REASONS", "REFERENCE", "ExactSum", "Tally", "VariantScore", "check_finite"]

REFERENCE = "fp32"
MOST_REASONS = 20
"""Unreadable pictures whose reason is kept; the others are counted."""

_UNIT = 1074
"""Binary places of the smallest float64, of which every other is a multiple."""


class ExactSum:
    """A sum of finite float64 without rounding, a whole number of the smallest float64 (2**-1074): the order of adding changes nothing."""

    def __init__(self, units: int = 0) -> None:
        """Start at ``units`` times 2**-1074."""
        self.units = units

    def add(self, value: float) -> None:
        """Add a finite number."""
        numerator, denominator = value.as_integer_ratio()  # the denominator is a power of two
        self.units += numerator << (_UNIT - denominator.bit_length() + 1)

    def __float__(self) -> float:
        """Return the float64 nearest to the sum; infinity where that is too large."""
        try:
            return self.units / (1 << _UNIT)  # Python rounds a quotient of whole numbers once, correctly
        except OverflowError:
            return math.inf if self.units > 0 else -math.inf


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


@dataclass(kw_only=True)
class Tally:
    """Counts and sums of one variant over some pictures; :meth:`merge` joins those of others.

    Attributes:
        images, labelled, top1, top5, agree: how many were classified, have a class, are right (first, first five), have fp32's best.
        unreadable: how many could not be decoded. ``reasons``: (position in the listing, file, why) of the first ones.
        signal, noise, kl: energies of fp32's logits and of the difference, and divergences in nats, summed over pictures.
        seconds: that the variant took: normalising and running, one picture at a time. Not exact, and no part of the score.
    """

    images: int = 0
    labelled: int = 0
    top1: int = 0
    top5: int = 0
    agree: int = 0
    unreadable: int = 0
    reasons: list[tuple[int, str, str]] = field(default_factory=list)
    signal: ExactSum = field(default_factory=ExactSum)
    noise: ExactSum = field(default_factory=ExactSum)
    kl: ExactSum = field(default_factory=ExactSum)
    seconds: float = 0.0

    def add(
        self, output: NDArray[Any], reference: NDArray[Any] | None, label: int | None, *, softmax: bool = False
    ) -> None:
        """Take one picture's output.

        Args:
            output: (1, classes).
            reference: fp32's, if there is one.
            label: the picture's class, if it is known.
            softmax: whether both are probabilities.

        Raises:
            BackendError: NaN or infinity.
        """
        check_finite(output)
        self.images += 1
        if label is not None:
            best = np.argsort(-output[0].astype(np.float64), kind="stable")[:5]
            self.labelled += 1
            self.top1 += int(best[0] == label)
            self.top5 += int(label in best)
        if reference is not None:
            one = Accumulator()
            one.add(*((logits_of(reference), logits_of(output)) if softmax else (reference, output)))
            sums = one.sums()
            self.agree += sums.top1
            self.signal.add(sums.signal)
            self.noise.add(sums.noise)
            self.kl.add(sums.kl)

    def skip(self, position: int, file: str, reason: str) -> None:
        """Count a picture that could not be decoded."""
        self.unreadable += 1
        self._keep([(position, _plain(file), _plain(reason))])

    def merge(self, other: Tally) -> None:
        """Add what another tally counted."""
        for name in (*_COUNTS, "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _SUMS:
            getattr(self, name).units += getattr(other, name).units
        self._keep(other.reasons)

    def score(self, variant: str, referenced: bool) -> VariantScore:
        """Return the result; ``referenced``: whether there was an fp32 to compare with."""
        compared = referenced and self.images > 0
        sqnr = ratio_db(float(self.signal), float(self.noise)) if compared else math.inf
        return VariantScore(
            variant=variant,
            images=self.images,
            top1=100 * self.top1 / self.labelled if self.labelled else None,
            top5=100 * self.top5 / self.labelled if self.labelled else None,
            agreement=100 * self.agree / self.images if compared else None,
            sqnr_db=None if variant == REFERENCE or math.isinf(sqnr) else sqnr,
            mean_kl=float(self.kl) / self.images if compared else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; the exact sums are hexadecimal text."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {name: hex(getattr(self, name).units) for name in _SUMS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises LookupError, TypeError or ValueError for anything else."""
        values: dict[str, Any] = {name: ExactSum(int(data[name], 16)) for name in _SUMS}
        values |= {name: int(data[name]) for name in _COUNTS} | {"seconds": float(data["seconds"])}
        values["reasons"] = [(int(position), str(file), str(why)) for position, file, why in data["reasons"]]
        return cls(**values)

    def _keep(self, reasons: list[tuple[int, str, str]]) -> None:
        """Keep the first reasons in the order of the listing, whatever the order in which they come."""
        self.reasons = sorted([*self.reasons, *reasons])[:MOST_REASONS]


_SUMS = ("signal", "noise", "kl")
_COUNTS = ("images", "labelled", "top1", "top5", "agree", "unreadable")


def check_finite(output: NDArray[Any]) -> None:
    """Refuse NaN and infinity. Raises BackendError."""
    if not np.isfinite(output).all():
        raise BackendError("a variant gave NaN or infinity: `edgecnn verify` finds out which and where")


def _plain(text: str) -> str:
    """Return text that JSON can hold, whatever bytes a file's name is made of."""
    return text.encode("utf-8", "backslashreplace").decode()
