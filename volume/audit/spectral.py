"""Estimators of the audit that rest on the spectrum: determinants, the quadratic mass, traces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from torch import Tensor

from spectra.density import SpectralDensity
from spectra.estimate import Estimate
from spectra.lanczos import Deflation, hutch_plus_plus, hutchinson, no_runs, xtrace
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.slq import slq_density
from spectra.spectrum import SpectrumSettings
from volume.audit.case import ANCHOR_STEPS, AuditCase, Effort, Estimator, EstimatorRow
from volume.audit.directions import curvature_of, gaussian
from volume.audit.reading import DETERMINANT, PRODUCT_GRADIENTS, TRACE, VOLUME, AuditReading, NotApplicable
from volume.quadratic import QuadraticMass, ellipsoid_volume, quadratic_mass, shifted_determinant

# PyHessian works one vector at a time through a model; more parameters than this are for its own benchmark.
LARGEST_PYHESSIAN = 200
DERIVED = -1.0
Density = Callable[[AuditCase, SymmetricOperator, int], tuple[SpectralDensity, int]]


class CountingOperator(SymmetricOperator):
    """An operator that counts its products."""

    def __init__(self, inner: SymmetricOperator) -> None:
        """Starts at zero."""
        self.inner, self.products = inner, 0
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device
        self.definite, self.name = inner.definite, inner.name

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V H`` for rows V (k, n), as (k, n)."""
        self.products += len(vectors)
        return self.inner.matmat(vectors)


def own_density(probes: int, steps: int) -> Density:
    """Our sampled density of an operator, its leading Krylov space deflated, and the products that it took."""

    def density(case: AuditCase, operator: SymmetricOperator, seed: int) -> tuple[SpectralDensity, int]:
        counted = CountingOperator(operator)
        settings = SpectrumSettings(probes=probes, steps=steps, seed=seed, memory=case.memory)
        found = slq_density(counted, settings)
        return found, counted.products

    return density


def pyhessian_density_of(probes: int, steps: int) -> Density:
    """PyHessian's density in place of ours, by plain quadrature without deflation, and the products that it took."""

    def density(case: AuditCase, operator: SymmetricOperator, seed: int) -> tuple[SpectralDensity, int]:
        from spectra.pyhessian import pyhessian_density

        landscape = _module_of(case)
        if operator is not case.operator:
            raise NotApplicable("PyHessian knows no units of a prior")
        length = min(steps, case.size)
        nodes, weights = pyhessian_density(landscape, probes, length, seed=seed)
        scaled = weights.ravel() * case.size / probes
        known = Deflation(nodes.ravel(), scaled, case.size)
        return SpectralDensity(case.size, no_runs(), known, "PyHessian's hessian"), probes * length

    return density


def _found(case: AuditCase, density: Density, operator: SymmetricOperator, seed: int) -> tuple[SpectralDensity, int]:
    """The density of a seed, computed for the first estimator that asks for it, and what it takes alone."""
    return case.once((density, operator, seed), lambda: density(case, operator, seed))


def _mass(case: AuditCase, density: Density, seed: int) -> tuple[QuadraticMass, int]:
    """The quadratic mass by that density, computed once too, and the products that it takes alone."""
    operator, measure, s, _ = case.in_prior_units
    found, products = _found(case, density, operator, seed)

    def made() -> QuadraticMass:
        return quadratic_mass(found, measure, case.cutoff, standard_deviation=s, negative="clip")[0]

    return case.once((found, QuadraticMass), made), products + ANCHOR_STEPS


def determinant_volume(density: Density, k: float) -> Estimator:
    """The ellipsoid's volume (no prior), or the primer's shifted one times the prior's density at the anchor.

    The shift is ``k / s^2``: 0 for the plain ellipsoid, ``DERIVED`` for that of the quadratic mass.
    """

    def run(case: AuditCase, seed: int) -> AuditReading:
        operator = curvature_of(case)
        if k == 0.0:
            if case.prior.proper:
                raise NotApplicable("it is a Lebesgue volume")
            found, products = _found(case, density, operator, seed)
            return _determinant_reading(ellipsoid_volume(found, case.cutoff, negative="abs").log_volume, products)
        gaussian(case)
        inner, _, s, log_scale = case.in_prior_units
        found, products = _found(case, density, inner, seed)
        chosen = k
        if k == DERIVED:
            own, products = _mass(case, density, seed)
            chosen = own.derived_k
            if not math.isfinite(chosen):
                raise NotApplicable("the cutoff is above the mean cost under the prior: no k is derived")
        volume = shifted_determinant(
            found, case.cutoff, standard_deviation=s, k=chosen, negative="clip", log_scale=log_scale
        )
        return _determinant_reading(volume.log_volume, products, offset=case.log_density_at_anchor)

    return run


def mass(density: Density) -> Estimator:
    """The Gaussian mass of the quadratic basin, by saddlepoint."""

    def run(case: AuditCase, seed: int) -> AuditReading:
        curvature_of(case)
        gaussian(case)
        found, products = _mass(case, density, seed)
        return _determinant_reading(found.log_mass, products)

    return run


def log_determinant(density: Density) -> Estimator:
    """``log det(H + c I)`` at the shift of the case."""

    def run(case: AuditCase, seed: int) -> AuditReading:
        operator = curvature_of(case)
        if not case.shift > 0.0:
            raise NotApplicable("the case has no shift")
        found, products = _found(case, density, operator, seed)
        return _determinant_reading(found.logdet(case.shift, negative="clip"), products, DETERMINANT)

    return run


def trace(method: str, products: int) -> Estimator:
    """The trace by ``hutchinson``, ``hutch++``, ``xtrace``, or by ``pyhessian-stopping``.

    So many products are taken; with PyHessian's rule of stopping at most so many.
    """
    own = {"hutchinson": hutchinson, "hutch++": hutch_plus_plus, "xtrace": xtrace}

    def run(case: AuditCase, seed: int) -> AuditReading:
        counted = CountingOperator(curvature_of(case))
        if method == "pyhessian-stopping":
            from spectra.pyhessian import pyhessian_trace

            found = pyhessian_trace(_module_of(case), products, tolerance=1e-3, seed=seed)
            return _determinant_reading(found, len(found.samples), TRACE)
        if method != "hutchinson" and products > case.size:
            raise NotApplicable("the dense matrix, exact, takes no more products")
        return _determinant_reading(own[method](counted, products, seed=seed), counted.products, TRACE)

    return run


def _module_of(case: AuditCase) -> Landscape:
    if case.landscape is None or case.size > LARGEST_PYHESSIAN:
        raise NotApplicable("PyHessian needs a torch model, and here a small one")
    return case.landscape


def _determinant_reading(
    estimate: Estimate, products: int, quantity: str = VOLUME, offset: float = 0.0
) -> AuditReading:
    low, high = estimate.interval(0.95)
    bounded = math.isfinite(low) and math.isfinite(high)
    return AuditReading(
        estimate.value + offset,
        estimate.standard_error if math.isfinite(estimate.standard_error) else math.nan,
        low + offset if bounded else math.nan,
        high + offset if bounded else math.nan,
        quantity,
        gradients=PRODUCT_GRADIENTS * products,
    )


def without_bar(estimator: Estimator) -> Estimator:
    """The same estimator without an error bar, as that of a density that comes without one."""

    def run(case: AuditCase, seed: int) -> AuditReading:
        return replace(estimator(case, seed), standard_error=math.nan, low=math.nan, high=math.nan)

    return run


# One function for each effort: by it the estimators of a case find what another of them has computed.
@cache
def _ours(effort: Effort) -> Density:
    return own_density(effort.probes, effort.steps)


@cache
def _theirs(effort: Effort) -> Density:
    return pyhessian_density_of(effort.probes, effort.steps)


def _trace(method: str) -> EstimatorRow:
    return EstimatorRow(f"trace/{method}", lambda effort: trace(method, effort.products))


ESTIMATORS = (
    EstimatorRow("ellipsoid-determinant", lambda effort: determinant_volume(_ours(effort), 0.0)),
    EstimatorRow("shifted-determinant", lambda effort: determinant_volume(_ours(effort), 1.0)),
    EstimatorRow("shifted-determinant/derived", lambda effort: determinant_volume(_ours(effort), DERIVED)),
    EstimatorRow("quadratic-mass", lambda effort: mass(_ours(effort))),
    EstimatorRow("quadratic-mass/pyhessian", lambda effort: without_bar(mass(_theirs(effort)))),
    EstimatorRow("log-determinant/slq", lambda effort: log_determinant(_ours(effort))),
    EstimatorRow("log-determinant/pyhessian", lambda effort: without_bar(log_determinant(_theirs(effort)))),
    *map(_trace, ("hutchinson", "hutch++", "xtrace", "pyhessian-stopping")),
)
