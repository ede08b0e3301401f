"""Diagonal preconditioners, and that of the curvature's own diagonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spectra.lanczos import probes_of
from spectra.operators import SymmetricOperator
from volume.preconditioners.preconditioner import EPS, EXPONENT, Material, PreconditionerRow, log_entries


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A positive diagonal map.

    Attributes:
        entries: (n,) float64, of geometric mean one.
        name: what it is called.
    """

    entries: Tensor
    name: str = "diagonal"

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return len(self.entries)

    def apply(self, rows: Tensor) -> Tensor:
        """Each coordinate times its entry."""
        return rows * self.entries.to(rows)


def diagonal_preconditioner(
    curvature: Tensor, *, exponent: float = EXPONENT, eps: float = EPS, name: str = "diagonal"
) -> Diagonal:
    """``P = (|d|^exponent + eps m)^-1``, scaled to determinant one.

    Args:
        curvature: (n,) d, diagonal curvature or anything in its place; not all zero.
        exponent: e; 1/2 makes an axis ellipsoid a ball.
        eps: added in units of m, the largest ``|d|^exponent``, so that its meaning does not depend on the scale of d.
        name: what it is called.

    Returns:
        The preconditioner.

    Raises:
        UserError: if d is not finite or all zero, or ``eps`` is not positive where some d is zero.

    Reference:
        Scherlis and Belrose, Estimating the probability of sampling a trained neural network at random, 2025.

    >>> diagonal_preconditioner(torch.tensor([4.0, 1.0]), eps=0.0).entries.numpy().round(6).tolist()
    [0.707107, 1.414214]
    """
    entries = log_entries(curvature, exponent, eps)
    return Diagonal(torch.exp(entries - entries.mean()), name)


def of_diagonal(curvature: Tensor, exponent: float, name: str) -> Callable[[float], Diagonal]:
    """What makes the preconditioner of a diagonal curvature from an eps; a curvature that makes none is refused now."""
    log_entries(curvature, exponent, EPS)
    return lambda eps: diagonal_preconditioner(curvature, exponent=exponent, eps=eps, name=name)


def diagonal_curvature(operator: SymmetricOperator, *, probes: int | None = None, seed: int = 0) -> Tensor:
    """The diagonal of a curvature: exact from n products, or Hutchinson's estimate ``mean z * (H z)``.

    Args:
        operator: H, of size n.
        probes: number of Rademacher probes; None takes all n unit vectors.
        seed: of the probes.

    Returns:
        (n,) float64. The estimate's error in entry i is ``sqrt(sum_j!=i H_ij^2 / probes)``.

    Reference:
        Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007.
    """
    size = operator.size
    found = torch.zeros(size, dtype=torch.float64, device=operator.device)
    count = size if probes is None else probes
    for start in range(0, count, 64):
        chunk = min(64, count - start)
        if probes is None:
            rows = torch.zeros(chunk, size, dtype=operator.dtype, device=operator.device)
            places = torch.arange(start, start + chunk, device=operator.device)
            rows[torch.arange(chunk, device=operator.device), places] = 1.0
        else:
            rows = probes_of(operator, chunk, seed=seed, first=start, kind="rademacher", stream="diagonal")
        found += (rows * operator.matmat(rows)).double().sum(0)
    return found if probes is None else found / probes


def _of_curvature(material: Material) -> Tensor:
    probes = None if material.products == material.size else material.products
    return diagonal_curvature(material.curvature(), probes=probes, seed=material.seed)


ROWS = (
    PreconditionerRow(
        "diagonal",
        lambda material, exponent: of_diagonal(_of_curvature(material), exponent, "diagonal"),
        products=lambda material: material.products,
        curved=True,
    ),
)
