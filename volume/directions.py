"""The preconditioner of a study by its name, and its eps."""

from __future__ import annotations

import math
from collections.abc import Callable

from spectra.checkpoint import AdamMoments
from spectra.eigenpairs import top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from volume.preconditioners import (
    Identity,
    Preconditioner,
    adam_curvature,
    diagonal_curvature,
    diagonal_preconditioner,
    low_rank_preconditioner,
)
from volume.priors import Prior
from volume.star_domain import StarDomainSettings, search_eps

# Below this size n products for the exact diagonal cost less than the sampler does.
EXACT_DIAGONAL = 5000
DIAGONAL_PROBES = 256
PAIRS = 40


def choose_preconditioner(
    name: str,
    eps: float | None,
    landscape: Landscape,
    settings: StarDomainSettings,
    *,
    operator: Callable[[], SymmetricOperator],
    moments: AdamMoments | None = None,
    prior: Prior | None = None,
) -> tuple[Preconditioner, float]:
    """The preconditioner of that name, its eps searched on directions of its own if none is given.

    Args:
        name: one of ``volume.study.PRECONDITIONERS``.
        eps: the eps; None searches it. Of low-rank it is the shift over the largest eigenvalue.
        landscape: the cost.
        settings: of the sampler.
        operator: gives the curvature, if it is needed.
        moments: Adam's, if the name wants them.
        prior: the measure that the search maximises.

    Returns:
        The preconditioner and its eps, nan if it has none.

    Raises:
        ValueError: if Adam's moments are wanted and missing, or the curvature is zero or not finite.
    """
    if name == "identity":
        return Identity(), math.nan
    build = _builder(name, landscape, settings, operator, moments)
    found = search_eps(landscape, build, settings, prior=prior) if eps is None else eps
    return build(found), found


def _builder(
    name: str,
    landscape: Landscape,
    settings: StarDomainSettings,
    operator: Callable[[], SymmetricOperator],
    moments: AdamMoments | None,
) -> Callable[[float], Preconditioner]:
    if name == "low-rank":
        size = landscape.size
        pairs = top_eigenpairs(operator(), min(PAIRS, max(1, size // 4)), seed=settings.seed)
        largest = float(abs(pairs.values).max())
        if not largest > 0.0:
            raise ValueError("the low-rank preconditioner needs a curvature that is not zero")
        return lambda eps: low_rank_preconditioner(pairs, size, eps * largest)
    if name == "diagonal":
        probes = None if landscape.size <= EXACT_DIAGONAL else DIAGONAL_PROBES
        curvature = diagonal_curvature(operator(), probes=probes, seed=settings.seed)
    elif moments is None:
        raise ValueError(f"the preconditioner {name} needs Adam's state, and the checkpoint has none; use diagonal")
    else:
        curvature = adam_curvature(moments, landscape.parameters, name.removeprefix("adam-"))
    return lambda eps: diagonal_preconditioner(curvature, eps=eps, name=name)
