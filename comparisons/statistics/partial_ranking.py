"""Rank correlation of measures with the target given a third column, such as the training cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparisons.comparison import Comparison
from comparisons.flatness import Measure
from comparisons.statistics.extensive import incomparable
from comparisons.statistics.hyperparameters import groups
from comparisons.statistics.rank_correlation import kendall, partial, spearman
from comparisons.statistics.rankings import BOOTSTRAPS, configurations, ends_of, turned
from comparisons.statistics.resampling import kendalls_of, multiplicities
from comparisons.targets import column_values, target_values
from comparisons.words import FEWEST
from spectra.errors import UserError

Array = NDArray[np.float64]
# The seed's second number, so that intervals do not share their draws with those of the plain coefficients.
STREAM = 1


@dataclass(frozen=True)
class PartialRanking:
    """One measure beside the target given a column; positive where flatter checkpoints have the smaller target.

    Attributes:
        measure: its name.
        given: name of the column.
        checkpoints: how many have all three values.
        tau: Kendall's partial tau.
        tau_interval: 95 % bootstrap over configurations, as of ``comparisons.statistics.rankings``.
        rho: Spearman's coefficient of what regression on the column's ranks leaves.
        reversed: whether the intervals of plain and partial tau exclude 0 on opposite sides (Simpson's paradox).
    """

    measure: str
    given: str
    checkpoints: int
    tau: float
    tau_interval: tuple[float, float]
    rho: float
    reversed: bool


def partial_rankings(
    comparison: Comparison, measures: Sequence[Measure], against: str, given: str, *, seed: int = 0
) -> tuple[PartialRanking, ...]:
    """How well each measure orders the checkpoints by the target once a column is held fixed.

    A measure that only follows the training cost, say, orders the gap as the cost does; given the cost nothing is left.

    Args:
        comparison: comparison of some checkpoints.
        measures: rows of the registry.
        against: the target, see ``comparisons.targets.target_values``.
        given: the column, see ``comparisons.targets.column_values``.
        seed: seed of the bootstrap.

    Returns:
        One for each measure with values at ``FEWEST`` checkpoints or more, but for the column itself, those that it
        decides, and those that are ``incomparable``.

    Raises:
        UserError: if there is no such target or column, or the column is the target or the same at all checkpoints.

    Reference:
        Kendall, Partial rank correlation, 1942.
    """
    if given == against:
        raise UserError(f"given must be another column than the target, got {given} for both")
    target, held = target_values(comparison, against), column_values(comparison, given)
    if len(np.unique(held[np.isfinite(held)])) < 2:
        raise UserError(f"given must be a column that varies, and {given} is the same at all checkpoints")
    left_out, alike = incomparable(comparison) | {given}, configurations(comparison)
    found = []
    for place, measure in enumerate(measures):
        if measure.name in left_out:
            continue
        values = turned(comparison, measure)
        known = np.isfinite(values) & np.isfinite(target) & np.isfinite(held)
        if known.sum() < FEWEST:
            continue
        wholes = groups([alike[known]], int(known.sum()))
        counts = multiplicities(wholes, BOOTSTRAPS, np.random.default_rng([seed, STREAM, place]))
        columns = values[known], target[known], held[known]
        one = _partial(measure.name, given, columns, counts, int(wholes.max()) + 1)
        if np.isfinite(one.tau):
            found.append(one)
    return tuple(found)


def _partial(name: str, given: str, columns: tuple[Array, Array, Array], counts: Array, wholes: int) -> PartialRanking:
    x, y, z = columns
    pairs = ((x, y), (x, z), (y, z))
    tau = partial(*(kendall(one, two) for one, two in pairs))
    plain = kendalls_of(x, y, counts)
    drawn = partial(plain, *(kendalls_of(one, two, counts) for one, two in pairs[1:]))
    before = ends_of(plain, kendall(x, y), wholes)
    after = ends_of(drawn, tau, wholes) if np.isfinite(tau) else (np.nan, np.nan)
    return PartialRanking(
        measure=name,
        given=given,
        checkpoints=len(x),
        tau=tau,
        tau_interval=after,
        rho=partial(*(spearman(one, two) for one, two in pairs)),
        reversed=before[1] < 0.0 < after[0] or after[1] < 0.0 < before[0],
    )
