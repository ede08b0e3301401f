"""Whether routes to one learning coefficient agree within their errors, and what to change where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

from spectra.estimate import Estimate

# Differences past this many standard errors are said: by chance once in 16,000 of normal variables.
ERRORS = 4.0

_ADVICE = {
    frozenset(
        {"chains", "spectrum"}
    ): "the cost is not quadratic as far as the chains go: believe the chains, or raise localisation until both agree",
    frozenset(
        {"volume", "spectrum"}
    ): "the cost is not quadratic as far as the localisation reaches: raise localisation until both agree",
    frozenset({"chains", "volume"}): "halve step_size and double burn_in and draws for the chains, or more directions "
    "for the volume, until they agree",
}


def disagreements(routes: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Sentences on routes that differ by more than their errors.

    >>> disagreements({"chains": Estimate(3.3, 0.02), "spectrum": Estimate(2.5, 0.01)})[0].split(":")[0]
    'chains 3.3 and spectrum 2.5 differ by more than their errors (36 standard errors)'
    """
    found = []
    for (one, first), (other, second) in combinations(routes.items(), 2):
        gap = abs(first.value - second.value) - first.truncation_error - second.truncation_error
        error = math.hypot(first.standard_error, second.standard_error)
        if not (math.isfinite(gap) and math.isfinite(error)) or gap <= ERRORS * error + 1e-9 * abs(first.value):
            continue
        times = f"{gap / error:.2g} standard errors" if error > 0.0 else "both are exact"
        found.append(
            f"{one} {first.value:.4g} and {other} {second.value:.4g} differ by more than their errors ({times}): "
            + _ADVICE[frozenset({one, other})]
        )
    return tuple(found)
