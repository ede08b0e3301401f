"""What the spectrum and the slope at the checkpoint say of a cell before any chain is run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from comparisons.langevin import (
    LEAST_ACCEPTED,
    RELAXATIONS,
    ChainPrediction,
    expected_acceptance,
    largest_accepted_step,
    predict_chains,
)
from spectra.density import SpectralDensity
from spectra.estimate import Estimate, from_samples

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
        acceptance: share of steps that are accepted; nan of chains that take all of them.
    """

    prediction: ChainPrediction
    fall: float
    acceptance: float = math.nan

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
    """The quadratic model around a checkpoint, its curvature and its slope, and what plain chains make of it.

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

    def _of_another_sampler(
        self,
        place: tuple[float, float],
        step_size: float | None,
        value_of: Callable[[Estimate, float, float], Estimate],
    ) -> CellOutlook:
        """With this class's own limit and burn-in at a temperature and a localisation.

        ``value_of`` makes the value of that without a step, the step size and the limit.
        """
        found = Outlook.at(self, *place)
        plain = found.prediction.value_without_step
        if step_size is None or not math.isfinite(plain.value):
            return Outlook.at(self, *place, step_size)
        nb, pull, step = place[0], np.array(place[1]), np.array(step_size)
        limit, needed = float(self.limits(nb, pull)), float(self.burn_ins(nb, pull, step))
        value = value_of(plain, step_size, limit)
        own = {"value": value, "step_size": step_size, "step_limit": limit, "relaxation": needed / RELAXATIONS}
        return CellOutlook(replace(found.prediction, **own, cautions=value.cautions), found.fall)  # type: ignore[arg-type]

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
        plain, falls = self._without_step(inverse_temperature, localisation)
        with np.errstate(divide="ignore", invalid="ignore"):
            biased = 0.5 * (curvature / (stiffness * np.where(slack > 0.0, slack, np.nan))) @ masses
            return biased + falls, biased / plain - 1.0

    def _without_step(self, inverse_temperature: float, localisation: Array) -> tuple[Array, Array]:
        """Values as the step goes to zero, without the slope, and what that adds, for localisations of any shape."""
        nodes, masses = self.density.measure()
        curvature = inverse_temperature * nodes
        with np.errstate(divide="ignore", invalid="ignore"):
            plain = 0.5 * (curvature / (curvature + localisation[..., None])) @ masses
        return plain, np.vectorize(lambda pull: self.fall(inverse_temperature, pull), otypes=[float])(localisation)


class AcceptedOutlook(Outlook):
    """The same of chains whose steps are accepted or rejected: the step adds nothing, it is only taken less often.

    Their limit is the step of which a fifth is accepted, or ``4 / a_max`` where that is less.
    """

    def at(self, inverse_temperature: float, localisation: float, step_size: float | None = None) -> CellOutlook:
        """What is predicted for one setting; without a step size only what does not depend on it."""
        found = self._of_another_sampler((inverse_temperature, localisation), step_size, lambda plain, *_: plain)
        if step_size is None:
            return found
        return replace(found, acceptance=self.acceptance(inverse_temperature, localisation, step_size))

    def acceptance(self, inverse_temperature: float, localisation: float, step_size: float) -> float:
        """The share of steps that is accepted; nan where no distribution is bound."""
        stiffness, masses = self._stiffness(inverse_temperature, localisation)
        return expected_acceptance(stiffness, masses, step_size) if stiffness[0] > 0.0 else math.nan

    def limits(self, inverse_temperature: float, localisation: Array) -> Array:
        """The step size from which less than a fifth of steps is accepted, for localisations of any shape."""
        usual = super().limits(inverse_temperature, localisation)
        found = {}
        for pull in np.unique(localisation):
            stiffness, masses = self._stiffness(inverse_temperature, float(pull))
            bound = stiffness[0] > 0.0
            found[float(pull)] = largest_accepted_step(stiffness, masses, LEAST_ACCEPTED) if bound else math.inf
        least = np.vectorize(lambda pull: found[float(pull)], otypes=[float])(localisation)
        return np.asarray(np.minimum(usual, least))

    def burn_ins(self, inverse_temperature: float, localisation: Array, step_size: Array) -> Array:
        """Steps of burn-in, those that are rejected included, for localisations and step sizes of one shape."""
        taken = np.vectorize(lambda g, e: self.acceptance(inverse_temperature, float(g), float(e)), otypes=[float])
        with np.errstate(divide="ignore", invalid="ignore"):
            found = super().burn_ins(inverse_temperature, localisation, step_size) / taken(localisation, step_size)
        return np.asarray(np.nan_to_num(found, nan=np.inf, posinf=np.inf))

    def values(self, inverse_temperature: float, localisation: Array, step_size: Array) -> tuple[Array, Array]:
        """Predicted values, and the share that the step adds, which is zero."""
        plain, falls = self._without_step(inverse_temperature, localisation)
        return plain + falls, np.zeros(np.broadcast(localisation, step_size).shape)

    def _stiffness(self, inverse_temperature: float, localisation: float) -> tuple[Array, Array]:
        nodes, masses = self.density.measure()
        return inverse_temperature * nodes + localisation, masses


@dataclass(frozen=True, eq=False)
class Metric:
    """The spectrum of ``M = F^(1/2) (nb H + g) F^(1/2)`` at each temperature and localisation of a grid.

    Attributes:
        inverse_temperatures: (t,) nb, ascending.
        localisations: (l,) g, ascending.
        nodes: (t, l, probes, nodes) Ritz values of M, 1 / parameter².
        masses: (t, l, probes, nodes) signed masses of ``tr(nb F^(1/2) H F^(1/2) f(M))``, 1 / parameter².
        ends: (t, l, 2) ends of the spectrum of M: outer bounds, where these leave it positive.
        factors: (t, l, 2) the least factor and their mean; the largest is one.
        exact: whether the masses are free of the probes' error.
    """

    inverse_temperatures: Array
    localisations: Array
    nodes: Array
    masses: Array
    ends: Array
    factors: Array
    exact: bool

    def factors_at(self, inverse_temperature: float, localisation: float) -> tuple[float, float]:
        """The least factor and their mean at a temperature and a localisation of the grid."""
        least, mean = self.factors[self._warm(inverse_temperature), self._pull(localisation)]
        return float(least), float(mean)

    def added(self, inverse_temperature: float, localisation: float, step_size: float) -> Estimate:
        """``e/8 tr(nb F^(1/2) H F^(1/2) (1 - e M / 4)^-1)``, what a step below the limit adds to the value."""
        place = self._warm(inverse_temperature), self._pull(localisation)
        samples = _added(self.nodes[place], self.masses[place], np.array(step_size))
        return Estimate(float(samples.mean())) if self.exact else from_samples(samples)

    def between(self, inverse_temperature: float, localisation: Array, of: Callable[[int, int], Array]) -> Array:
        """A quantity of a place of the grid at localisations of any shape, linear in their logarithm between places."""
        logs, at = np.log(self.localisations), np.log(localisation)
        warm, last = self._warm(inverse_temperature), len(logs) - 1
        below = np.clip(np.searchsorted(logs, at, side="right") - 1, 0, max(last - 1, 0))
        above = np.minimum(below + 1, last)
        gap = np.where(above > below, logs[above] - logs[below], 1.0)
        share = np.clip((at - logs[below]) / gap, 0.0, 1.0)
        table = np.stack([np.broadcast_to(of(warm, pull), at.shape) for pull in range(last + 1)])
        low, high = (np.take_along_axis(table, place[None], 0)[0] for place in (below, above))
        # At a place itself its own number to the last digit, and no product of a share of zero with infinity.
        return np.asarray(np.where(share <= 0.0, low, np.where(share >= 1.0, high, low + share * (high - low))))

    def _warm(self, inverse_temperature: float) -> int:
        return int(np.abs(np.log(self.inverse_temperatures / inverse_temperature)).argmin())

    def _pull(self, localisation: float) -> int:
        return int(np.abs(np.log(self.localisations / localisation)).argmin())


def _added(nodes: Array, masses: Array, step_size: Array) -> Array:
    """(probes, ...) what steps of any shape add by each probe; nan past a node's limit."""
    steps = step_size[..., None, None]
    slack = 1.0 - 0.25 * steps * nodes
    found = 0.125 * steps * masses / np.where(slack > 0.0, slack, np.nan)
    return np.moveaxis(found.sum(-1), -1, 0)


@dataclass(frozen=True, eq=False)
class PreconditionedOutlook(Outlook):
    """The quadratic model of chains ``dx = -(e/2) F (nb grad L + g x) + N(0, e F)``, for a grid of settings.

    F changes nothing of the value as the step goes to zero; step limit, bias and burn-in are those of M.

    Attributes:
        metric: M at the temperatures and localisations of the grid.
    """

    metric: Metric

    def at(self, inverse_temperature: float, localisation: float, step_size: float | None = None) -> CellOutlook:
        """What is predicted for a setting of the grid; without a step size only what does not depend on it."""

        def value(plain: Estimate, step: float, limit: float) -> Estimate:
            if step >= limit:
                return Estimate(math.inf)
            more = self.metric.added(inverse_temperature, localisation, step)
            error = math.hypot(plain.standard_error, more.standard_error)
            return Estimate(plain.value + more.value, error, plain.truncation_error, cautions=plain.cautions)

        return self._of_another_sampler((inverse_temperature, localisation), step_size, value)

    def limits(self, inverse_temperature: float, localisation: Array) -> Array:
        """The step size from which chains diverge, ``4 / m_max``, for localisations of any shape."""
        ends = self.metric.ends
        return 4.0 / self.metric.between(inverse_temperature, localisation, lambda warm, pull: ends[warm, pull, 1])

    def burn_ins(self, inverse_temperature: float, localisation: Array, step_size: Array) -> Array:
        """Steps of burn-in for localisations and step sizes of one shape; inf where a direction is not bound."""
        ends = self.metric.ends
        found = self.metric.between(inverse_temperature, localisation, lambda warm, pull: ends[warm, pull, 0])
        with np.errstate(divide="ignore"):
            return np.asarray(RELAXATIONS * 2.0 / (step_size * np.maximum(found, 0.0)))

    def values(self, inverse_temperature: float, localisation: Array, step_size: Array) -> tuple[Array, Array]:
        """Predicted values, and the share that the step adds, for localisations and step sizes of one shape."""
        plain, falls = self._without_step(inverse_temperature, localisation)
        metric = self.metric

        def added(*at: int) -> Array:
            return np.asarray(_added(metric.nodes[at], metric.masses[at], step_size).mean(0))

        more = metric.between(inverse_temperature, localisation, added)
        with np.errstate(divide="ignore", invalid="ignore"):
            return plain + more + falls, more / plain


def outlook_of(sampler: str, density: SpectralDensity, slope: Slope, metric: Metric | None) -> Outlook:
    """What the spectrum says of chains of a sampler; ``rmsprop`` needs its metric."""
    if metric is not None:
        return PreconditionedOutlook(density, slope, metric)
    return (AcceptedOutlook if sampler == "mala" else Outlook)(density, slope)


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
