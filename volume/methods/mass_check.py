"""The quadratic mass held against the true cost, at points typical of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spectra.lanczos import basis_bytes
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from volume.method_result import MethodResult
from volume.prior_units import prior_units
from volume.priors import Prior
from volume.quadratic import MEMORY, BasinGaussian, cost_ratios
from volume.study import VolumeSettings

# Each point takes a Lanczos run: as many as a spectrum has probes.
POINTS = 8
# A true cost that differs from the quadratic by more than this, relative, makes the mass one of the model only.
_QUADRATIC = 0.1


def held_against_cost(
    result: MethodResult,
    landscape: Landscape,
    curvature: SymmetricOperator,
    prior: Prior,
    settings: VolumeSettings,
) -> MethodResult:
    """The quadratic mass with the median of true over quadratic cost at its points, and a caution if that is not one.

    As it was, where a Lanczos basis would take more than 1 GiB, or no shift is derived.
    """
    scale = prior.scale(landscape.size).to(landscape.device)
    inner, theta, s = prior_units(curvature, landscape.theta, scale)
    # Where no shift is derived the basin is most of the prior, and has no Gaussian of its own.
    if not math.isfinite(result.figures["shift"]) or (basis_bytes(inner.size, 1, settings.steps, inner.dtype) > MEMORY):
        return result
    typical = BasinGaussian(inner, theta, steps=settings.steps, seed=settings.seed)
    shift, unit = result.figures["shift"], None if inner is curvature else scale
    ratios = []
    for _, block in typical.blocks(POINTS):
        points = block.displacements(shift, 1.0 / (shift * s * s))
        ratios.append(cost_ratios(landscape, curvature, points, settings.cutoff, unit))
    found = np.concatenate(ratios)
    # Along negative curvature, taken by a rule, the quadratic cost is not positive: no ratio to it.
    return _with_ratio(result, found[~np.isnan(found)], len(found))


def _with_ratio(result: MethodResult, ratios: NDArray[np.float64], points: int) -> MethodResult:
    assert result.estimate is not None
    ratio = float(np.median(ratios)) if 2 * len(ratios) > points else math.nan
    found = replace(result, figures={**result.figures, "cost_ratio": ratio}) if math.isfinite(ratio) else result
    if abs(ratio - 1.0) <= _QUADRATIC:
        return found
    if math.isfinite(ratio):
        words = f"the true cost is {ratio:.3g} times the quadratic one"
    elif math.isnan(ratio):
        words = f"the quadratic cost is not positive at {points - len(ratios)} of {points}"
    else:
        words = "the true cost is infinite"
    caution = f"at points typical of this mass {words}: it is the mass of the quadratic model, not of the cost"
    return replace(found, estimate=replace(result.estimate, cautions=(*result.estimate.cautions, caution)))
