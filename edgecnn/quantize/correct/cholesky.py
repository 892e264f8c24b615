"""Cholesky's factor in the memory of the matrix itself, since the matrix may be the largest array of all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["factorize"]

Array = NDArray[Any]
BLOCK = 256
"""Columns that are done at once."""


def factorize(matrix: Array, damping: float) -> bool:
    """Replace a symmetric matrix (K, K) by the lower Cholesky factor of it with ``damping`` on its diagonal, zeros above.

    numpy's own needs room for two more such matrices. Here columns are done a block at a time, each from those on its left
    (Golub and Van Loan, Matrix Computations, 4th ed., section 4.2.8).

    Returns:
        Whether it is positive definite and finite; where it is not, the matrix is what it was.
    """
    size, diagonal = len(matrix), np.diagonal(matrix).copy()
    np.fill_diagonal(matrix, diagonal + matrix.dtype.type(damping))
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        panel = matrix[start:, start:end]  # its part above the diagonal is not touched: the matrix is restored from it
        lower = panel - matrix[start:, :start] @ matrix[start:end, :start].T
        factor = _panel(lower, end - start)
        if factor is None:
            _restore(matrix, diagonal, start)
            return False
        inside = np.tril_indices(end - start)
        panel[: end - start][inside] = factor[: end - start][inside]
        panel[end - start :] = factor[end - start :]
    for start in range(0, size, BLOCK):
        matrix[start : start + BLOCK] = np.tril(matrix[start : start + BLOCK], start)
    return True


def _panel(lower: Array, width: int) -> Array | None:
    """Return the factor's next ``width`` columns from their diagonal on; None where there are none, or not finite ones."""
    try:
        corner = np.linalg.cholesky(lower[:width])
        factor = np.concatenate([corner, np.linalg.solve(corner, lower[width:].T).T])
    except np.linalg.LinAlgError:
        return None
    return factor if np.isfinite(factor).all() else None


def _restore(matrix: Array, diagonal: Array, done: int) -> None:
    """Write the part above the diagonal below it, in the columns that are done."""
    for start in range(0, done, BLOCK):
        end = min(start + BLOCK, done)
        matrix[end:, start:end] = matrix[start:end, end:].T
        corner = np.triu(matrix[start:end, start:end], 1)
        matrix[start:end, start:end] = corner + corner.T
    np.fill_diagonal(matrix, diagonal)
