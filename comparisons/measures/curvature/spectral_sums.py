"""Measures read from the spectrum of the Gauss-Newton matrix: determinants, effective dimensions, ranks."""

from __future__ import annotations

import math

import numpy as np

from comparisons.evidence import (
    GRADIENTS_PER_PRODUCT,
    Evidence,
    Extent,
    basin_mass,
    gauss_newton_density,
    prior_width,
)
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures import combined, not_zero, ratio
from comparisons.options import CUTOFF, PRIOR, SHIFT
from spectra.errors import UserError


def log_determinant(evidence: Evidence, *, k: float | None = None, prior: float | None = None) -> Reading:
    """``log det(I + G / c)``, ``c = k / s^2``: the primer's shifted determinant in units of its shift."""
    number = k or evidence.settings.k
    shift = number / (prior or prior_width(evidence)) ** 2
    estimate = gauss_newton_density(evidence).logdet(shift, relative=True)
    return reading_of(estimate, details={"shift": shift, "k": number})


def log_determinant_derived(evidence: Evidence, *, cutoff: float | None = None, prior: float | None = None) -> Reading:
    """The same with the shift that the mass of the quadratic basin derives at the cutoff."""
    mass = basin_mass(evidence, cutoff, prior)
    if not math.isfinite(mass.shift):
        raise UserError(f"the cutoff {mass.cutoff:g} is not below the mean cost under the prior: no shift is derived")
    estimate = gauss_newton_density(evidence).logdet(mass.shift, relative=True)
    return reading_of(estimate, details={"shift": mass.shift, "k": mass.derived_k})


def quadratic_basin_mass(evidence: Evidence, *, cutoff: float | None = None, prior: float | None = None) -> Reading:
    """``log Pr[1/2 x^T G x <= T]`` under ``theta ~ N(0, s^2 I)``: the larger, the flatter."""
    mass = basin_mass(evidence, cutoff, prior)
    return reading_of(mass.log_mass, details={"derived k": mass.derived_k, "cutoff": mass.cutoff})


def effective_dimension(evidence: Evidence, *, prior: float | None = None) -> Reading:
    """``sum_i l_i / (l_i + c)``, ``c = 1 / (N s^2)``: parameters that N samples determine beside the prior.

    The Gauss-Newton matrix is that of the mean cost, so the prior's precision ``1 / s^2`` is divided by N.
    """
    shift = 1.0 / (evidence.landscape.samples * (prior or prior_width(evidence)) ** 2)
    return reading_of(gauss_newton_density(evidence).effective_dimension(shift), details={"shift": shift})


def participation_ratio(evidence: Evidence) -> Reading:
    """``(tr G)^2 / tr G^2``: how many equal eigenvalues would have these moments."""
    density = gauss_newton_density(evidence)
    size = float(density.size)
    first, second = density.trace(), not_zero(density.moment(2))
    # Between one and the rank, of a matrix without negative eigenvalues.
    lowest = 1.0 if density.semidefinite else 0.0
    return combined(lambda a, b: ratio(a**2, b), first, second, lowest=lowest, highest=size)


def effective_rank(evidence: Evidence) -> Reading:
    """``exp(-sum_i p_i log p_i)``, ``p_i = l_i / tr G``: the exponential of the spectrum's entropy."""
    density = gauss_newton_density(evidence)

    def rank(whole: float, entropy: float) -> float:
        return whole * math.exp(-entropy / whole) if whole > 0.0 else math.nan

    # With t = tr G: -sum p log p = log t - (sum l log l) / t.
    entropy = density.integrate(lambda x: np.where(x > 0.0, x * np.log(np.where(x > 0.0, x, 1.0)), 0.0))
    return combined(rank, not_zero(density.trace()), entropy, lowest=1.0, highest=float(density.size))


def _spectrum(extent: Extent, _: object) -> dict[str, float]:
    return extent.spectrum("gauss-newton")


def _with_anchor(extent: Extent, _: object) -> dict[str, float]:
    steps = min(2 * extent.settings.steps, extent.size)
    return {**extent.spectrum("gauss-newton"), "anchor-measure": GRADIENTS_PER_PRODUCT * steps}


_SCALE = frozenset({"permutation", "parameter-scale"})
_NEEDS = ("likelihood", "gauss-newton")
_FAMILY = "curvature"

MEASURES = (
    Measure(
        "log-determinant",
        "log det(I + G/c), c = k/s²",
        _FAMILY,
        "nat",
        "MacKay 1992",
        "smaller",
        _SCALE,
        _NEEDS,
        log_determinant,
        extensive=True,
        options=(SHIFT, PRIOR),
        work=_spectrum,
    ),
    Measure(
        "log-determinant-derived",
        "log det(I + G/c), derived k",
        _FAMILY,
        "nat",
        "Lugannani and Rice 1980",
        "smaller",
        _SCALE,
        _NEEDS,
        log_determinant_derived,
        extensive=True,
        options=(CUTOFF, PRIOR),
        work=_with_anchor,
    ),
    Measure(
        "effective-dimension",
        "effective dimension, c = 1/(N s²)",
        _FAMILY,
        "1",
        "MacKay 1992",
        "smaller",
        _SCALE,
        _NEEDS,
        effective_dimension,
        options=(PRIOR,),
        work=_spectrum,
    ),
    Measure(
        "participation-ratio",
        "participation ratio",
        _FAMILY,
        "1",
        "ratio of moments",
        "smaller",
        _SCALE,
        _NEEDS,
        participation_ratio,
        work=_spectrum,
    ),
    Measure(
        "effective-rank",
        "effective rank (entropy)",
        _FAMILY,
        "1",
        "Roy and Vetterli 2007",
        "smaller",
        _SCALE,
        _NEEDS,
        effective_rank,
        work=_spectrum,
    ),
    Measure(
        "quadratic-mass",
        "log mass of quadratic basin",
        _FAMILY,
        "nat",
        "Lugannani and Rice 1980",
        "larger",
        _SCALE,
        _NEEDS,
        quadratic_basin_mass,
        extensive=True,
        options=(CUTOFF, PRIOR),
        work=_with_anchor,
    ),
)
