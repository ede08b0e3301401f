"""Where the paraboloid breaks: the largest cutoff at which the cost is still what its curvature says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.curvature_density import curvature_density, curvature_name
from volume.noise import cost_noise
from volume.prior_units import prior_units
from volume.priors import GaussianPrior
from volume.quadratic import BasinGaussian, anchor_measure, cost_ratios, quadratic_mass

Array = NDArray[np.float64]
DIRECTIONS = ("mass", "sphere")
TOLERANCE = 0.1
BOOTSTRAPS = 1000
LOWEST, HIGHEST, A_DECADE = 1e-6, 1e3, 4
# Below this many noises a ratio of costs is off by a percent and more.
_NOISES = 100.0


@dataclass(frozen=True, eq=False)
class ParaboloidBreak:
    """Costs over what the quadratic model says, along directions typical of its mass at each cutoff.

    Attributes:
        cutoffs: (q,) T of the quadratic model, unit of the cost, ascending.
        ratios: (q, k) ``C(theta* + r u) / T`` where ``1/2 r^2 u^T H u = T``; a column is one draw, the same normal
            deviate at all cutoffs.
        tolerance: by how much the median ratio may differ from one.
        curvature: name of H.
        directions: ``mass`` or ``sphere``.
    """

    cutoffs: Array
    ratios: Array
    tolerance: float
    curvature: str
    directions: str = "mass"

    @property
    def medians(self) -> Array:
        """(q,) median ratios."""
        return np.asarray(np.median(self.ratios, axis=1))

    @property
    def cutoff(self) -> float:
        """The break: inf if the median ratio stays within the tolerance at all cutoffs, 0 if it is outside at all.

        Between cutoffs it is interpolated in log T, linear in the median's distance from one.
        """
        return _crossing(self.cutoffs, self.medians, self.tolerance)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the break by bootstrap over the draws.

        Args:
            level: in (0, 1).

        Returns:
            Lower and upper end; inf and 0 as for ``cutoff``.

        Raises:
            UserError: if the level is not in (0, 1).
        """
        if not 0.0 < level < 1.0:
            raise UserError(f"level must lie in (0, 1), got {level}")
        draws = self.ratios.shape[1]
        picks = np.random.default_rng(0).integers(0, draws, (BOOTSTRAPS, draws))
        found = [_crossing(self.cutoffs, np.median(self.ratios[:, pick], axis=1), self.tolerance) for pick in picks]
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        return float(low), float(high)

    @property
    def verdict(self) -> str:
        """One sentence."""
        where = "typical of the quadratic mass" if self.directions == "mass" else "uniform on the prior's sphere"
        share = f"{self.tolerance:.0%}"
        within = f"along directions {where} the median cost stays within {share} of what the {self.curvature} says"
        ends = f"{self.cutoffs[0]:.3g} to {self.cutoffs[-1]:.3g}"
        if math.isinf(self.cutoff):
            return f"{within} at all cutoffs looked at, {ends}: no break was found"
        if self.cutoff == 0.0:
            return (
                f"along directions {where} the paraboloid is broken at the lowest cutoff looked at already, "
                f"{self.cutoffs[0]:.3g}: the median cost is {self.medians[0]:.3g} times what the {self.curvature} says"
            )
        low, high = self.interval()
        least = f"{low:.3g}" if low > 0.0 else "below all"
        most = f"{high:.3g}" if math.isfinite(high) else "beyond all"
        known = f"95 % interval by bootstrap over the draws: {least} to {most}"
        return f"{within} up to the cutoff {self.cutoff:.3g} ({known}; looked at {ends})"


def _crossing(cutoffs: Array, medians: Array, tolerance: float) -> float:
    gaps = np.where(np.isfinite(medians), np.abs(medians - 1.0), np.inf)
    outside = np.flatnonzero(gaps > tolerance)
    if len(outside) == 0:
        return math.inf
    first = int(outside[0])
    if first == 0:
        return 0.0
    before, after = gaps[first - 1], gaps[first]
    share = (tolerance - before) / (after - before) if math.isfinite(after) else 0.0
    low, high = np.log(cutoffs[first - 1 : first + 1])
    return float(np.exp(low + share * (high - low)))


def paraboloid_break(
    landscape: Landscape,
    prior: GaussianPrior,
    *,
    cutoffs: Array | None = None,
    draws: int = 64,
    tolerance: float = TOLERANCE,
    directions: str = "mass",
    settings: SpectrumSettings | None = None,
    operator: SymmetricOperator | None = None,
) -> ParaboloidBreak:
    r"""Compares the cost with its quadratic model along directions typical of the model's mass.

    At each cutoff T displacements are drawn from the quadratic model's Gaussian, of precision ``b H + 1/s^2`` and mean
    towards the prior's centre, with the b at which its mean cost is T (the saddle of ``quadratic_mass``): what a point
    of the basin's mass at T looks like, not what a direction drawn on a sphere does. Each is scaled to a quadratic cost
    of exactly T, and the true cost above the anchor's is divided by T. Such points lie far out in the flat
    directions, which hold nearly all of the mass; ``directions="sphere"`` takes deviates of the prior itself instead,
    those of a sampler without preconditioner, along which steep eigenvalues decide and the paraboloid holds longer.

    Args:
        landscape: the cost, of size n.
        prior: Gaussian.
        cutoffs: (q,) ascending; default four a decade from 1e-6, or from where rounding noise is a percent, to 1e3, or
            to half of the mean quadratic cost under the prior, past which the basin holds most of the prior.
        draws: number of displacements at each cutoff.
        tolerance: by how much the median ratio may differ from one.
        directions: ``mass`` or ``sphere``.
        settings: of the spectrum; its operator is not used. Default that of 8 probes and 128 steps.
        operator: H; default the curvature that determinants use.

    Returns:
        The ratios, and where they leave the tolerance.

    Raises:
        UserError: if a number is out of its range, or no cutoff is left to look at.
    """
    if draws < 2 or not tolerance > 0.0:
        raise UserError(f"draws must be at least 2 and tolerance positive, got {draws} and {tolerance:g}")
    if directions not in DIRECTIONS:
        raise UserError(f"directions must be one of {', '.join(DIRECTIONS)}; got {directions!r}")
    settings = settings or SpectrumSettings(operator=curvature_name(landscape), probes=8, steps=128)
    curvature = operator or make_operator(landscape, settings)
    scale = prior.scale(landscape.size).to(landscape.device)
    inner, theta, s = prior_units(curvature, landscape.theta, scale)
    measure = anchor_measure(inner, theta.to(inner.dtype), 2 * settings.steps)
    density = curvature_density(inner, settings)
    mean = quadratic_mass(density, measure, 1.0, standard_deviation=s, negative="clip")[0].mean_cost
    wanted = _ladder(cost_noise(landscape), mean) if cutoffs is None else np.asarray(cutoffs, dtype=np.float64)
    wanted = wanted[wanted < mean]
    if len(wanted) == 0:
        raise UserError(f"no cutoff is below the mean quadratic cost {mean:.3g} under the prior: nothing to look at")
    masses = quadratic_mass(density, measure, wanted, standard_deviation=s, negative="clip")
    unit = scale if inner is not curvature else None
    typical = BasinGaussian(inner, theta, steps=settings.steps, seed=settings.seed)
    ratios = np.empty((len(wanted), draws))
    for first, block in typical.blocks(draws):
        for place, mass in enumerate(masses):
            found = block.displacements(mass.shift, -mass.saddle) if directions == "mass" else block.deviates
            ratios[place, first : first + len(found)] = cost_ratios(landscape, curvature, found, mass.cutoff, unit)
    return ParaboloidBreak(wanted, ratios, tolerance, curvature.name, directions)


def _ladder(noise: float, mean: float) -> Array:
    """Four cutoffs a decade between the noise and the mean cost under the prior."""
    low, high = max(LOWEST, _NOISES * noise), min(HIGHEST, mean / 2.0)
    if not low < high:
        return np.empty(0)
    return np.geomspace(low, high, max(2, math.ceil(A_DECADE * math.log10(high / low)) + 1))
