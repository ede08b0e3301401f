"""The methods that need the spectrum alone: the Gaussian mass of the quadratic basin, and the shifted determinant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from spectra.density import IndefiniteError
from volume.descent import TELL
from volume.method_result import MethodResult
from volume.methods.mass_check import held_against_cost
from volume.methods.method import Cutoffs, MethodRow, Sampling
from volume.methods.work import VolumeWork
from volume.quadratic import DeterminantVolume, QuadraticMass, ellipsoid_volume, quadratic_mass, shifted_determinant

SLOPE = "the anchor is no minimum of the cost, and the quadratic basin leaves its slope out"


def with_slope(work: VolumeWork, cutoffs: Cutoffs, results: Sequence[MethodResult]) -> tuple[MethodResult, ...]:
    """The results at these cutoffs, with the caution of an anchor that is no minimum where it matters."""
    found = []
    for result, cutoff in zip(results, cutoffs, strict=True):
        assert result.estimate is not None
        cautions = (*result.estimate.cautions, *((SLOPE,) if work.fall > TELL * cutoff else ()))
        found.append(replace(result, estimate=replace(result.estimate, cautions=cautions)))
    return tuple(found)


def _masses(work: VolumeWork, cutoffs: Cutoffs) -> tuple[QuadraticMass, ...]:
    _, measure, s, _ = work.units
    assert measure is not None
    return quadratic_mass(work.density, measure, cutoffs, standard_deviation=s, negative=work.settings.negative)


def _quadratic_mass(work: VolumeWork, cutoffs: Cutoffs) -> tuple[MethodResult, ...]:
    return with_slope(work, cutoffs, [_of_mass(mass, work.prior.name) for mass in _masses(work, cutoffs)])


def _of_mass(mass: QuadraticMass, measure: str) -> MethodResult:
    figures = {
        "derived_k": mass.derived_k,
        "shift": mass.shift,
        "effective_dimension": mass.effective_dimension.value,
        "mean_cost": mass.mean_cost,
        "standard_deviation": mass.standard_deviation,
        "approximation_error": mass.approximation_error,
        "negative_count": mass.negative_count,
    }
    return MethodResult("quadratic-mass", measure, estimate=mass.log_mass, figures=figures)


def _tested(work: VolumeWork, result: MethodResult, sampling: Sampling | None) -> MethodResult:  # noqa: ARG001
    """The quadratic mass with what the true cost is at points typical of it."""
    work.tell(0, 1, "the true cost at typical points of the quadratic mass")
    return held_against_cost(result, work.landscape, work.operator, work.prior, work.settings)


def _shifted_determinant(work: VolumeWork, cutoffs: Cutoffs) -> tuple[MethodResult, ...]:
    _, measure, s, log_scale = work.units
    k, rule = work.settings.k, {"negative": work.settings.negative, "log_scale": log_scale}
    masses: Sequence[QuadraticMass | None] = [None] * len(cutoffs)
    if measure is not None and k > 0.0:
        # The determinant may exist where the mass does not; it then has no derived k beside it.
        with suppress(IndefiniteError):
            masses = _masses(work, cutoffs)

    def volume(cutoff: float, mass: QuadraticMass | None) -> DeterminantVolume:
        options: dict[str, Any] = rule
        if k == 0.0:
            return ellipsoid_volume(work.density, cutoff, **options)
        return shifted_determinant(work.density, cutoff, standard_deviation=s, k=k, mass=mass, **options)

    volumes = (volume(float(cutoff), mass) for cutoff, mass in zip(cutoffs, masses, strict=True))
    return with_slope(work, cutoffs, [_of_determinant(one) for one in volumes])


def _of_determinant(volume: DeterminantVolume) -> MethodResult:
    """A Lebesgue volume; its figures hold ``derived_k`` if that is known."""
    figures = {"k": volume.k, "shift": volume.shift, "log_determinant": volume.log_determinant.value}
    if volume.effective_dimension is not None:
        figures["effective_dimension"] = volume.effective_dimension.value
    if volume.derived_k is not None:
        figures["derived_k"] = volume.derived_k
    return MethodResult("shifted-determinant", "lebesgue", estimate=volume.log_volume, figures=figures)


ROWS = (
    MethodRow("shifted-determinant", _shifted_determinant, shifted=True, colour="green"),
    MethodRow("quadratic-mass", _quadratic_mass, finish=_tested, gaussian=True, mass=True, colour="vermillion"),
)
