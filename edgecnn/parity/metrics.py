"""What differs between two sets of logits, in tensor units and in task units: numpy only, streaming, float64 sums.

The first argument of every comparison is the reference; it is always *logits*. The candidate is logits too or, for a graph
with an embedded softmax, probabilities, which are then compared with the softmax of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import UserError

__all__ = ["SQNR_FLOOR", "Accumulator", "Metrics", "Sums", "compare", "log_softmax", "logits_of", "ratio_db", "softmax"]

Array = NDArray[Any]
Doubles = NDArray[np.float64]

SQNR_FLOOR = -200.0
"""Decibels that stand for "no signal at all, but noise": a zero reference, and a candidate that is not zero."""

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How a candidate's outputs differ from the reference's over a number of samples.

    Samples with a NaN or an infinity on either side are counted in ``nonfinite`` and left out of everything else.
    Where no sample is left, the other numbers are NaN.

    Attributes:
        samples: number of samples, the non-finite ones among them.
        nonfinite: samples with a NaN or an infinity.
        max_abs, mean_abs: of the difference, in the unit of the output.
        cosine: similarity of the two sets as one long vector each, in [-1, 1]; 1 if both are zero, 0 if one is.
        sqnr_db: ``10 log10(sum ref**2 / sum (ref - cand)**2)`` over all samples; ``inf`` if they are identical,
            :data:`SQNR_FLOOR` if the reference is zero and the candidate is not.
        worst_sqnr_db: the lowest value of the same over single samples.
        top1: percent of samples where the candidate's best class is (one of) the reference's best. Among equal values of the
            candidate the first counts, as in an application's argmax; a tie of the reference makes all its classes right.
        top5: percent of samples where (one of) the reference's best class is among the candidate's five best.
        kl: mean over samples of ``sum p log(p / q)`` of the softmax, p the reference's; nats.
        decided: samples whose reference margin (best minus second-best logit) exceeds ``margin`` times the root mean square of
            the sample's logits. The others are too close to call at the noise that the caller expects.
        decided_top1: top-1 agreement among these, percent; 100 if there are none.
        signal_rms, noise_rms: root mean square of the reference and of the difference.
        worst_samples: root mean squares (of the difference, of the reference) of single samples: of those than which no other
            has both a larger difference and a smaller reference. By falling difference, so the first is the largest of all.
        logit_rms: root mean square of the reference's logits: ``signal_rms``, unless probabilities were compared; then that of the
            logits less their mean, as a softmax does not see what all of a sample have in common.
        probabilities: whether probabilities were compared.
    """

    samples: int
    nonfinite: int = 0
    max_abs: float
    mean_abs: float
    cosine: float
    sqnr_db: float
    worst_sqnr_db: float
    top1: float
    top5: float
    kl: float
    decided: int
    decided_top1: float
    signal_rms: float
    noise_rms: float
    worst_samples: tuple[tuple[float, float], ...]
    logit_rms: float
    probabilities: bool = False

    @property
    def finite(self) -> bool:
        """Whether no sample had a NaN or an infinity."""
        return self.nonfinite == 0

    @property
    def worst_noise_rms(self) -> float:
        """The largest root mean square of the difference in one sample; NaN if none was finite."""
        return self.worst_samples[0][0] if self.worst_samples else math.nan

    @property
    def flips(self) -> int:
        """Decided samples where the best class differs."""
        return round(self.decided * (1 - self.decided_top1 / 100))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict. JSON has no infinity and no NaN, so a value that is not finite is null.

        ``sqnr_db`` null therefore means *identical* wherever ``nonfinite < samples``.
        """
        return {f.name: _or_null(getattr(self, f.name)) for f in fields(self)} | {"finite": self.finite}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        empty = data["samples"] == data["nonfinite"]
        values = {f.name: data[f.name] for f in fields(cls)}
        for name, value in values.items():
            if value is None:
                values[name] = math.nan if empty or "sqnr" not in name else math.inf
        return cls(**values | {"worst_samples": tuple((noise, signal) for noise, signal in data["worst_samples"])})


@dataclass(frozen=True)
class Sums:
    """What :class:`Metrics` are quotients of, for those who add up results of their own.

    Attributes:
        top1: samples where the candidate's best class is (one of) the reference's best.
        signal, noise: energies of the reference and of the difference. ``kl``: sum of divergences, nats.
    """

    top1: int
    signal: float
    noise: float
    kl: float


class Accumulator:
    """Takes batches one after the other; memory does not grow with their number.

    Args:
        probabilities: whether candidates are probabilities.
        margin: see :attr:`Metrics.decided`; 0 makes every sample without a tie a decided one.
    """

    def __init__(self, *, probabilities: bool = False, margin: float = 0.0) -> None:
        """Start empty."""
        self._probabilities = probabilities
        self._margin = margin
        self._samples = self._finite = self._values = 0
        self._signal = self._noise = self._energy = self._dot = self._logit_energy = 0.0
        self._abs_sum = self._abs_max = self._kl = 0.0
        self._worst: list[tuple[float, float]] = []
        self._worst_sqnr = math.inf
        self._top1 = self._top5 = self._decided = self._decided_top1 = 0

    def add(self, reference: Array, candidate: Array) -> None:
        """Take one batch.

        Args:
            reference: logits (N, classes), any float dtype; more dimensions are flattened.
            candidate: the same shape; logits, or probabilities.

        Raises:
            UserError: the shapes differ, or there are no classes.
        """
        if reference.shape != candidate.shape or reference.ndim < 2 or reference.size == 0:
            raise UserError(
                f"cannot compare outputs of shapes {list(reference.shape)} and {list(candidate.shape)}: "
                "both must be (samples, classes)"
            )
        logits = reference.reshape(len(reference), -1).astype(np.float64)
        other = candidate.reshape(len(candidate), -1).astype(np.float64)
        fine = np.isfinite(logits).all(axis=1) & np.isfinite(other).all(axis=1)
        if self._probabilities:
            logits[fine] -= logits[fine].mean(axis=1, keepdims=True)
        self._samples += len(logits)
        if fine.any():
            self._finite += int(fine.sum())
            self._add_tensors(logits[fine], other[fine])
            self._add_decisions(logits[fine], other[fine])

    def sums(self) -> Sums:
        """Return the sums over everything finite taken so far."""
        return Sums(self._top1, self._signal, self._noise, self._kl)

    def result(self) -> Metrics:
        """Return the metrics of everything taken so far."""
        n = self._finite
        nan = math.nan
        return Metrics(
            samples=self._samples,
            nonfinite=self._samples - n,
            max_abs=self._abs_max if n else nan,
            mean_abs=self._abs_sum / self._values if n else nan,
            cosine=self._cosine() if n else nan,
            sqnr_db=ratio_db(self._signal, self._noise) if n else nan,
            worst_sqnr_db=self._worst_sqnr if n else nan,
            top1=100 * self._top1 / n if n else nan,
            top5=100 * self._top5 / n if n else nan,
            kl=self._kl / n if n else nan,
            decided=self._decided,
            decided_top1=100 * self._decided_top1 / self._decided if self._decided else 100.0,
            signal_rms=math.sqrt(self._signal / self._values) if n else nan,
            noise_rms=math.sqrt(self._noise / self._values) if n else nan,
            worst_samples=tuple(self._worst),
            logit_rms=math.sqrt(self._logit_energy / self._values) if n else nan,
            probabilities=self._probabilities,
        )

    def _add_tensors(self, logits: Doubles, other: Doubles) -> None:
        """Add what the values differ by."""
        reference = softmax(logits) if self._probabilities else logits
        difference = np.abs(reference - other)
        signal, noise = (reference**2).sum(axis=1), (difference**2).sum(axis=1)
        self._values += reference.size
        self._signal += float(signal.sum())
        self._noise += float(noise.sum())
        self._energy += float((other**2).sum())
        self._dot += float((reference * other).sum())
        self._logit_energy += float((logits**2).sum())
        self._abs_sum += float(difference.sum())
        self._abs_max = max(self._abs_max, float(difference.max()))
        sizes = np.sqrt(np.stack([noise, signal], axis=1) / reference.shape[1])
        self._worst = _frontier([*self._worst, *((float(d), float(s)) for d, s in sizes)])
        self._worst_sqnr = min(
            self._worst_sqnr, *(ratio_db(float(s), float(d)) for s, d in zip(signal, noise, strict=True))
        )

    def _add_decisions(self, logits: Doubles, other: Doubles) -> None:
        """Add what the decisions differ by."""
        rows = np.arange(len(logits))
        best = logits == logits.max(axis=1, keepdims=True)
        agrees = best[rows, other.argmax(axis=1)]
        five = np.argsort(-other, axis=1, kind="stable")[:, :5]
        self._top1 += int(agrees.sum())
        self._top5 += int(np.take_along_axis(best, five, axis=1).any(axis=1).sum())
        decided = self._margins(logits) > self._margin * np.sqrt((logits**2).mean(axis=1))
        self._decided += int(decided.sum())
        self._decided_top1 += int((decided & agrees).sum())
        log_p = log_softmax(logits)
        log_q = np.log(np.maximum(other, _TINY)) if self._probabilities else log_softmax(other)
        # Rounding can leave a sum of -1e-17, which would read as an impossible divergence.
        self._kl += float(np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0).sum())

    @staticmethod
    def _margins(logits: Doubles) -> Doubles:
        """Return best minus second-best logit; infinite for a single class, whose decision is always the same."""
        if logits.shape[1] == 1:
            return np.full(len(logits), np.inf)
        top = np.partition(logits, -2, axis=1)
        return np.asarray(top[:, -1] - top[:, -2], dtype=np.float64)

    def _cosine(self) -> float:
        """Return the cosine similarity."""
        if self._signal == 0 or self._energy == 0:
            return 1.0 if self._signal == self._energy else 0.0
        return max(-1.0, min(1.0, self._dot / (math.sqrt(self._signal) * math.sqrt(self._energy))))


def _frontier(samples: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep the samples (difference, reference) than which none has a larger difference and a smaller reference."""
    kept: list[tuple[float, float]] = []
    for difference, reference in sorted(samples, key=lambda sample: (-sample[0], sample[1])):
        if not kept or reference < kept[-1][1]:
            kept.append((difference, reference))
    return kept


def compare(reference: Array, candidate: Array, *, probabilities: bool = False, margin: float = 0.0) -> Metrics:
    """Compare a candidate's outputs with the reference's logits, all at once.

    Args:
        reference: logits (N, classes).
        candidate: logits, or with ``probabilities=True`` probabilities, of the same shape.
        margin: see :attr:`Metrics.decided`.

    Raises:
        UserError: the shapes differ, or there are no classes.
    """
    accumulator = Accumulator(probabilities=probabilities, margin=margin)
    accumulator.add(reference, candidate)
    return accumulator.result()


def ratio_db(signal: float, noise: float) -> float:
    """Return ``10 log10(signal / noise)`` of two energies: ``inf`` without noise, :data:`SQNR_FLOOR` without signal."""
    if noise == 0:
        return math.inf
    if signal == 0:
        return SQNR_FLOOR
    return max(SQNR_FLOOR, 10 * (math.log10(signal) - math.log10(noise)))


def log_softmax(logits: Array) -> Doubles:
    """Return log-probabilities over the last axis, float64, without overflow."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def softmax(logits: Array) -> Doubles:
    """Return probabilities over the last axis, float64."""
    return np.asarray(np.exp(log_softmax(logits)), dtype=np.float64)


def logits_of(probabilities: Array) -> Doubles:
    """Return logits that have these probabilities as their softmax, centred on zero; float64.

    A probability of 0 counts as the smallest normal float32.
    """
    logs = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True), dtype=np.float64)


def _or_null(value: Any) -> Any:
    """Replace a float that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
