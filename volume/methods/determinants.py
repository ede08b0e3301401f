"""The methods that need the spectrum alone, at any number of cutoffs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.density import IndefiniteError, SpectralDensity
from volume.descent import TELL
from volume.method_result import MethodResult, from_determinant, from_mass
from volume.methods.mass_check import held_against_cost
from volume.methods.method import Cutoffs, MethodRow, Sampling
from volume.methods.work import VolumeWork
from volume.quadratic import AnchorMeasure, ellipsoid_volume, quadratic_mass, shifted_determinant
from volume.study import VolumeSettings

SLOPE = "the anchor is no minimum of the cost, and the quadratic basin leaves its slope out"


def determinant_results(
    method: str,
    cutoffs: Sequence[float] | NDArray[np.float64],
    density: SpectralDensity,
    settings: VolumeSettings,
    *,
    standard_deviation: float,
    measure: AnchorMeasure | None,
    log_scale: float = 0.0,
    prior: str = "",
    fall: float = 0.0,
) -> tuple[MethodResult, ...]:
    """What a determinant says at each cutoff.

    Args:
        method: ``quadratic-mass`` or ``shifted-determinant``.
        cutoffs: (q,) T, unit of the cost.
        density: of the curvature, in the units of the prior.
        settings: k and the rule for negative eigenvalues are used.
        standard_deviation: s in those units.
        measure: the anchor's, under a Gaussian prior; else None.
        log_scale: log of the volume of those units.
        prior: its name.
        fall: the most that the cost was seen to fall below the anchor's; cutoffs that it is no small part of get a
            caution.

    Returns:
        One result a cutoff.

    Raises:
        IndefiniteError: if negative eigenvalues are in the way of the method.
        UserError: if something else is, in a sentence.
    """
    rule: dict[str, Any] = {"negative": settings.negative, "log_scale": log_scale}
    masses: Sequence[Any] = [None] * len(cutoffs)
    if measure is not None and (method == "quadratic-mass" or settings.k > 0.0):
        options: dict[str, Any] = {"standard_deviation": standard_deviation, "negative": settings.negative}
        try:
            masses = quadratic_mass(density, measure, cutoffs, **options)
        except IndefiniteError:
            # A shifted determinant may exist where the mass does not; it then has no derived k beside it.
            if method == "quadratic-mass":
                raise
    if method == "quadratic-mass":
        found = [from_mass(mass, prior) for mass in masses]
    elif settings.k == 0.0:
        found = [from_determinant(ellipsoid_volume(density, float(T), **rule)) for T in cutoffs]
    else:
        rule |= {"standard_deviation": standard_deviation, "k": settings.k}
        found = [
            from_determinant(shifted_determinant(density, float(T), mass=mass, **rule))
            for T, mass in zip(cutoffs, masses, strict=True)
        ]
    return tuple(with_slope(one, fall > TELL * T) for one, T in zip(found, cutoffs, strict=True))


def with_slope(result: MethodResult, sloping: bool) -> MethodResult:
    """The result, with the caution of an anchor that is no minimum.

    Args:
        result: of a determinant.
        sloping: whether the anchor is none.

    Returns:
        The result.
    """
    assert result.estimate is not None
    cautions = (*result.estimate.cautions, *((SLOPE,) if sloping else ()))
    return replace(result, estimate=replace(result.estimate, cautions=cautions))


def _at(method: str, work: VolumeWork, cutoffs: Cutoffs) -> tuple[MethodResult, ...]:
    _, measure, s, log_scale = work.units
    return determinant_results(
        method,
        cutoffs,
        work.density,
        work.settings,
        standard_deviation=s,
        measure=measure,
        log_scale=log_scale,
        prior=work.prior.name,
        fall=work.fall,
    )


def _tested(work: VolumeWork, result: MethodResult, sampling: Sampling | None) -> MethodResult:  # noqa: ARG001
    """The quadratic mass with what the true cost is at points typical of it."""
    work.tell(0, 1, "the true cost at typical points of the quadratic mass")
    return held_against_cost(result, work.landscape, work.operator, work.prior, work.settings)


ROWS = (
    MethodRow("shifted-determinant", partial(_at, "shifted-determinant"), shifted=True, colour="green"),
    MethodRow(
        "quadratic-mass",
        partial(_at, "quadratic-mass"),
        finish=_tested,
        gaussian=True,
        mass=True,
        colour="vermillion",
    ),
)
