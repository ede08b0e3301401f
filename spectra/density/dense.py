"""Small n: the whole matrix and its eigenvalues. The oracle of everything else."""

from __future__ import annotations

from dataclasses import replace

import torch

from spectra.density.density import SpectralDensity
from spectra.errors import UserError
from spectra.operators import SymmetricOperator, not_finite


def dense_bytes(size: int, dtype: torch.dtype) -> int:
    """Bytes that the matrix, its symmetrised copy and the float64 decomposition take at their peak."""
    return size * size * (2 * dtype.itemsize + 2 * 8)


def dense_spectrum(operator: SymmetricOperator) -> SpectralDensity:
    """All eigenvalues, from n products and a float64 eigendecomposition on the host or device.

    Args:
        operator: H, of size n; n^2 numbers are held.

    Returns:
        The exact density (to the rounding of the products).

    Raises:
        UserError: if a product is not finite.

    >>> from spectra.operators import MatrixOperator
    >>> dense_spectrum(MatrixOperator(torch.diag(torch.tensor([1.0, 3.0])))).nodes.shape
    (0, 1)
    """
    matrix = operator.to_dense()
    if not bool(torch.isfinite(matrix).all()):
        raise UserError(not_finite(operator.name))
    values = torch.linalg.eigvalsh(matrix.double())
    epsilon = torch.finfo(operator.dtype).eps
    found = SpectralDensity.from_eigenvalues(values.cpu().numpy(), operator=operator.name, epsilon=epsilon)
    return replace(found, coarseness=operator.coarseness)
