r"""The Gibbs ensemble of a quadratic cost under a normal prior: a Gaussian, known in full.

In standard deviations of the prior, with anchor a, inverse temperature b and localisation g,
``pi(x) ~ N(a + x; 0, I) exp(-b/2 x^T H x - g/2 |x|^2)`` has precision ``A = b H + (g + 1) I`` and mean ``-A^-1 a``.
H is its leading eigenpairs and one number on their complement, so every operation costs k n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LeadingCurvature:
    """``H = sum_i l_i q_i q_i^T + rest (I - sum_i q_i q_i^T)``, non-negative.

    Attributes:
        values: (k,) float64, non-negative, from the largest on.
        vectors: (k, n) orthonormal rows.
        rest: curvature on the complement, non-negative; of no account if k = n.
        strategy: how products with H were computed; empty if none were.
    """

    values: Tensor
    vectors: Tensor
    rest: float = 0.0
    strategy: str = ""

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return self.vectors.shape[1]

    def truncated(self, count: int) -> LeadingCurvature:
        """The first ``count`` pairs; the mean of the others joins the complement."""
        kept, size = self.values[:count], self.size
        if count >= len(self.values):
            return self
        lost = float(self.values[count:].sum()) + self.rest * (size - len(self.values))
        return LeadingCurvature(kept, self.vectors[:count], lost / (size - count))


@dataclass(frozen=True, eq=False)
class QuadraticEnsemble:
    """The Gaussian of a quadratic cost at one inverse temperature and localisation.

    Attributes:
        curvature: H in standard deviations of the prior.
        anchor: (n,) float64, the anchor in standard deviations of the prior.
        inverse_temperature: b, per unit of cost.
        localisation: g, in units of the prior's precision.

    >>> curvature = LeadingCurvature(torch.ones(2).double(), torch.eye(2).double())
    >>> ensemble = QuadraticEnsemble(curvature, torch.zeros(2).double(), 3.0, 0.0)
    >>> round(math.exp(ensemble.log_normaliser), 12)  # (1 + b)^(-n/2)
    0.25
    """

    curvature: LeadingCurvature
    anchor: Tensor
    inverse_temperature: float
    localisation: float

    turns: ClassVar[float] = 1.0  # an integrator that is split around it needs a quarter turn for a new draw

    @cached_property
    def _precisions(self) -> Tensor:
        return self.inverse_temperature * self.curvature.values + (self.localisation + 1.0)

    @cached_property
    def _rest(self) -> float:
        return self.inverse_temperature * self.curvature.rest + self.localisation + 1.0

    @cached_property
    def _anchor_parts(self) -> tuple[Tensor, Tensor]:
        """Components of the anchor on the leading eigenvectors, and what is left of it, float64."""
        vectors = self.curvature.vectors
        components = vectors @ self.anchor.to(vectors.dtype)
        rest = self.anchor - (components @ vectors).double()
        if len(vectors) == self.curvature.size:
            rest = torch.zeros_like(rest)
        return components.double(), rest

    @cached_property
    def mean(self) -> Tensor:
        """``-A^-1 a``, (n,), in the dtype of the vectors."""
        components, rest = self._anchor_parts
        vectors = self.curvature.vectors
        return -((components / self._precisions).to(vectors.dtype) @ vectors + (rest / self._rest).to(vectors.dtype))

    @cached_property
    def _mean_components(self) -> Tensor:
        return -(self._anchor_parts[0] / self._precisions).to(self.curvature.vectors.dtype)

    @cached_property
    def log_normaliser(self) -> float:
        """``log Z_Q = -1/2 log det A - 1/2 (|a|^2 - a^T A^-1 a)``, nats."""
        components, rest = self._anchor_parts
        precisions, others = self._precisions, self.curvature.size - len(self.curvature.values)
        log_determinant = float(precisions.log().sum()) + others * math.log(self._rest)
        pull = float((components.square() * (1.0 - 1.0 / precisions)).sum())
        pull += float(rest.square().sum()) * (1.0 - 1.0 / self._rest)
        return -0.5 * log_determinant - 0.5 * pull

    @cached_property
    def mean_square(self) -> float:
        """``E|x|^2``."""
        components, rest = self._anchor_parts
        precisions, others = self._precisions, self.curvature.size - len(self.curvature.values)
        spread = float((1.0 / precisions).sum()) + others / self._rest
        return spread + float((components / precisions).square().sum()) + float((rest / self._rest).square().sum())

    def costs(self, points: Tensor) -> Tensor:
        """``1/2 x^T H x`` at rows of points (k, n), float64 (k,)."""
        curvature = self.curvature
        parts = (points @ curvature.vectors.T).double()
        whole = points.double().square().sum(-1)
        return 0.5 * (parts.square() @ (curvature.values - curvature.rest) + curvature.rest * whole)

    def precision(self, rows: Tensor) -> Tensor:
        """``A x`` for rows x."""
        return self.power(rows, 1.0)

    def inverse(self, rows: Tensor) -> Tensor:
        """``A^-1 x`` for rows x."""
        return self.power(rows, -1.0)

    def power(self, rows: Tensor, exponent: float) -> Tensor:
        """``A^e x`` for rows x."""
        return spectral_product(rows, self.curvature.vectors, self._precisions**exponent, self._rest**exponent)

    def deviations(self, generator: torch.Generator, count: int) -> Tensor:
        """Draws (count, n) of ``N(0, A^-1)``."""
        vectors = self.curvature.vectors
        noise = torch.randn(count, vectors.shape[1], generator=generator, dtype=vectors.dtype, device=vectors.device)
        return self.power(noise, -0.5)

    def draws(self, generator: torch.Generator, count: int) -> Tensor:
        """Independent draws (count, n) of the ensemble."""
        return self.mean + self.deviations(generator, count)

    def at(self, inverse_temperature: float, localisation: float) -> QuadraticEnsemble:
        """The same quadratic cost at another inverse temperature and localisation."""
        other = replace(self, inverse_temperature=inverse_temperature, localisation=localisation)
        other.__dict__["_anchor_parts"] = self._anchor_parts  # two products with all the eigenvectors
        return other

    def components(self, points: Tensor) -> Tensor:
        """Components (k', k) of rows of points (k', n) on the leading eigenvectors."""
        return points @ self.curvature.vectors.T

    def carried(self, points: Tensor, components: Tensor, other: QuadraticEnsemble) -> Tensor:
        """Points moved by the affine map under which this ensemble becomes ``other``, one of the same curvature."""
        ratios, rest = (self._precisions / other._precisions).sqrt(), math.sqrt(self._rest / other._rest)
        inner = (components - self._mean_components) * (ratios - rest).to(points.dtype)
        return torch.addmm(other.mean + rest * (points - self.mean), inner, self.curvature.vectors)

    def log_stretch(self, other: QuadraticEnsemble) -> float:
        """Log determinant of that map."""
        others = self.curvature.size - len(self.curvature.values)
        leading = float((self._precisions.log() - other._precisions.log()).sum())
        return 0.5 * (leading + others * math.log(self._rest / other._rest))


def spectral_product(rows: Tensor, vectors: Tensor, factors: Tensor, rest: float) -> Tensor:
    """Rows (m, n) times ``sum_i f_i v_i v_i^T + rest (I - sum_i v_i v_i^T)``, of orthonormal vectors (k, n)."""
    if len(vectors) == 0:
        return rows * rest
    inner = (rows @ vectors.T) * (factors - rest).to(rows.dtype)
    return torch.addmm(rows * rest, inner, vectors)
