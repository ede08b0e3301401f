"""The preconditioner of the whole curvature, decomposed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spectra.errors import UserError
from volume.preconditioners.preconditioner import EPS, EXPONENT, Material, PreconditionerRow, Spectral, log_entries

# The decomposition takes of the order of 10 n^3 operations and 8 n^2 bytes several times: minutes and a GB here.
LARGEST = 6000


def full_preconditioner(
    eigenvalues: Tensor, vectors: Tensor, *, exponent: float = EXPONENT, eps: float = EPS
) -> Spectral:
    """``V (|D|^exponent + eps m)^-1 V^T`` from the whole eigendecomposition, scaled to determinant one.

    Args:
        eigenvalues: (n,) D.
        vectors: (n, n) rows V^T.
        exponent: e.
        eps: added in units of the largest ``|D|^exponent``.

    Returns:
        The preconditioner.

    Raises:
        UserError: as ``diagonal_preconditioner``, or if the shapes do not fit.
    """
    if vectors.shape != (len(eigenvalues), len(eigenvalues)):
        raise UserError(f"vectors must have shape {(len(eigenvalues),) * 2}, got {tuple(vectors.shape)}")
    entries = log_entries(eigenvalues, exponent, eps)
    return Spectral(vectors, torch.exp(entries - entries.mean()), 0.0, "full")


def _refuse(size: int, largest: int) -> None:
    if size > largest:
        raise UserError(
            f"the preconditioner full decomposes the whole curvature and is for at most {largest} parameters, "
            f"got {size}; use low-rank"
        )


def _build(material: Material, exponent: float) -> Callable[[float], Spectral]:
    _refuse(material.size, min(LARGEST, material.decomposed))
    operator = material.curvature()
    values, columns = torch.linalg.eigh(operator.to_dense().double())
    # In the directions' own dtype once, not at each block of them.
    vectors = columns.T.to(operator.dtype).contiguous()
    return lambda eps: full_preconditioner(values, vectors, exponent=exponent, eps=eps)


ROWS = (
    PreconditionerRow(
        "full",
        _build,
        products=lambda material: material.size,
        check=lambda landscape: _refuse(landscape.size, LARGEST),
        curved=True,
    ),
)
