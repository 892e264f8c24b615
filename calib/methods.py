"""How a range is chosen from a histogram: one type a method, which holds its arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.calib.histogram import Histogram
from edgecnn.errors import SpecError

__all__ = ["Auto", "Entropy", "Method", "MinMax", "Mse", "PNorm", "Percentile", "parse"]


@dataclass(frozen=True)
class Method(ABC):
    """Chooses a range. Two methods are equal when their parameters are."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return type(self).__name__.lower()

    def __str__(self) -> str:
        """Return the method as the command line names it."""
        own = [value for item in fields(self) if (value := getattr(self, item.name)) != item.default]
        return ":".join([self.name, *(f"{value:g}" for value in own)])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"name": self.name, **asdict(self)}

    def range_of(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """Return (low, high) to be represented; low is at most 0 and high at least 0, so that zero is exact.

        Args:
            histogram: of the tensor.
            symmetric: the integer grid is symmetric: the range becomes ``(-peak, peak)``.
        """
        low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
        if not histogram.total or low == high:
            return (-1.0, 1.0) if symmetric else (0.0, 1.0)
        low, high = self._clip(histogram, low, high, symmetric)
        if symmetric:
            peak = max(-low, high)
            return -peak, peak
        return low, high

    @abstractmethod
    def _clip(self, histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:
        """Narrow the exact extremes (low, high)."""


@dataclass(frozen=True)
class MinMax(Method):
    """The extremes."""

    def _clip(self, histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:  # noqa: ARG002
        """Leave them."""
        return low, high


@dataclass(frozen=True)
class Percentile(Method):
    """Leaves out the largest magnitudes: ``percent`` of the values are inside."""

    percent: float = 99.99

    def __post_init__(self) -> None:
        """Check the value."""
        if not 50 < self.percent <= 100:
            raise SpecError(f"percentile {self.percent} is not between 50 and 100")

    def _clip(self, histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:  # noqa: ARG002
        """Cut each side where too few values lie beyond."""
        outside = histogram.total * (1 - self.percent / 100)
        width = 2 * histogram.reach / len(histogram.counts)
        above = np.cumsum(histogram.counts[::-1])[::-1]
        below = np.cumsum(histogram.counts)
        top = -histogram.reach + width * (int(np.flatnonzero(above > outside)[-1]) + 1)
        bottom = -histogram.reach + width * int(np.flatnonzero(below > outside)[0])
        return max(low, min(bottom, 0.0)), min(high, max(top, 0.0))


@dataclass(frozen=True)
class Mse(Method):
    """The range with the least mean square error of rounding and clipping, by search over ``steps`` narrowings.

    Rounding inside the range costs ``scale**2 / 12`` a value (uniform noise, Bennett 1948), clipping the squared distance.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        """Check the value."""
        if self.steps < 2:
            raise SpecError(f"mse needs at least 2 steps, asked for {self.steps}")

    def _clip(self, histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:
        """Search over narrowings."""
        return _least_error(histogram, low, high, symmetric, self.steps, 2.0)


@dataclass(frozen=True)
class PNorm(Method):
    """As :class:`Mse`, with errors to the power of ``power``: above 2 it clips less, below 2 more.

    Nahshan et al. 2019 (LAPQ, arXiv:1911.07190) search over that power. Uniform noise of a range of ``scale`` costs
    ``(scale / 2)**power / (power + 1)`` a value.
    """

    power: float = 3.0
    steps: int = 100

    def __post_init__(self) -> None:
        """Check the values."""
        if not 1 <= self.power <= 16:
            raise SpecError(f"pnorm {self.power} is not between 1 and 16")
        if self.steps < 2:
            raise SpecError(f"pnorm needs at least 2 steps, asked for {self.steps}")

    def _clip(self, histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:
        """Search as :class:`Mse` does."""
        return _least_error(histogram, low, high, symmetric, self.steps, self.power)


@dataclass(frozen=True)
class Entropy(Method):
    """The symmetric clip whose 8-bit histogram has the least Kullback-Leibler divergence from the original.

    Migacz, "8-bit inference with TensorRT", GTC 2017. The bin at zero counts as its neighbour does: the zeros of a ReLU are exact
    in any range, and so many that what is cut off would weigh nothing beside them. Choose by measurement.
    """

    levels: int = 128

    def _clip(self, histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:  # noqa: ARG002
        """Search over clip positions on the histogram of magnitudes."""
        half = len(histogram.counts) // 2
        magnitude = histogram.counts[half:] + histogram.counts[:half][::-1]
        magnitude[0] = magnitude[1]
        last = int(np.flatnonzero(magnitude)[-1]) + 1
        if last <= self.levels:
            return low, high
        candidates = np.unique(np.linspace(self.levels, last, 128).astype(int))
        best = min(candidates, key=lambda stop: _divergence(magnitude, int(stop), self.levels))
        clip = best * histogram.reach / half
        return max(low, -clip), min(high, clip)


@dataclass(frozen=True)
class Auto:
    """Not a method but the choice of one, by what each does to the logits of samples that its ranges were not taken from.

    No method is safe everywhere (docs/QUANTIZATION.md, section 4): entropy destroys networks with ReLU6, the extremes destroy those
    with a few outliers.

    Attributes:
        candidates: to choose from; the first one where there are too few samples to hold some out.
        images: samples to hold out, at most; an eighth of all where that is less.
    """

    candidates: tuple[Method, ...] = (Mse(), PNorm(), Percentile(99.99), Percentile(99.999), MinMax(), Entropy())
    images: int = 16

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.candidates:
            raise SpecError("auto has no candidates to choose from")
        if self.images < 1:
            raise SpecError(f"auto holds out at least 1 image, asked for {self.images}")

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "auto"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "name": self.name,
            "candidates": [method.to_json() for method in self.candidates],
            "images": self.images,
        }


def parse(text: str) -> Method | Auto:
    """Return the method of a command line's ``name[:parameter]``. Raises SpecError that lists the methods."""
    name, _, parameter = text.partition(":")
    every = (Auto, MinMax, Percentile, Mse, PNorm, Entropy)
    kinds: dict[str, Any] = {kind.__name__.lower(): kind for kind in every}
    if name not in kinds:
        raise SpecError(
            f"method {text!r} is not one of auto, minmax, percentile[:PERCENT], mse[:STEPS], pnorm[:POWER], entropy"
        )
    if not parameter:
        return kinds[name]()  # type: ignore[no-any-return]
    try:
        if name == "percentile":
            return Percentile(float(parameter))
        if name == "mse":
            return Mse(int(parameter))
        if name == "pnorm":
            return PNorm(float(parameter))
    except ValueError as error:
        raise SpecError(f"method {text!r}: {parameter!r} is not a number") from error
    raise SpecError(f"method {name} takes no parameter, found {parameter!r}")


def _least_error(
    histogram: Histogram, low: float, high: float, symmetric: bool, count: int, power: float
) -> tuple[float, float]:
    """Try ``count`` narrowings of both ends in proportion, or of each end alone on an asymmetric grid."""
    used = np.flatnonzero(histogram.counts)
    centres, weights = histogram.centres[used], histogram.counts[used].astype(np.float64)
    shares = np.linspace(1.0, 0.2, count)

    def error(low: float, high: float, steps: int) -> float:
        """Return the summed error of an integer grid over [low, high]."""
        inside = (centres >= low) & (centres <= high)
        noise = ((high - low) / steps / 2) ** power / (power + 1)
        clipped = np.maximum(low - centres, 0) + np.maximum(centres - high, 0)
        return float((weights * np.where(inside, noise, clipped**power)).sum())

    if symmetric:
        peak = max(-low, high)
        best = min(shares, key=lambda s: error(-peak * s, peak * s, 254))
        return max(low, -peak * best), min(high, peak * best)
    for _ in range(2):
        if high > 0:
            high *= min(shares, key=lambda s: error(low, high * s, 255))
        if low < 0:
            low *= min(shares, key=lambda s: error(low * s, high, 255))
    return low, high


def _divergence(magnitude: NDArray[np.int64], stop: int, levels: int) -> float:
    """Return KL(P || Q) of the histogram clipped at ``stop`` and its quantization to ``levels`` levels."""
    p = magnitude[:stop].astype(np.float64)
    bin_of = np.arange(stop) * levels // stop
    filled = (p > 0).astype(np.float64)
    sums = np.bincount(bin_of, weights=p, minlength=levels)
    used = np.bincount(bin_of, weights=filled, minlength=levels)
    q = np.where(filled > 0, (sums / np.maximum(used, 1))[bin_of], 0.0)
    p[-1] += magnitude[stop:].sum()
    q[-1] = max(q[-1], 1e-9) if p[-1] > 0 else q[-1]
    p, q = p / p.sum(), q / q.sum()
    keep = p > 0
    return float((p[keep] * np.log(p[keep] / np.maximum(q[keep], 1e-12))).sum())
