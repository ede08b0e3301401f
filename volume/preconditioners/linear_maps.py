"""Preconditioners of star-domain directions: linear maps of determinant one that favour flat directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spectra.checkpoint import AdamMoments
from spectra.errors import UserError
from spectra.lanczos import Eigenpairs, draw_probes
from spectra.model import ParameterLayout
from spectra.operators import SymmetricOperator
from volume.preconditioners.exponent import EXPONENT

EPS = 1e-3


class Preconditioner(Protocol):
    """A symmetric linear map P of determinant one."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def size(self) -> int | None:
        """Number of parameters n that it is for; None for any."""
        ...

    def apply(self, rows: Tensor) -> Tensor:
        """``z P`` for rows z (k, n)."""
        ...


@dataclass(frozen=True)
class Identity:
    """No preconditioning."""

    name: str = "identity"

    @property
    def size(self) -> None:
        """None: it fits any number of parameters."""
        return None

    def apply(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows


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


@dataclass(frozen=True, eq=False)
class Spectral:
    """``V diag(entries) V^T`` on the span of V, ``rest`` on its complement; determinant one.

    Attributes:
        vectors: (k, n) orthonormal rows.
        entries: (k,) float64, positive.
        rest: positive factor of the complement; 0 where V spans everything.
        name: what it is called.
    """

    vectors: Tensor
    entries: Tensor
    rest: float
    name: str = "low-rank"

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return self.vectors.shape[1]

    def apply(self, rows: Tensor) -> Tensor:
        """``z P`` by projection on the eigenvectors."""
        vectors = self.vectors.to(rows)
        components = rows @ vectors.T
        return self.rest * rows + (components * (self.entries.to(rows) - self.rest)) @ vectors


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
    entries = _entries(curvature, exponent, eps)
    return Diagonal(torch.exp(entries - entries.mean()), name)


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
    entries = _entries(eigenvalues, exponent, eps)
    return Spectral(vectors, torch.exp(entries - entries.mean()), 0.0, "full")


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
            options = {"dtype": operator.dtype, "device": operator.device}
            rows = draw_probes(size, chunk, seed=seed, first=start, kind="rademacher", stream="diagonal", **options)  # type: ignore[arg-type]
        found += (rows * operator.matmat(rows)).double().sum(0)
    return found if probes is None else found / probes


def adam_curvature(moments: AdamMoments, layout: ParameterLayout, which: str = "second") -> Tensor:
    """Adam's moment buffer as a diagonal curvature: v for the second, m^2 for the first.

    Args:
        moments: from the checkpoint.
        layout: order of the parameters in theta.
        which: ``second`` (mean squared gradients, an empirical Fisher) or ``first``.

    Returns:
        (n,) float64.

    Raises:
        UserError: if a parameter has no moment, or ``which`` is neither.
    """
    if which not in ("first", "second"):
        raise UserError(f"which must be first or second, got {which!r}")
    buffers: Mapping[str, Tensor] = moments.second if which == "second" else moments.first
    missing = [name for name in layout.names if name not in buffers]
    if missing:
        raise UserError(f"Adam's state has no {which} moment of parameter {missing[0]}")
    flat = torch.cat([buffers[name].reshape(-1).double() for name in layout.names])
    return flat if which == "second" else flat.square()


def _entries(curvature: Tensor, exponent: float, eps: float) -> Tensor:
    """Logs of ``(|d|^exponent + eps m)^-1``, (n,) float64."""
    powers = curvature.double().abs() ** exponent
    if not bool(torch.isfinite(powers).all()) or not bool((powers > 0).any()):
        raise UserError("the curvature of a preconditioner must be finite and not all zero")
    shifted = powers + eps * powers.max()
    if not bool((shifted > 0).all()):
        raise UserError(f"eps must be positive where the curvature has zeros, got {eps}")
    return -torch.log(shifted)
