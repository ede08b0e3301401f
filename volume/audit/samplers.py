"""Estimators of the audit that sample directions: the star domain, and the ellipsoid by slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from torch import Tensor

from spectra.errors import UserError
from spectra.operators import SymmetricOperator
from volume.audit.case import AuditCase
from volume.audit.reading import PRODUCT_GRADIENTS, AuditReading, Estimator, NotApplicable
from volume.preconditioners import (
    Identity,
    Preconditioner,
    adam_curvature,
    diagonal_preconditioner,
    full_preconditioner,
    hesscale,
    low_rank_preconditioner,
)
from volume.priors import GaussianPrior, Lebesgue
from volume.rays import CountingSurface, StarDomainSettings, search_eps, star_domain_volume
from volume.result import VolumeEstimate

# A whole eigendecomposition above this size is no preconditioner that anybody would pay for.
LARGEST_FULL = 1000
Build = Callable[[float], Preconditioner]


def star_domain(preconditioner: str, directions: int) -> Estimator:
    """The star-domain sampler with one of the preconditioners.

    Args:
        preconditioner: identity, diagonal, hesscale, low-rank, full, adam-second or adam-first.
        directions: number of directions.

    Returns:
        The estimator; its interval is the bootstrap's.
    """
    build, gradients = _BUILDERS[preconditioner]

    @cache
    def prepared(case: AuditCase) -> tuple[Preconditioner, int]:
        """The same for every seed: eps is searched on directions of its own, so choosing it once biases nothing."""
        maker = build(case)
        if preconditioner == "identity":
            return maker(math.nan), 0
        surface = CountingSurface(case.surface)
        eps = search_eps(surface, maker, _settings(case, 0, directions), prior=case.prior)
        return maker(eps), surface.evaluations

    def run(case: AuditCase, seed: int) -> AuditReading:
        chosen, before = prepared(case)
        surface = CountingSurface(case.surface)
        settings = _settings(case, seed, directions)
        found = star_domain_volume(surface, settings, prior=case.prior, preconditioner=chosen)
        return _reading(found, before + surface.evaluations, gradients(case))

    return run


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
    )


def curvature_of(case: AuditCase) -> SymmetricOperator:
    """The curvature of a case.

    Args:
        case: the case.

    Returns:
        The operator.

    Raises:
        NotApplicable: if the cost has no curvature at the anchor.
    """
    if case.operator is None:
        raise NotApplicable("the cost has no curvature at the anchor")
    return case.operator


def _identity(case: AuditCase) -> Build:  # noqa: ARG001
    return lambda eps: Identity()  # noqa: ARG005


def _diagonal(case: AuditCase) -> Build:
    curvature_of(case)
    if not bool((case.diagonal != 0.0).any()):
        raise NotApplicable("the curvature has no diagonal")
    return lambda eps: diagonal_preconditioner(case.diagonal, eps=eps)


def _hesscale(case: AuditCase) -> Build:
    if case.landscape is None:
        raise NotApplicable("hesscale needs a torch model")
    try:
        curvature = hesscale(case.landscape)
    except UserError:
        raise NotApplicable("hesscale is for chains of layers under a built-in cost") from None
    if not bool((curvature != 0.0).any()):
        raise NotApplicable("the curvature has no diagonal")
    return lambda eps: diagonal_preconditioner(curvature, eps=eps, name="hesscale")


def _low_rank(case: AuditCase) -> Build:
    curvature_of(case)
    largest = float(abs(case.pairs.values).max())
    if not largest > 0.0:
        raise NotApplicable("the curvature is zero")
    return lambda eps: low_rank_preconditioner(case.pairs, case.size, eps * largest)


def _full(case: AuditCase) -> Build:
    curvature_of(case)
    if case.size > LARGEST_FULL:
        raise NotApplicable(f"all eigenvectors of more than {LARGEST_FULL} parameters")
    values, vectors = case.eigensystem
    return lambda eps: full_preconditioner(values, vectors, eps=eps)


def _adam(which: str) -> Callable[[AuditCase], Build]:
    def build(case: AuditCase) -> Build:
        if case.moments is None or case.landscape is None:
            raise NotApplicable("no state of Adam")
        curvature = adam_curvature(case.moments, case.landscape.parameters, which)
        if not bool((curvature > 0.0).any()):
            raise NotApplicable("Adam's moments are zero: no step was taken")
        return lambda eps: diagonal_preconditioner(curvature, eps=eps, name=f"adam-{which}")

    return build


# What makes a preconditioner of an eps, and the gradients that it takes before that.
_BUILDERS: dict[str, tuple[Callable[[AuditCase], Build], Callable[[AuditCase], float]]] = {
    "identity": (_identity, lambda case: 0.0),  # noqa: ARG005
    "diagonal": (_diagonal, lambda case: PRODUCT_GRADIENTS * case.diagonal_products),
    # One pass back that carries curvature as well.
    "hesscale": (_hesscale, lambda case: PRODUCT_GRADIENTS),  # noqa: ARG005
    "low-rank": (_low_rank, lambda case: PRODUCT_GRADIENTS * case.pairs.products),
    "full": (_full, lambda case: PRODUCT_GRADIENTS * case.size),
    "adam-second": (_adam("second"), lambda case: 0.0),  # noqa: ARG005
    "adam-first": (_adam("first"), lambda case: 0.0),  # noqa: ARG005
}
PRECONDITIONERS = tuple(_BUILDERS)


def gaussian(case: AuditCase) -> GaussianPrior:
    """The Gaussian prior of a case.

    Args:
        case: the case.

    Returns:
        The prior.

    Raises:
        NotApplicable: if it is another one.
    """
    if not isinstance(case.prior, GaussianPrior):
        raise NotApplicable("it is the mass under a gaussian prior")
    return case.prior
