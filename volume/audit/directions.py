"""Estimators of the audit that draw: directions of the star domain and of the ellipsoid, points of its Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from torch import Tensor

from spectra.errors import UserError
from spectra.members import member, stated
from spectra.operators import SymmetricOperator
from volume.audit.case import AuditCase, Effort, Estimator, EstimatorRow
from volume.audit.reading import PRODUCT_GRADIENTS, STAR, AuditReading, NotApplicable
from volume.methods import DenseModel, importance_sampled
from volume.preconditioners import EXPONENT, Material, Preconditioner, PreconditionerRow
from volume.priors import GaussianPrior, Lebesgue
from volume.rays import CountingSurface, StarDomainSettings, search_eps, star_domain_volume
from volume.result import VolumeEstimate

PRECONDITIONERS = tuple(stated("volume.preconditioners"))
# A whole eigendecomposition above this size is no preconditioner that anybody would pay for.
LARGEST_DECOMPOSED = 1000


def star_domain(preconditioner: str, directions: int) -> Estimator:
    """The star-domain sampler with one of the preconditioners; its interval is the bootstrap's."""
    row = member("volume.preconditioners", preconditioner, PreconditionerRow)

    @cache
    def prepared(case: AuditCase) -> tuple[Preconditioner, int]:
        """The same for every seed: eps is searched on directions of its own, so choosing it once biases nothing."""
        try:
            maker = row.build(_material(case), EXPONENT)
        except UserError as reason:
            raise NotApplicable(str(reason)) from None
        if not row.tuned:
            return maker(math.nan), 0
        surface = CountingSurface(case.surface)
        eps = search_eps(surface, maker, _settings(case, 0, directions), prior=case.prior)
        return maker(eps), surface.evaluations

    def run(case: AuditCase, seed: int) -> AuditReading:
        chosen, before = prepared(case)
        surface = CountingSurface(case.surface)
        settings = _settings(case, seed, directions)
        found = star_domain_volume(surface, settings, prior=case.prior, preconditioner=chosen)
        return _reading(found, before + surface.evaluations, PRODUCT_GRADIENTS * row.products(_material(case)))

    return run


def _material(case: AuditCase) -> Material:
    parts = (lambda: case.curvature), (lambda: case.pairs), case.landscape, case.moments
    return Material(case.size, *parts, decomposed=LARGEST_DECOMPOSED)


def ellipsoid_slice(k: float, directions: int) -> Estimator:
    """Slices of the cost in random directions, under Lebesgue measure, times the prior's density at the anchor.

    Args:
        k: of the correction ``k / 2 |x|^2 / s^2`` added to the cost; 0 for none.
        directions: number of directions.

    Returns:
        The estimator. Without a proper prior it would be the star domain's with the identity, and does not apply.
    """

    def run(case: AuditCase, seed: int) -> AuditReading:
        if not case.prior.proper:
            raise NotApplicable("without a prior it is the star domain with the identity")
        surface = CountingSurface(case.surface)
        correction: Tensor | None = k * case.prior.scale(case.size).pow(-2) if k else None
        settings = _settings(case, seed, directions)
        found = star_domain_volume(surface, settings, prior=Lebesgue(), correction=correction)
        return _reading(found, surface.evaluations, 0.0, case.log_density_at_anchor, consistent=False)

    return run


def _settings(case: AuditCase, seed: int, directions: int) -> StarDomainSettings:
    return StarDomainSettings(cutoff=case.cutoff, directions=min(directions, case.most_directions), seed=seed)


def _reading(
    found: VolumeEstimate, evaluations: int, gradients: float, offset: float = 0.0, consistent: bool = True
) -> AuditReading:
    estimate = found.estimate
    return AuditReading(
        found.log_volume + offset,
        estimate.standard_error if math.isfinite(estimate.half_width()) else math.nan,
        freedom=estimate.degrees,
        gradients=gradients,
        evaluations=float(evaluations),
        log_terms=found.log_terms + offset,
        consistent=consistent,
        effective_samples=found.effective_samples,
        claims=STAR,
    )


def curvature_of(case: AuditCase) -> SymmetricOperator:
    """The curvature of a case, or that the estimator does not apply."""
    if case.operator is None:
        raise NotApplicable("the cost has no curvature at the anchor")
    return case.operator


def gaussian(case: AuditCase) -> GaussianPrior:
    """The Gaussian prior of a case, or that the estimator does not apply."""
    if not isinstance(case.prior, GaussianPrior):
        raise NotApplicable("it is the mass under a gaussian prior")
    return case.prior


def _preconditioned(name: str) -> Callable[[Effort], Estimator]:
    return lambda effort: star_domain(name, effort.directions)


def importance_sampling(draws: int) -> Estimator:
    """The method importance-sampling at so many draws."""

    @cache
    def model(case: AuditCase) -> DenseModel:
        """The same for every seed."""
        return DenseModel(curvature_of(case), case.surface.theta, gaussian(case).scale(case.size))

    def run(case: AuditCase, seed: int) -> AuditReading:
        gaussian(case)
        if case.landscape is None or case.size > LARGEST_DECOMPOSED:
            raise NotApplicable(f"it needs a torch model of at most {LARGEST_DECOMPOSED} parameters")
        scale, ensemble = case.prior.scale(case.size), model(case).ensemble(case.cutoff)
        estimate, _ = importance_sampled(case.landscape, ensemble, scale, case.cutoff, draws, seed=seed)
        error = estimate.standard_error if math.isfinite(estimate.standard_error) else math.nan
        return AuditReading(estimate.value, error, gradients=PRODUCT_GRADIENTS * case.size, evaluations=float(draws))

    return run


ESTIMATORS = (
    *(EstimatorRow(f"star-domain/{name}", _preconditioned(name)) for name in PRECONDITIONERS),
    EstimatorRow("ellipsoid-slice", lambda effort: ellipsoid_slice(0.0, effort.directions)),
    EstimatorRow("ellipsoid-slice-corrected", lambda effort: ellipsoid_slice(1.0, effort.directions)),
    EstimatorRow("importance-sampling", lambda effort: importance_sampling(effort.directions)),
)
