"""The equilibration preconditioner: norms of the curvature's rows, which negative curvature does not cancel in."""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.lanczos import probes_of
from spectra.operators import SymmetricOperator
from volume.preconditioners.diagonal import of_diagonal
from volume.preconditioners.preconditioner import PreconditionerRow

_CHUNK = 64


def row_norms(operator: SymmetricOperator, products: int) -> Tensor:
    r"""``sqrt(sum_j H_ij^2)`` of each row: exact from n products, or by ``sqrt(mean (H z)_i^2)`` over random signs z.

    Args:
        operator: H, of size n.
        products: how many to spend; n or more give the exact norms.

    Returns:
        (n,) float64. The estimate's relative error is below ``1 / sqrt(2 products)``, one standard deviation.

    Reference:
        Dauphin, de Vries and Bengio, Equilibrated adaptive learning rates for non-convex optimization, 2015.

    >>> from spectra.operators import MatrixOperator
    >>> row_norms(MatrixOperator(torch.tensor([[0.0, 3.0], [3.0, 4.0]])), 2).tolist()
    [3.0, 5.0]
    """
    size, exact = operator.size, products >= operator.size
    found = torch.zeros(size, dtype=torch.float64, device=operator.device)
    count = size if exact else products
    for start in range(0, count, _CHUNK):
        chunk = min(_CHUNK, count - start)
        if exact:
            rows = torch.zeros(chunk, size, dtype=operator.dtype, device=operator.device)
            rows[:, start : start + chunk].fill_diagonal_(1.0)
        else:
            rows = probes_of(operator, chunk, seed=0, first=start, kind="rademacher", stream="equilibration")
        found += operator.matmat(rows).double().square().sum(0)
    return (found if exact else found / count).sqrt()


ROWS = (
    PreconditionerRow(
        "equilibration",
        lambda material, exponent: of_diagonal(
            row_norms(material.curvature(), material.products), exponent, "equilibration"
        ),
        products=lambda material: material.products,
        curved=True,
    ),
)
