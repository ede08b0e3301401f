"""Preconditioners of star-domain directions: linear maps of determinant one that favour flat directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spectra.checkpoint import AdamMoments
from spectra.errors import UserError
from spectra.lanczos import Eigenpairs
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator

EXPONENT = 0.5
EPS = 1e-3
# Up to this size n products for an exact diagonal cost less than the sampler does; above, it is estimated from probes.
EXACT, PROBES = 5000, 256


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
class Material:
    """What preconditioners are made of.

    Attributes:
        size: number of parameters n.
        curvature: gives the curvature; raises UserError where there is none.
        leading: gives its leading eigenpairs, as many as are worth their products.
        landscape: the cost, where it is that of a torch model.
        moments: Adam's, where the checkpoint has them.
        seed: of random probes.
        decomposed: n up to which the whole curvature is worth decomposing.
    """

    size: int
    curvature: Callable[[], SymmetricOperator]
    leading: Callable[[], Eigenpairs]
    landscape: Landscape | None = None
    moments: AdamMoments | None = None
    seed: int = 0
    decomposed: int = 10**9

    @property
    def products(self) -> int:
        """Products for a number a parameter: n give it exactly, and as many are spent where that is cheap."""
        return self.size if self.size <= EXACT else PROBES


@dataclass(frozen=True)
class PreconditionerRow:
    """A preconditioner that options and files know by name.

    Attributes:
        name: words joined by hyphens.
        build: the material and the exponent of the curvature -> what makes a preconditioner of an eps; raises UserError
            where the material does not allow it.
        products: the material -> what ``build`` takes, in products with the curvature.
        check: refuses a landscape by a UserError before anything is computed.
        curved: whether it is made of the curvature that the study chose.
        tuned: whether there is an eps to choose.
    """

    name: str
    build: Callable[[Material, float], Callable[[float], Preconditioner]]
    products: Callable[[Material], float] = lambda _: 0.0
    check: Callable[[Landscape], None] = lambda _: None
    curved: bool = False
    tuned: bool = True


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


def log_entries(curvature: Tensor, exponent: float, eps: float) -> Tensor:
    """Logs of ``(|d|^exponent + eps m)^-1``, (n,) float64."""
    powers = curvature.double().abs() ** exponent
    if not bool(torch.isfinite(powers).all()) or not bool((powers > 0).any()):
        raise UserError("the curvature of a preconditioner must be finite and not all zero")
    shifted = powers + eps * powers.max()
    if not bool((shifted > 0).all()):
        raise UserError(f"eps must be positive where the curvature has zeros, got {eps}")
    return -torch.log(shifted)
