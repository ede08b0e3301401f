"""How measures rank checkpoints beside what they are to predict: rank correlations, intervals, tests, agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from comparisons.comparison import Comparison
from comparisons.flatness import Measure
from comparisons.statistics.extensive import incomparable
from comparisons.statistics.hyperparameters import Codes, groups, varying
from comparisons.statistics.permutation import holm, permutation_chance
from comparisons.statistics.rank_correlation import kendall, spearman
from comparisons.statistics.resampling import kendalls_of, multiplicities, spearmans_of
from comparisons.targets import target_values
from comparisons.words import FEWEST
from spectra.errors import UserError
from spectra.interval import LEVEL

Array = NDArray[np.float64]
# A bootstrap over fewer wholes than this says nothing: of two configurations half of the samples hold one alone.
FEWEST_CONFIGURATIONS = 8
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Ranking:
    """One measure beside the target; positive where flatter checkpoints have the smaller target.

    Attributes:
        measure: its name.
        checkpoints: how many have both values.
        tau: Kendall's tau_b, ties as ties.
        tau_interval: 95 % percentile bootstrap over configurations, over checkpoints where they are fewer than
            ``FEWEST_CONFIGURATIONS``; no shorter than so few pairs allow.
        rho: Spearman's rank correlation.
        rho_interval: interval of rho, as of tau.
        p: two-sided permutation p-value of tau, over configurations as the bootstrap.
        p_holm: the same corrected for all measures by Holm's method.
    """

    measure: str
    checkpoints: int
    tau: float
    tau_interval: tuple[float, float]
    rho: float
    rho_interval: tuple[float, float]
    p: float
    p_holm: float


def rank_measures(
    comparison: Comparison, measures: Sequence[Measure], against: str = "gap", *, seed: int = 0
) -> tuple[Ranking, ...]:
    """How well each measure orders the checkpoints by the target.

    A measure for which larger is flatter has its sign turned first, so that a positive tau always says that flatter
    checkpoints have the smaller target.

    Args:
        comparison: comparison of some checkpoints.
        measures: rows of the registry.
        against: target, see ``comparisons.targets.target_values``.
        seed: seed of bootstrap and permutations.

    Returns:
        A ranking for each measure that has a value at ``FEWEST`` checkpoints or more, and is not the same at all; those
        that are ``incomparable`` are left out.

    Raises:
        UserError: if there is no target, or fewer than ``FEWEST`` checkpoints have one.

    Reference:
        Jiang et al., Fantastic generalization measures and where to find them, 2020.
    """
    target = target_values(comparison, against)
    known = int(np.isfinite(target).sum())
    if known < FEWEST:
        raise UserError(f"rank correlations need at least {FEWEST} checkpoints with a value of {against}, got {known}")
    rows = []
    left_out, alike = incomparable(comparison), configurations(comparison)
    for place, measure in enumerate(measures):
        if measure.name in left_out:
            continue
        values = turned(comparison, measure)
        both = np.isfinite(values) & np.isfinite(target)
        x, y = values[both], target[both]
        if both.sum() >= FEWEST and len(np.unique(x)) > 1 and len(np.unique(y)) > 1:
            rows.append((measure.name, x, y, groups([alike[both]], len(x)), np.random.default_rng([seed, place])))
    chances = [permutation_chance(x, y, wholes, generator) for _, x, y, wholes, generator in rows]
    corrected = holm(chances)
    found = []
    for (name, x, y, wholes, generator), *chance in zip(rows, chances, corrected, strict=True):
        counts = multiplicities(wholes, BOOTSTRAPS, generator)
        found.append(_ranking(name, x, y, counts, int(wholes.max()) + 1, *chance))
    return tuple(found)


def turned(comparison: Comparison, measure: Measure) -> Array:
    """A measure's values (checkpoints done,), their sign such that smaller is flatter; nan where there is none."""
    sign = 1.0 if measure.flatter == "smaller" else -1.0
    return sign * np.array([one.value(measure.name) for one in comparison.done])


def configurations(comparison: Comparison) -> Codes:
    """Group numbers of what is drawn as a whole: configurations up to the seed if enough, else each checkpoint."""
    done = comparison.done
    found = groups(list(varying([one.hyperparameters for one in done]).values()), len(done))
    return found if found.max() + 1 >= FEWEST_CONFIGURATIONS else np.arange(len(done), dtype=np.int64)


def ends_of(drawn: Array, tau: float, wholes: int, scale: Callable[[float], float] = float) -> tuple[float, float]:
    r"""A 95 % percentile interval of bootstrap samples, no shorter than so few pairs allow.

    Where nearly all pairs agree every draw says the same, and the bootstrap's interval is a point: it covered the true
    tau of four normal points in 4 to 70 % of samples. D discordant ones of ``P = m (m - 1) / 2`` pairs, of m wholes,
    are rare events then, and their mean may be as large as Poisson's exact limit u(D): ``tau >= 1 - 2 u(D) / P``; and
    the same above. Draws without a coefficient, of one value only, are left out; ``scale`` leads from Kendall's
    coefficient to the one drawn.

    Reference:
        Hanley and Lippman-Hand, If nothing goes wrong, is everything all right?, 1983, for no event at all.

    >>> [round(end, 2) for end in ends_of(np.ones(9), 1.0, 10)]
    [0.84, 1.0]
    """
    known = drawn[np.isfinite(drawn)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = (float(end) for end in np.quantile(known, [0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0]))
    pairs = wholes * (wholes - 1) / 2.0
    discordant, concordant = (
        float(gammaincinv((1.0 - s * tau) / 2.0 * pairs + 1.0, 0.5 + LEVEL / 2.0)) for s in (1.0, -1.0)
    )
    least, most = max(1.0 - 2.0 * discordant / pairs, -1.0), min(2.0 * concordant / pairs - 1.0, 1.0)
    return min(low, scale(least)), max(high, scale(most))


def spearman_like(tau: float) -> float:
    """Spearman's coefficient of normal columns whose Kendall's is given.

    Reference:
        Kruskal, Ordinal measures of association, 1958.

    >>> spearman_like(1.0), round(spearman_like(0.5), 4)
    (1.0, 0.6902)
    """
    return 6.0 / math.pi * math.asin(math.sin(math.pi * tau / 2.0) / 2.0)


def _ranking(name: str, x: Array, y: Array, counts: Array, wholes: int, p: float, p_holm: float) -> Ranking:
    tau = kendall(x, y)
    return Ranking(
        measure=name,
        checkpoints=len(x),
        tau=tau,
        tau_interval=ends_of(kendalls_of(x, y, counts), tau, wholes),
        rho=spearman(x, y),
        rho_interval=ends_of(spearmans_of(x, y, counts), tau, wholes, spearman_like),
        p=p,
        p_holm=p_holm,
    )


def agreement(comparison: Comparison, measures: Sequence[Measure]) -> Array:
    """Kendall's tau_b (measures, measures) between every two measures, nan where fewer than 3 checkpoints have both."""
    columns = [turned(comparison, measure) for measure in measures]
    found = np.full((len(columns), len(columns)), math.nan)
    for i, x in enumerate(columns):
        for j, y in enumerate(columns):
            both = np.isfinite(x) & np.isfinite(y)
            if both.sum() >= 3:
                found[i, j] = kendall(x[both], y[both])
    return found
