"""Rounds weights so that the errors cancel in the layer's output, instead of each being least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.quantize.correct.cholesky import factorize

__all__ = ["ErrorFeedback"]

Array = NDArray[Any]
BLOCK = 64
"""Inputs between two matrix products."""

ATTEMPTS = 8
"""Dampings to try, each ten times the one before: the last is far beyond the largest eigenvalue of any finite matrix."""

TINY = 1e-12
"""Damping of an input that is always zero."""


@dataclass(frozen=True, kw_only=True)
class ErrorFeedback:
    """Rounds one input after the other and moves the inputs to come so that they make up for its error.

    The order and the corrections are those of GPTQ (Frantar et al. 2022, arXiv:2210.17323), written with the Cholesky factor L of
    the Gram matrix itself: the output's square error is ``|E L|^2`` for the weight errors E, whose entry i depends on no input
    before i. So from the last input to the first each one is rounded where its own entry is least (Babai's nearest plane).

    Attributes:
        damping: added to the Gram matrix's diagonal, relative to its mean.
        scales: how many scales of each channel are tried; the one with the least output error is kept.
        low, high: of them, relative to the scale that just holds the largest weight.
        sweeps: of :func:`descend` over what was rounded.
    """

    damping: float = 0.01
    scales: int = 4
    low: float = 0.85
    high: float = 1.0
    sweeps: int = 0

    def round(self, weight: Array, gram: Array) -> tuple[Array, Array]:
        """Return (int8 weight (G, O, K), float32 scale (G, O)).

        Args:
            weight: float32 (G, O, K).
            gram: of the inputs, (G, K, K); used up, since it may be the largest array of all.
        """
        groups, outputs, inputs = weight.shape
        diagonal = np.diagonal(gram, axis1=1, axis2=2).copy()
        order = np.argsort(diagonal, axis=1, kind="stable")  # the largest inputs are rounded first, from the end
        self._factor(gram, diagonal.mean(axis=1), order)
        pivots = np.diagonal(gram, axis1=1, axis2=2).copy()
        sorted_weight = np.take_along_axis(weight, order[:, None, :], 2)
        peak = np.abs(weight).max(axis=2)
        whole = np.where(peak > 0, peak / 127, 1.0).astype(np.float32)
        shares = np.linspace(self.low, self.high, self.scales, dtype=np.float32)
        tried = (whole[:, :, None] * shares).reshape(groups, -1)
        integers, error = _nearest_plane(np.repeat(sorted_weight, self.scales, axis=1), tried, gram)
        best = error.reshape(groups, outputs, self.scales).argmin(axis=2)[:, :, None]
        scale = np.take_along_axis(tried.reshape(groups, outputs, -1), best, 2)[:, :, 0]
        shaped = integers.reshape(groups, outputs, self.scales, inputs)
        chosen = np.take_along_axis(shaped, best[..., None], 2)[:, :, 0]
        if self.sweeps:
            gram *= pivots[:, None, :]
            chosen, scale = descend(sorted_weight, chosen, scale, gram, self.sweeps)
        return np.take_along_axis(chosen, np.argsort(order, axis=1)[:, None, :], 2), scale

    def _factor(self, gram: Array, mean: Array, order: Array) -> None:
        """Replace each matrix by the lower Cholesky factor of the damped one, its inputs in the order given."""
        for one, by, size in zip(gram, order, mean, strict=True):
            one[...] = one[np.ix_(by, by)]
            damping = max(self.damping * float(size), TINY)
            # in float32 a matrix of fewer positions than inputs may need more
            if not any(factorize(one, damping * 10**attempt) for attempt in range(ATTEMPTS)):
                raise DataError(
                    "weights cannot be corrected: a layer's inputs are not finite; quantize with --effort fast"
                )


def descend(weight: Array, integers: Array, scale: Array, factor: Array, sweeps: int) -> tuple[Array, Array]:
    """Return integers and scales with no more square error of the output than those given.

    Coordinate descent: each channel gets the scale that is best for its integers, then one input after the other the integer that is
    best while all others stay; until nothing moves.

    Args:
        weight: float32 (G, O, K). ``integers``: int8 (G, O, K). ``scale``: float32 (G, O).
        factor: lower Cholesky factor of the inputs' second moments, (G, K, K).
        sweeps: over all inputs, at most.
    """
    integers = integers.astype(np.float32)
    energy = np.square(factor).sum(axis=2)
    wanted = weight @ factor
    for _ in range(sweeps):
        made = integers @ factor
        scale = _best_scale(wanted, made, scale)
        state, moved = wanted - scale[:, :, None] * made, False
        for index in range(weight.shape[2] - 1, -1, -1):
            row = factor[:, index, None, : index + 1]
            pull = (state[:, :, : index + 1] @ row.transpose(0, 2, 1))[:, :, 0]
            best = integers[:, :, index] + np.rint(pull / (scale * energy[:, index, None]))
            step = np.clip(best, -127, 127) - integers[:, :, index]
            if step.any():
                moved = True
                integers[:, :, index] += step
                state[:, :, : index + 1] -= (step * scale)[:, :, None] * row
        if not moved:
            break
    return integers.astype(np.int8), _best_scale(wanted, integers @ factor, scale)


def _best_scale(wanted: Array, made: Array, scale: Array) -> Array:
    """Return the scale (G, O) that brings ``made`` nearest to ``wanted``, (G, O, K) both; the one given where none does."""
    size = np.square(made).sum(axis=2)
    best = (wanted * made).sum(axis=2) / np.where(size > 0, size, 1)
    return np.where((size > 0) & (best > 0), best, scale).astype(np.float32)


def _nearest_plane(weight: Array, scale: Array, factor: Array) -> tuple[Array, Array]:
    """Return (integers (G, O, K), square error of the output (G, O)) for a lower Cholesky factor (G, K, K), which is used up."""
    groups, outputs, inputs = weight.shape
    wanted = np.ascontiguousarray(weight.transpose(0, 2, 1))
    errors = np.zeros_like(wanted)
    integers = np.zeros(wanted.shape, np.int8)
    total = np.zeros((groups, outputs), np.float64)
    diagonal = np.diagonal(factor, axis1=1, axis2=2).copy()
    np.divide(factor, diagonal[:, None, :], out=factor)
    pull = factor.transpose(0, 2, 1)  # [i, j]: what i owes j's error
    for end in range(inputs, 0, -BLOCK):
        start = max(0, end - BLOCK)
        later = pull[:, start:end, end:] @ errors[:, end:]
        near = np.ascontiguousarray(pull[:, start:end, start:end])
        for index in range(end - 1, start - 1, -1):
            own = near[:, index - start, None, index - start + 1 :] @ errors[:, index + 1 : end]
            target = wanted[:, index] + later[:, index - start] + own[:, 0]
            rounded = np.clip(np.rint(target / scale), -127, 127)
            integers[:, index] = rounded
            errors[:, index] = wanted[:, index] - rounded * scale
            total += np.square((target - rounded * scale) * diagonal[:, index, None], dtype=np.float64)
    return integers.transpose(0, 2, 1), total
