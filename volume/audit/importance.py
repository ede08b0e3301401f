"""Importance sampling in an audit."""

from __future__ import annotations

import math
from functools import cache

from volume.audit.case import AuditCase
from volume.audit.directions import LARGEST_DECOMPOSED, curvature_of, gaussian
from volume.audit.reading import PRODUCT_GRADIENTS, AuditReading, Estimator, EstimatorRow, NotApplicable
from volume.methods import DenseModel, importance_sampled


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


ESTIMATORS = (EstimatorRow("importance-sampling", lambda effort: importance_sampling(effort.directions)),)
