"""A histogram that grows with what it sees and never with how much: exact extremes, bounded memory, one pass."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError

__all__ = ["BINS", "Histogram"]

BINS = 4096
"""Bins over [-reach, reach); half of them serve a tensor behind a ReLU."""


class Histogram:
    """Counts of one tensor's values.

    The range is symmetric about zero and its reach a power of two. A value beyond it doubles the reach and merges bins in pairs,
    so that counts stay exact for the coarser bins and zero stays a bin border.

    Attributes:
        counts: int64 (BINS,). ``reach``: half the range; bin ``i`` starts at ``-reach + i * 2 * reach / BINS``.
        low, high: exact extremes seen. ``total``: values counted.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.reach = 0.0
        self.low = np.inf
        self.high = -np.inf
        self.total = 0

    @classmethod
    def of(cls, counts: NDArray[np.int64], reach: float, low: float, high: float) -> Self:
        """Return the histogram with these attributes. Raises ValueError where they cannot be one's."""
        if (
            counts.shape != (BINS,)
            or counts.dtype != np.int64
            or counts.min() < 0
            or not -reach <= low <= high <= reach
        ):
            raise ValueError(f"not a histogram: {counts.dtype} {list(counts.shape)} over {low} to {high}")
        found = cls()
        found.counts, found.reach, found.low, found.high, found.total = counts, reach, low, high, int(counts.sum())
        return found

    def add(self, values: NDArray[Any], name: str = "tensor", *, thinned_from: NDArray[Any] | None = None) -> None:
        """Count an array's values.

        Args:
            values: any shape.
            name: for the message.
            thinned_from: the array that ``values`` were picked from: its extremes are kept, exactly.

        Raises:
            DataError: a value is NaN or infinite.
        """
        whole = values if thinned_from is None else thinned_from
        if not whole.size:
            return
        low, high = float(whole.min()), float(whole.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                f"{name} holds NaN or infinity on a calibration sample: check the weights and the preprocessing"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover(max(-low, high))
        # One multiply, one add and a cast, then a count: several times faster than np.histogram.
        index = np.ravel(values) * np.float32(BINS / (2 * self.reach))
        index += np.float32(BINS // 2)
        bins = np.minimum(index.astype(np.intp), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.total += values.size

    def merge(self, other: Histogram) -> None:
        """Count what another histogram has counted, as if its values had been added here."""
        if other.low > other.high:  # it has seen nothing
            return
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._cover(other.reach)
        counts, reach = other.counts, other.reach
        while reach < self.reach:
            counts, reach = _coarser(counts), 2 * reach
        self.counts += counts
        self.total += other.total

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, float64 (BINS,)."""
        width = 2 * self.reach / BINS
        return np.asarray(-self.reach + width * (np.arange(BINS) + 0.5))

    def _cover(self, peak: float) -> None:
        """Make the range cover ``peak``."""
        if self.reach == 0:
            self.reach = float(2.0 ** np.ceil(np.log2(max(peak, 1e-30))))
        while peak > self.reach:
            self.reach *= 2
            self.counts = _coarser(self.counts)


def _coarser(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the counts over twice the range: bins merged in pairs, empty ones at both ends."""
    result = np.zeros(BINS, dtype=np.int64)
    result[BINS // 4 : 3 * BINS // 4] = counts.reshape(-1, 2).sum(axis=1)
    return result
