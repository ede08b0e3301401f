"""What the spectrum says of a Langevin run before it is made: its value, its step limit, its bias, its burn-in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from comparisons.sharpness_result import positive
from spectra.density import SpectralDensity, for_shift
from spectra.errors import UserError
from spectra.estimate import Estimate

# The automatic step size as a share of the limit, with which the stiffest direction is biased by 5 %.
SHARE_OF_LIMIT = 0.05
# The automatic burn-in in relaxation times: e^-5 of the start is left.
RELAXATIONS = 5.0
# Share of the value that the step alone may add unsaid: twice what the automatic step adds at most.
LARGEST_BIAS = 0.1


@dataclass(frozen=True, eq=False)
class ChainPrediction:
    """What a Langevin run gives on the quadratic, before it is made.

    Attributes:
        value: ``nb (E L - L*)`` at this step size.
        value_without_step: the same as the step size goes to zero: half the effective dimension.
        step_size: e that is predicted for.
        step_limit: ``4 / a_max``; from there on a run diverges.
        relaxation: ``2 / (e a_min)`` steps, of the slowest direction; inf if some direction is not bound.
        cautions: sentences on why a run is not to be made like that.
    """

    value: Estimate
    value_without_step: Estimate
    step_size: float
    step_limit: float
    relaxation: float
    cautions: tuple[str, ...] = ()

    @property
    def burn_in(self) -> int:
        """Steps after which a start at the checkpoint is forgotten."""
        if not math.isfinite(self.relaxation):
            raise UserError(
                "no burn-in suffices: some direction of negative curvature is not bound; raise localisation"
            )
        return math.ceil(RELAXATIONS * self.relaxation)


def half_effective_dimension(density: SpectralDensity, *, inverse_temperature: float, localisation: float) -> Estimate:
    """``1/2 sum nb h / (nb h + g)``: the learning coefficient that sampling finds on a quadratic.

    Args:
        density: spectral density of the Hessian of the mean cost, h.
        inverse_temperature: nb, samples times inverse temperature.
        localisation: g, positive.

    Returns:
        The estimate; without unit.

    Raises:
        UserError: if a setting is not positive, or some ``nb h`` is below -g.

    >>> flat = SpectralDensity.from_eigenvalues(np.array([1.0, 0.0]))
    >>> half_effective_dimension(flat, inverse_temperature=3.0, localisation=1.0).value
    0.375
    """
    positive(inverse_temperature=inverse_temperature, localisation=localisation)
    found = density.effective_dimension(localisation / inverse_temperature)
    return found.transform(lambda x: 0.5 * x, lambda _: 0.5)


def predict_chains(
    density: SpectralDensity,
    *,
    inverse_temperature: float,
    localisation: float,
    step_size: float | None = None,
) -> ChainPrediction:
    r"""``1/2 sum nb h / (a (1 - e a / 4))``, ``a = nb h + g``; stable for ``e < 4 / a_max``.

    The density is of the Hessian h of the mean cost; the step size e is by default a twentieth of the limit.

    >>> found = predict_chains(
    ...     SpectralDensity.from_eigenvalues(np.array([1.0, 1.0])), inverse_temperature=3.0, localisation=1.0
    ... )
    >>> found.value_without_step.value, found.step_limit, round(found.value.value, 4)
    (0.75, 1.0, 0.7895)
    """
    positive(inverse_temperature=inverse_temperature, localisation=localisation)
    low, high = (inverse_temperature * end + localisation for end in density.outer_support)
    limit = 4.0 / max(high, localisation)
    step = SHARE_OF_LIMIT * limit if step_size is None else step_size
    positive(step_size=step)
    cautions = []
    if step >= limit:
        cautions.append(
            f"step_size {step:.3g} is at or past the limit {limit:.3g} that the largest eigenvalue sets: the chains "
            f"diverge; use {SHARE_OF_LIMIT * limit:.2g}"
        )
    nodes_low = inverse_temperature * density.support[0] + localisation
    if nodes_low <= 0.0:
        cautions.append(
            f"the curvature is negative beyond the localisation {localisation:.3g} (lowest nb h + g {nodes_low:.3g}): "
            f"the quadratic has no stationary distribution; raise localisation above {localisation - nodes_low:.3g}"
        )
    if cautions:
        nothing = Estimate(math.inf, cautions=tuple(cautions))
        relaxation = math.inf if nodes_low <= 0.0 else 2.0 / (step * nodes_low)
        plain = nothing if nodes_low <= 0.0 else _half(density, inverse_temperature, localisation)
        return ChainPrediction(nothing, plain, step, limit, relaxation, tuple(cautions))

    def biased(x: np.ndarray) -> np.ndarray:
        a = inverse_temperature * x + localisation
        return 0.5 * inverse_temperature * x / (a * (1.0 - 0.25 * step * a))

    value, plain = density.integrate(biased), _half(density, inverse_temperature, localisation)
    return ChainPrediction(
        value,
        plain,
        step,
        limit,
        # An outer bound below zero only says that the lowest node is not sharp.
        2.0 / (step * (low if low > 0.0 else nodes_low)),
        _bias(value.value, plain.value, step, limit),
    )


def _bias(value: float, plain: float, step: float, limit: float) -> tuple[str, ...]:
    added = (value - plain) / abs(plain) if plain else 0.0
    if abs(added) <= LARGEST_BIAS:
        return ()
    words = f"step_size {step:.3g} alone changes the value by {added:+.0%} (the limit is {limit:.3g})"
    return (f"{words}; use {SHARE_OF_LIMIT * limit:.2g}",)


def _half(density: SpectralDensity, inverse_temperature: float, localisation: float) -> Estimate:
    """Half the effective dimension; no dimension, but what chains say, where bound negative curvature outweighs."""
    shift = localisation / inverse_temperature
    return density.integrate(lambda x: 0.5 * x / (x + shift), cautions=for_shift(density, shift, "raise"))
