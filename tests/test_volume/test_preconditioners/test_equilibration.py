"""Row norms against the dense matrix; the laws of all preconditioners are in test_preconditioners.py."""

import torch

from spectra.operators import MatrixOperator
from volume.preconditioners.equilibration import row_norms


def test_row_norms_exact_and_estimated() -> None:
    """Estimates within 5 of their largest standard deviations; the random signs are fixed."""
    matrix = torch.randn(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix + matrix.T  # indefinite: diagonals cancel, norms of rows do not
    truth = matrix.norm(dim=1)
    assert torch.allclose(row_norms(MatrixOperator(matrix), 40), truth, rtol=1e-12)
    found = row_norms(MatrixOperator(matrix).shifted(0.0), 39)
    # The variance of (H z)_i^2 is below 2 |H_i|^4.
    assert bool(((found**2 / truth**2 - 1.0).abs() < 5.0 * (2.0 / 39) ** 0.5).all())
    assert not torch.allclose(found, truth, rtol=1e-3)
