"""Mixed precision within an accuracy budget: layers return to float, cheapest first, until the budget holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecnn.errors import SpecError
from edgecnn.progress import Progress, silent

__all__ = ["Budget", "Search", "Trial", "search"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What quantization may cost, measured against FP32 on images that calibration did not see.

    Attributes:
        max_drop: percentage points of top-1 accuracy where the images have labels, of top-1 agreement where not; infinite asks
            for nothing.
        min_sqnr_db: of the logits, dB; minus infinity asks for nothing.
    """

    max_drop: float = math.inf
    min_sqnr_db: float = -math.inf

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.max_drop >= 0:
            raise SpecError(f"max_drop is in percentage points, at least 0; found {self.max_drop}")
        if math.isnan(self.min_sqnr_db):
            raise SpecError("min_sqnr_db is not a number")

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return math.isfinite(self.max_drop) or math.isfinite(self.min_sqnr_db)

    def holds(self, drop: float, sqnr_db: float) -> bool:
        """Whether a measurement keeps the budget."""
        return drop <= self.max_drop + 1e-9 and sqnr_db >= self.min_sqnr_db

    def __str__(self) -> str:
        """Return the budget in words."""
        parts = [f"a drop of at most {self.max_drop:g} points"] if math.isfinite(self.max_drop) else []
        parts += [f"at least {self.min_sqnr_db:g} dB"] if math.isfinite(self.min_sqnr_db) else []
        return " and ".join(parts) or "no budget"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One mixture of precisions, measured.

    Attributes:
        restored: how many layers of the order are float.
        drop: percentage points below FP32. ``sqnr_db``: of the logits.
        holds: whether the budget does.
    """

    restored: int
    drop: float
    sqnr_db: float
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; identical logits have a null ``sqnr_db``."""
        sqnr = self.sqnr_db if math.isfinite(self.sqnr_db) else None
        return {"restored": self.restored, "drop": self.drop, "sqnr_db": sqnr, "holds": self.holds}


@dataclass(frozen=True, kw_only=True)
class Search:
    """What the search found; truthy when the budget holds.

    Attributes:
        restored: the layers that return to float, in the order of their worth.
        trials: every mixture that was measured, in the order of the search.
    """

    restored: tuple[str, ...]
    trials: tuple[Trial, ...]
    holds: bool

    def __bool__(self) -> bool:
        """Whether the budget holds."""
        return self.holds

    @property
    def best(self) -> Trial:
        """The measurement of what was chosen."""
        return next(trial for trial in self.trials if trial.restored == len(self.restored))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"holds": self.holds, "restored": list(self.restored), "trials": [t.to_json() for t in self.trials]}


def search(
    order: Sequence[str],
    measure: Callable[[tuple[str, ...]], tuple[float, float]],
    budget: Budget,
    *,
    progress: Progress = silent,
) -> Search:
    """Find how many layers, taken in order, must return to float for the budget to hold.

    One more layer in float makes the graph more accurate but for the noise of the measurement, so the number is found by doubling it
    until the budget holds and then halving the gap: about 2 log2(layers) measurements. What is returned was measured itself. If
    not even all of them but the last are enough, the most accurate mixture that was measured is returned, and it does not hold.

    Args:
        order: layers, the one to restore first first.
        measure: layers in float -> (drop in percentage points, SQNR in dB).
        budget: to keep.
        progress: told about measurements; their number is not known in advance.
    """
    trials: dict[int, Trial] = {}

    def holds(count: int) -> bool:
        if count not in trials:
            progress("search", len(trials), 0)
            drop, sqnr = measure(tuple(order[:count]))
            trials[count] = Trial(restored=count, drop=drop, sqnr_db=sqnr, holds=budget.holds(drop, sqnr))
        return trials[count].holds

    most = max(0, len(order) - 1)  # one layer at least stays INT8
    low, high = -1, 0
    while not holds(high) and high < most:
        low, high = high, min(most, max(1, 2 * high))
    if trials[high].holds:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
    else:
        high = min(trials.values(), key=lambda trial: (trial.drop, -trial.sqnr_db, trial.restored)).restored
    return Search(restored=tuple(order[:high]), trials=tuple(trials.values()), holds=trials[high].holds)
