r"""The Gaussian that the integrator is split around: one of the mean curvature where the chains have been.

The quadratic model has the curvature of the anchor, at which nobody is. Where rungs take long, the cost is a likelihood
and a matrix of all parameters is affordable, gradients at targets drawn from the model, at draws of the rung before,
have the Fisher matrix as their second moment: some thousands of them give the mean curvature in all directions.

Elsewhere the quadratic model is mended by what the chains have seen. For an ensemble ``exp(-U)`` the scores
``s = grad U`` have ``E[s s^T] = E[hess U]``: gradients that the chains evaluate anyway give the mean curvature too.
They are seen in units of the model's precision B, so that what it knows already is not learned again. With fewer
draws than parameters only the eigenvalues above the noise are kept, and they are reduced by its share.

Reference: Seyboldt, Carlson and Carpenter, Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence,
2026, for metrics from scores; Yata and Aoshima, Effective PCA for high-dimension, low-sample-size data with noise
reduction via geometric representations, 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from volume.chains.cost import BridgeCost
from volume.chains.rung import Correction, RungState
from volume.quadratic import QuadraticEnsemble, spectral_product

# Up to this size there is a matrix of all parameters: n^2 numbers, and a decomposition of seconds for each rung.
LARGEST_WHOLE = 6000
# It pays where a rung took so many gradients a parameter; before, what is learned from the chains' own is as good.
WHOLE_FROM = 4.0
# Draws of a rung at which the curvature is taken, and gradients in all: this share of the rung's own, or the most. The
# stiffest direction at a place is stiffer than this mean about as the inverse of either number: at 2,410 parameters 615
# times with 16 draws, 168 with 64.
WHOLE_POINTS, WHOLE_SHARE, MOST_GRADIENTS = 256, 0.25, 16384
# Gradients that are in memory at once.
_BLOCK = 2048
# Draws whose scores it is learned from, and numbers that these may take.
MOST_SCORES, NUMBERS = 512, 2**23
# No trajectory is longer than so many quarter turns.
MOST_TURNS = 8.0
# An eigenvalue is kept if it is this many times the edge of the noise's; all are where there are so many draws of each.
_ABOVE_NOISE, _ALL_FROM = 1.2, 8


class Gaussian(Protocol):
    """What the integrator needs of one with precision A."""

    @property
    def mean(self) -> Tensor:
        """(n,)."""

    @property
    def turns(self) -> float:
        """Length of a trajectory in quarter turns."""

    def precision(self, rows: Tensor) -> Tensor:
        """``A x`` for rows x."""

    def inverse(self, rows: Tensor) -> Tensor:
        """``A^-1 x`` for rows x."""

    def deviations(self, generator: torch.Generator, count: int) -> Tensor:
        """Draws (count, n) of ``N(0, A^-1)``."""


@dataclass(frozen=True, eq=False)
class WholeMetric:
    """The Gaussian of a precision that is given in full.

    Attributes:
        matrix: (n, n) A, positive definite.
        mean: (n,).
    """

    # Costs and distances are even about the mean: new after a quarter turn, and the old ones after a half.
    turns: ClassVar[float] = 1.0

    matrix: Tensor
    mean: Tensor

    @cached_property
    def _root(self) -> Tensor:
        found: Tensor = torch.linalg.cholesky(self.matrix.double())
        return found

    @cached_property
    def _inverse(self) -> Tensor:
        found: Tensor = torch.cholesky_inverse(self._root)
        return found.to(self.matrix)

    def precision(self, rows: Tensor) -> Tensor:
        """``A x`` for rows x."""
        return rows @ self.matrix

    def inverse(self, rows: Tensor) -> Tensor:
        """``A^-1 x`` for rows x."""
        return rows @ self._inverse

    def deviations(self, generator: torch.Generator, count: int) -> Tensor:
        """Draws (count, n) of ``N(0, A^-1)``."""
        like = self.matrix
        noise = torch.randn(count, len(like), generator=generator, dtype=like.dtype, device=like.device)
        found: Tensor = torch.linalg.solve_triangular(self._root.T, noise.T.double(), upper=True)
        return found.T.to(like)


def with_points(seen: Correction, points: Tensor, cost: BridgeCost) -> Correction:
    """What was seen, and where (k, n), if there may be a matrix of that curvature."""
    if not cost.draws_curvature or points.shape[1] > LARGEST_WHOLE:
        return seen
    return replace(seen, points=points[:: -(-len(points) // WHOLE_POINTS)].cpu().numpy())


def curvature_pays(seen: Correction, spent: int) -> bool:
    """Whether a rung after one that took so many gradients is worth a matrix of what was seen."""
    return seen.points.size > 0 and spent >= WHOLE_FROM * seen.points.shape[1]


def curvature_metric(cost: BridgeCost, seen: Correction, state: RungState, *, spent: int) -> WholeMetric:
    """The Gaussian of the mean curvature of an ensemble's energy.

    Args:
        cost: C, whose curvature is drawn.
        seen: at which points (m, n) of an ensemble close by.
        state: the ensemble, b and g.
        spent: gradients that the rung took where this was seen.

    Returns:
        The Gaussian; its precision is the mean Fisher times b, and ``g + 1`` of localisation and prior.
    """
    points = torch.as_tensor(seen.points).to(cost.like)
    size = len(cost.like)
    each = max(-(-min(int(WHOLE_SHARE * spent), MOST_GRADIENTS) // len(points)), 1)
    moment, count, block = points.new_zeros(size, size), 0, max(_BLOCK // each, 1)
    for first in range(0, len(points), block):
        draws = cost.curvature_draws(points[first : first + block], each, first)
        draws = draws[draws.isfinite().all(1)]
        moment.addmm_(draws.T, draws)
        count += len(draws)
    matrix = moment.mul_(state.inverse_temperature / max(count, 1))
    matrix.diagonal().add_(state.localisation + 1.0)
    return WholeMetric(matrix, torch.as_tensor(seen.mean).to(cost.like))


@dataclass(frozen=True, eq=False)
class Metric:
    """``A = B^(1/2) C B^(1/2)`` of the model's precision B and the correction C.

    Attributes:
        model: the quadratic ensemble.
        correction: C and the mean.
    """

    model: QuadraticEnsemble
    correction: Correction

    @cached_property
    def mean(self) -> Tensor:
        """(n,)."""
        return torch.as_tensor(self.correction.mean).to(self.model.mean)

    @cached_property
    def _leading(self) -> tuple[Tensor, Tensor]:
        own, device = self.correction, self.model.mean.device
        return torch.as_tensor(own.precisions).to(device), torch.as_tensor(own.vectors).to(device)

    @property
    def turns(self) -> float:
        """Length of a trajectory in quarter turns: so long that the model's own flat directions make one."""
        return float(min(self.correction.rest**0.5, MOST_TURNS))

    def precision(self, rows: Tensor) -> Tensor:
        """``A x`` for rows x."""
        return self.model.power(self._corrected(self.model.power(rows, 0.5), 1.0), 0.5)

    def inverse(self, rows: Tensor) -> Tensor:
        """``A^-1 x`` for rows x."""
        return self.model.power(self._corrected(self.model.power(rows, -0.5), -1.0), -0.5)

    def deviations(self, generator: torch.Generator, count: int) -> Tensor:
        """Draws (count, n) of ``N(0, A^-1)``."""
        like = self.model.mean
        noise = torch.randn(count, len(like), generator=generator, dtype=like.dtype, device=like.device)
        return self.model.power(self._corrected(noise, -0.5), -0.5)

    def _corrected(self, rows: Tensor, exponent: float) -> Tensor:
        """``C^e x`` for rows x."""
        precisions, vectors = self._leading
        return spectral_product(rows, vectors, precisions**exponent, self.correction.rest**exponent)


def learned_correction(points: Tensor, scores: Tensor, model: QuadraticEnsemble) -> Correction:
    """What draws of an ensemble say about its mean curvature.

    Args:
        points: (k, n) draws.
        scores: (k, n) gradients of U at them; those that are not finite say nothing.
        model: the quadratic ensemble that is to be mended.

    Returns:
        The correction.
    """
    seen = model.power(scores[scores.isfinite().all(1)], -0.5).double()
    count, size = seen.shape
    if count < 2:
        return Correction(np.empty(0), scores[:0].cpu().numpy(), 1.0, points.mean(0).cpu().numpy())
    few = count < size
    values, found = torch.linalg.eigh((seen @ seen.T if few else seen.T @ seen) / count)
    values = values.flip(0).clamp(min=0.0).cpu()
    kept, precisions = (size, values) if count >= _ALL_FROM * size else _above_noise(values, count, size)
    leading = found.flip(1)[:, :kept]
    # Rows are orthogonal to rounding; the kinetic energy needs them so to the last digit.
    vectors = torch.linalg.qr(seen.T @ leading if few else leading)[0].T.to(scores.dtype).contiguous()
    rest = float(values.sum() - precisions.sum()) / max(size - kept, 1)
    # Nowhere softer than the model: then steps are no shorter than around that alone, however few draws there are.
    leading_precisions, rows, mean = (
        part.cpu().numpy() for part in (precisions.clamp(min=1.0), vectors, points.mean(0))
    )
    return Correction(leading_precisions, rows, max(rest, 1.0), mean)


def _above_noise(values: Tensor, count: int, size: int) -> tuple[int, Tensor]:
    """How many eigenvalues, descending, of a second moment of draws stand out, and those less their noise."""
    total = float(values.sum())
    noise = (total - values.cumsum(0)) / (count - torch.arange(1, len(values) + 1)).clamp(min=1)
    reduced = (values - noise).clamp(min=0.0)
    for kept in range(len(values) - 1):
        rest = max(total - float(reduced[:kept].sum()), 0.0) / (size - kept)
        edge = rest * (1.0 + math.sqrt((size - kept) / (count - kept))) ** 2
        if float(values[kept]) <= _ABOVE_NOISE * edge:
            return kept, reduced[:kept]
    return len(values) - 1, reduced[:-1]
