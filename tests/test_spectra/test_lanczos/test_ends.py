"""Both ends of a spectrum against dense decompositions and ARPACK; repeated eigenvalues with their multiplicity."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from spectra.lanczos import end_eigenpairs
from spectra.operators import MatrixOperator


def matrix_of(values: np.ndarray, seed: int = 0) -> torch.Tensor:
    """A rotated matrix of these eigenvalues."""
    source = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=source, dtype=torch.float64))[0]
    matrix = (basis * torch.as_tensor(values)) @ basis.T
    return (matrix + matrix.T) / 2.0


def test_both_ends_agree_with_arpack_and_with_the_dense_matrix() -> None:
    values = np.concatenate([np.arange(1.0, 101.0) ** -1.5, -0.3 * np.arange(1.0, 21.0) ** -2.0, np.zeros(80)])
    operator = MatrixOperator(matrix_of(values))
    largest, negative = end_eigenpairs(operator, 6)
    assert negative is not None
    assert largest.converged
    assert negative.converged
    for pairs, theirs, sign in ((largest, "LA", -1.0), (negative, "SA", 1.0)):
        exact = np.sort(sign * np.linalg.eigvalsh(operator.matrix.numpy()))[:6] * sign
        arpack = np.sort(sign * eigsh(operator.to_scipy(), 6, which=theirs)[0]) * sign
        assert np.allclose(pairs.values, exact, atol=1e-10)
        assert np.allclose(pairs.values, arpack, atol=1e-9)
        rows = pairs.vectors.numpy()
        direct = np.linalg.norm(rows @ operator.matrix.numpy() - pairs.values[:, None] * rows, axis=1)
        assert np.allclose(pairs.residuals, direct, atol=1e-12)


@pytest.mark.parametrize("copies", [4, 5, 9])
def test_a_repeated_eigenvalue_is_found_as_often_as_it_repeats(copies: int) -> None:
    """More copies than the first block has vectors too, of which one Krylov space of that block has no more."""
    values = np.concatenate([np.full(copies, 2.0), np.linspace(0.0, 1.0, 90)])
    largest, _ = end_eigenpairs(MatrixOperator(matrix_of(values)), copies + 1)
    assert np.allclose(largest.values, [2.0] * copies + [1.0], atol=1e-9)
    assert torch.allclose(largest.vectors @ largest.vectors.T, torch.eye(copies + 1, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize(
    ("values", "largest", "negative"),
    [
        ([3.0] + [0.0] * 49, [3.0, 0.0, 0.0, 0.0, 0.0], []),  # the fifth eigenvalue is zero, as of a dead network
        ([1.0] * 50, [1.0] * 5, []),
        ([0.0] * 50, [0.0] * 5, []),
        ([-2.0, -2.0] + [0.5] * 48, [0.5] * 5, [-2.0, -2.0]),
        ([3.0, 1.0, 0.0, -1.0, -4.0], [3.0, 1.0, 0.0, -1.0, -4.0], [-4.0, -1.0]),
    ],
    ids=["rank one", "identity", "zero", "two below", "all of them"],
)
def test_degenerate_matrices(values: list[float], largest: list[float], negative: list[float]) -> None:
    found, below = end_eigenpairs(MatrixOperator(matrix_of(np.array(values))), 5)
    assert below is not None
    assert np.allclose(found.values, largest, atol=1e-10)
    assert np.allclose(below.values, negative, atol=1e-10)


def test_a_crowded_end_says_what_has_not_converged() -> None:
    values = np.concatenate([[5.0], np.linspace(-1e-3, 0.0, 800)])
    largest, negative = end_eigenpairs(MatrixOperator(matrix_of(values)), 1)
    assert largest.values[0] == pytest.approx(5.0)
    assert negative is not None
    assert not negative.converged
    assert abs(negative.values[0] + 1e-3) <= negative.residuals[0]


def test_more_pairs_than_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and the 3 parameters, got 4"):
        end_eigenpairs(MatrixOperator(torch.eye(3)), 4)
