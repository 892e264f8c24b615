"""The factor that is made in the matrix's own memory."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.quantize.correct.cholesky import BLOCK, factorize


def gram(size: int) -> np.ndarray:
    """Return the second moments of fewer positions than inputs, so that only damping makes them positive definite."""
    values = np.random.default_rng(size).standard_normal((size, size // 2 + 1)).astype(np.float32)
    return values @ values.T / values.shape[1]


@pytest.mark.parametrize("size", [1, 9, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_it_is_the_factor_of_the_damped_matrix(size: int) -> None:
    matrix = gram(size)
    wanted = matrix.astype(np.float64) + 0.05 * np.eye(size)
    assert factorize(matrix, 0.05)
    assert not np.triu(matrix, 1).any()
    assert (matrix.diagonal() > 0).all()
    factor = matrix.astype(np.float64)
    assert np.abs(factor @ factor.T - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 40])
@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_what_has_no_factor_is_left_as_it_was(place: int, bad: float) -> None:
    matrix = gram(2 * BLOCK + 50)
    matrix[place, place] = bad
    before = matrix.copy()
    assert not factorize(matrix, 0.05)
    np.testing.assert_array_equal(matrix, before)
