"""Samples in two parts: those that ranges are taken from, and those held out to judge them by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.artifacts import sha256_json
from edgecnn.calib.data import Samples

__all__ = ["SHARE", "Part", "split"]

SHARE = 8
"""One of so many is held out."""


class Part(Samples):
    """Some of another source's samples, in their order.

    Args:
        whole: the source. An unreadable sample has no number.
        numbers: of the samples to take.
    """

    def __init__(self, whole: Samples, numbers: frozenset[int]) -> None:
        """Read nothing yet."""
        self.whole, self.numbers = whole, numbers
        self.name = whole.name

    @property
    def skipped(self) -> int:
        """Unreadable ones of the whole."""
        return self.whole.skipped

    @skipped.setter
    def skipped(self, count: int) -> None:
        self.whole.skipped = count

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield network inputs."""
        for number, feed in enumerate(self.whole):
            if number in self.numbers:
                yield feed

    def fingerprint(self) -> str:
        """Return the sha256 of the whole's content and of which are taken."""
        return sha256_json(["part", self.whole.fingerprint(), sorted(self.numbers)])

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of the whole."""
        return self.whole.describe()


def split(samples: Samples, most: int) -> tuple[Part, Part]:
    """Return (the rest, what is held out): an eighth, at least one and at most ``most``, spread evenly; none of a single sample."""
    count = len(samples)
    held = min(most, max(1, count // SHARE)) if count > 1 else 0
    numbers = frozenset(int(number) for number in (np.arange(held) + 0.5) * count / max(1, held))
    return Part(samples, frozenset(range(count)) - numbers), Part(samples, numbers)
