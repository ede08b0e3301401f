"""What the spectrum and the slope at the checkpoint say of a cell before any chain is run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from comparisons.langevin import RELAXATIONS, ChainPrediction, predict_chains
from spectra.density import SpectralDensity

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Slope:
    """The gradient b at the checkpoint, ``sum_i b_i^2 delta(h - h_i)`` over the Hessian's eigenvalues, by quadrature.

    Attributes:
        nodes: (k,) eigenvalues or Ritz values, unit of the cost / parameter².
        masses: (k,) squared components, squared unit of the cost / parameter²; they sum to ``|b|^2``.
    """

    nodes: Array
    masses: Array


@dataclass(frozen=True, eq=False)
class CellOutlook:
    """What a quadratic with a slope predicts for chains of one setting.

    Attributes:
        prediction: what it predicts for the curvature alone: value, step limit, relaxation.
        fall: what the slope at the checkpoint adds to the value, zero or negative: chains drift below the checkpoint.
    """

    prediction: ChainPrediction
    fall: float

    @property
    def value(self) -> float:
        """``nb (E L - L*)`` at this step size; inf where chains diverge, nan where no distribution is bound."""
        return self.prediction.value.value + self.fall if math.isfinite(self.fall) else math.nan

    @property
    def plain(self) -> float:
        """The value of a checkpoint without slope as the step goes to zero: half the effective dimension."""
        return self.prediction.value_without_step.value

    @property
    def bias(self) -> float:
        """Share of the value that the step size adds (Euler)."""
        return self.prediction.value.value / self.plain - 1.0 if self.plain > 0.0 else math.nan

    @property
    def lowered(self) -> float:
        """Share of the value that the slope takes away; inf where no distribution is bound."""
        return -self.fall / self.plain if self.plain > 0.0 and math.isfinite(self.plain) else math.inf

    @property
    def burn_in(self) -> float:
        """Steps after which the start is forgotten; inf where some direction is not bound."""
        bound = math.isfinite(self.prediction.relaxation)
        return float(self.prediction.burn_in) if bound else math.inf


@dataclass(frozen=True, eq=False)
class Outlook:
    """The quadratic model around a checkpoint: its curvature and its slope.

    Attributes:
        density: spectral density of the Hessian of the cost that is sampled.
        slope: the gradient at the checkpoint as a measure on the eigenvalues of that Hessian.
    """

    density: SpectralDensity
    slope: Slope

    def at(self, inverse_temperature: float, localisation: float, step_size: float | None = None) -> CellOutlook:
        """What is predicted for one setting; without a step size for that which the spectrum would take."""
        found = predict_chains(
            self.density, inverse_temperature=inverse_temperature, localisation=localisation, step_size=step_size
        )
        return CellOutlook(found, self.fall(inverse_temperature, localisation))

    def fall(self, inverse_temperature: float, localisation: float) -> float:
        r"""``-nb^2/2 sum_i b_i^2 (nb h_i + 2 g) / (nb h_i + g)^2``, b the gradient: what the slope adds to the value.

        On ``L - L* = b x + x h x / 2`` the mean of x moves to ``-nb b / (nb h + g)``, whatever the step size.

        >>> flat = Outlook(SpectralDensity.from_eigenvalues(np.array([1.0])), Slope(np.ones(1), np.ones(1)))
        >>> flat.fall(1.0, 1.0)
        -0.375
        """
        nb, g = inverse_temperature, localisation
        stiffness = nb * self.slope.nodes + g
        if np.any(stiffness <= 0.0):
            return -math.inf
        return float(-0.5 * nb**2 * np.sum(self.slope.masses * (stiffness + g) / stiffness**2))

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Outer bounds of the Hessian's spectrum, unit of the cost / parameter²."""
        return self.density.outer_support

    def limits(self, inverse_temperature: float, localisation: Array) -> Array:
        """The step size from which chains diverge, ``4 / a_max``, for localisations of any shape."""
        return 4.0 / np.maximum(inverse_temperature * self.ends[1] + localisation, localisation)

    def burn_ins(self, inverse_temperature: float, localisation: Array, step_size: Array) -> Array:
        """Steps of burn-in for localisations and step sizes of one shape; inf where a direction is not bound."""
        low = inverse_temperature * self.ends[0] + localisation
        inner = inverse_temperature * self.density.support[0] + localisation
        low = np.where(low > 0.0, low, inner)
        with np.errstate(divide="ignore"):
            return np.where(low > 0.0, RELAXATIONS * 2.0 / (step_size * np.maximum(low, 0.0)), np.inf)

    def values(self, inverse_temperature: float, localisation: Array, step_size: Array) -> tuple[Array, Array]:
        """Predicted values, and the share that the step adds, for localisations and step sizes of one shape.

        They are nan past the limit.
        """
        nodes, masses = self.density.measure()
        curvature = inverse_temperature * nodes
        stiffness = curvature + localisation[..., None]
        slack = 1.0 - 0.25 * step_size[..., None] * stiffness
        with np.errstate(divide="ignore", invalid="ignore"):
            plain = 0.5 * (curvature / stiffness) @ masses
            biased = 0.5 * (curvature / (stiffness * np.where(slack > 0.0, slack, np.nan))) @ masses
            falls = np.vectorize(lambda pull: self.fall(inverse_temperature, pull), otypes=[float])(localisation)
            return biased + falls, biased / plain - 1.0


def with_penalty(density: SpectralDensity, l2: float) -> SpectralDensity:
    """The density of ``H + l2 I``, of which Lanczos makes the same coefficients but for the shift.

    >>> with_penalty(SpectralDensity.from_eigenvalues(np.array([1.0, 3.0])), 0.5).support
    (1.5, 3.5)
    """
    if l2 == 0.0:
        return density
    runs, known = density.runs, density.deflation
    moved = replace(known, nodes=known.nodes + l2, coarse_nodes=known.coarse_nodes + l2)
    return replace(density, runs=replace(runs, diagonal=runs.diagonal + l2), deflation=moved)
