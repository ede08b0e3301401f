"""The preconditioner of the whole curvature, decomposed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
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


def _check(landscape: Landscape) -> None:
    if landscape.size > LARGEST:
        raise UserError(
            f"the preconditioner full decomposes the whole curvature and is for at most {LARGEST} parameters, "
            f"got {landscape.size}; use low-rank"
        )


def _build(material: Material, exponent: float) -> Callable[[float], Spectral]:
    if material.landscape is not None:
        _check(material.landscape)
    values, vectors = material.eigensystem
    return lambda eps: full_preconditioner(values, vectors, exponent=exponent, eps=eps)


ROWS = (PreconditionerRow("full", _build, products=lambda material: material.size, check=_check, curved=True),)
