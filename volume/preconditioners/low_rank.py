"""The preconditioner of the curvature's leading eigenpairs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from spectra.errors import UserError
from spectra.lanczos import Eigenpairs
from volume.preconditioners.preconditioner import EXPONENT, Material, PreconditionerRow, Spectral


def low_rank_preconditioner(pairs: Eigenpairs, size: int, shift: float, *, exponent: float = EXPONENT) -> Spectral:
    """``(|H| + shift I)^-exponent``, H known by its top eigenpairs and zero elsewhere, scaled to determinant one.

    Args:
        pairs: top eigenpairs of H.
        size: number of parameters n.
        shift: positive; the curvature assumed of the directions that are not in the pairs.
        exponent: e.

    Returns:
        The preconditioner.

    Raises:
        UserError: if the shift is not positive.

    >>> pairs = Eigenpairs(torch.tensor([3.0]).numpy(), torch.tensor([[1.0, 0.0]]), torch.zeros(1).numpy(), 0, True)
    >>> low_rank_preconditioner(pairs, 2, 1.0).apply(torch.ones(1, 2).double()).numpy().round(5).tolist()
    [[0.70711, 1.41421]]
    """
    if not shift > 0.0:
        raise UserError(f"shift must be positive, got {shift}")
    logs = -exponent * torch.log(torch.as_tensor(pairs.values, dtype=torch.float64).abs() + shift)
    rest = -exponent * math.log(shift)
    mean = (float(logs.sum()) + (size - len(logs)) * rest) / size
    return Spectral(pairs.vectors, torch.exp(logs - mean), math.exp(rest - mean), "low-rank")


def _build(material: Material, exponent: float) -> Callable[[float], Spectral]:
    pairs, size = material.leading(), material.size
    largest = float(abs(pairs.values).max())
    if not largest > 0.0:
        raise UserError("the low-rank preconditioner needs a curvature that is not zero; use identity")
    return lambda eps: low_rank_preconditioner(pairs, size, eps * largest, exponent=exponent)


ROWS = (PreconditionerRow("low-rank", _build, products=lambda material: material.leading().products, curved=True),)
