"""How measures rank checkpoints beside what they are to predict: rank correlations, intervals, tests, agreement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from comparisons.comparison import Comparison, Examined
from comparisons.extensive import incomparable
from comparisons.flatness import Measure
from comparisons.hyperparameters import Codes, groups, varying
from comparisons.resampling import kendalls_of, multiplicities, spearmans_of

Array = NDArray[np.float64]
TARGETS: Mapping[str, Callable[[Examined], float]] = {
    "gap": lambda one: one.gap,
    "error-gap": lambda one: one.error_gap,
    "held-out-loss": lambda one: one.held_out_cost,
    "loss": lambda one: one.cost,
}
LEAST = 4
# A bootstrap over fewer wholes than this says nothing: of two configurations half of the samples hold one alone.
FEWEST_CONFIGURATIONS = 8
BOOTSTRAPS = PERMUTATIONS = 2000
# Up to this many checkpoints every order of them can be tried: 7! = 5,040.
EXACT = 7
# Elements of the sign matrices held at once.
CHUNK = 4_000_000


@dataclass(frozen=True)
class Ranking:
    """One measure beside the target; positive where flatter checkpoints have the smaller target.

    Attributes:
        measure: its name.
        checkpoints: how many have both values.
        tau: Kendall's tau_b, ties as ties.
        tau_interval: 95 % percentile bootstrap over configurations, over checkpoints where they are fewer than
            ``FEWEST_CONFIGURATIONS``.
        rho: Spearman's rank correlation.
        rho_interval: likewise.
        p: two-sided permutation p-value of tau.
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


def target_values(comparison: Comparison, against: str) -> Array:
    """What the measures are to predict, one value a checkpoint.

    Args:
        comparison: some checkpoints.
        against: one of ``TARGETS``, or the name of a hyperparameter: a number, or a label of two values, which count
            as 0 and 1 in the order of their names.

    Returns:
        (checkpoints done,), nan where a checkpoint has none.

    Raises:
        ValueError: if no checkpoint has it, or a label has more than two values.
    """
    done = comparison.done
    values = np.array([TARGETS[against](one) for one in done]) if against in TARGETS else _labels(done, against)
    if not np.isfinite(values).any():
        missing = "no checkpoint has held-out data" + (" with classes" if against == "error-gap" else "")
        reason = missing if against in TARGETS else "no checkpoint has it"
        raise ValueError(f"nothing can be ranked against {against}: {reason}")
    return values


def _labels(done: Sequence[Examined], name: str) -> Array:
    found = [one.hyperparameters.get(name) for one in done]
    texts = sorted({value for value in found if isinstance(value, str)})
    if not texts:
        return np.array([math.nan if value is None else float(value) for value in found])
    if len(texts) > 2:
        raise ValueError(f"the label {name} must have two values to rank against, got {', '.join(texts[:5])}")
    return np.array([float(texts.index(value)) if isinstance(value, str) else math.nan for value in found])


def rank_measures(
    comparison: Comparison, measures: Sequence[Measure], against: str = "gap", *, seed: int = 0
) -> tuple[Ranking, ...]:
    """How well each measure orders the checkpoints by the target.

    A measure for which larger is flatter has its sign turned first, so that a positive tau always says that flatter
    checkpoints have the smaller target.

    Args:
        comparison: some checkpoints.
        measures: rows of the registry.
        against: see ``target_values``.
        seed: of bootstrap and permutations.

    Returns:
        A ranking for each measure that has a value at ``LEAST`` checkpoints or more, and is not the same at all; those
        that are ``incomparable`` are left out.

    Raises:
        ValueError: if there is no target, or fewer than ``LEAST`` checkpoints have one.

    Reference:
        Jiang et al., Fantastic generalization measures and where to find them, 2020.
    """
    target = target_values(comparison, against)
    known = int(np.isfinite(target).sum())
    if known < LEAST:
        raise ValueError(f"rank correlations need at least {LEAST} checkpoints with a value of {against}, got {known}")
    rows = []
    left_out = incomparable(comparison)
    for place, measure in enumerate(measures):
        if measure.name in left_out:
            continue
        sign = 1.0 if measure.flatter == "smaller" else -1.0
        values = sign * np.array([one.value(measure.name) for one in comparison.done])
        both = np.isfinite(values) & np.isfinite(target)
        x, y = values[both], target[both]
        if both.sum() >= LEAST and len(np.unique(x)) > 1 and len(np.unique(y)) > 1:
            rows.append((measure.name, x, y, both, np.random.default_rng([seed, place])))
    chances = [_chance(x, y, generator) for _, x, y, _, generator in rows]
    corrected = holm(chances)
    alike = _configurations(comparison, against)
    found = []
    for (name, x, y, both, generator), *chance in zip(rows, chances, corrected, strict=True):
        counts = multiplicities(groups([alike[both]], len(x)), BOOTSTRAPS, generator)
        found.append(_ranking(name, x, y, counts, *chance))
    return tuple(found)


def _configurations(comparison: Comparison, against: str) -> Codes:
    """Numbers of what is drawn as a whole: configurations if there are enough, else each checkpoint."""
    done = comparison.done
    columns = [codes for name, codes in varying([one.hyperparameters for one in done]).items() if name != against]
    found = groups(columns, len(done))
    return found if found.max() + 1 >= FEWEST_CONFIGURATIONS else np.arange(len(done), dtype=np.int64)


def _ranking(name: str, x: Array, y: Array, counts: Array, p: float, p_holm: float) -> Ranking:
    drawn = np.stack([kendalls_of(x, y, counts), spearmans_of(x, y, counts)], axis=1)
    # Draws of one value only have no correlation and are left out: rare beyond a few checkpoints.
    ends = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return Ranking(
        measure=name,
        checkpoints=len(x),
        tau=kendall(x, y),
        tau_interval=(float(ends[0, 0]), float(ends[1, 0])),
        rho=spearman(x, y),
        rho_interval=(float(ends[0, 1]), float(ends[1, 1])),
        p=p,
        p_holm=p_holm,
    )


def kendall(x: Array, y: Array) -> float:
    """Kendall's tau_b by counting pairs; nan if either is constant.

    Args:
        x: (k,) values.
        y: (k,) values.

    Returns:
        The coefficient.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])).__round__(6)
    0.333333
    """
    return float(_kendalls(x[None], y[None])[0])


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; nan if either is constant.

    Args:
        x: (k,) values.
        y: (k,) values.

    Returns:
        The coefficient.
    """
    return float(_spearmans(x[None], y[None])[0])


def _kendalls(x: Array, y: Array) -> Array:
    """tau_b of each row; the sign matrices of a chunk of rows are held at once."""
    found = []
    step = max(1, CHUNK // x.shape[1] ** 2)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        one, two = (np.sign(rows[part, :, None] - rows[part, None, :]) for rows in (x, y))
        scale = np.sqrt((one**2).sum((1, 2)) * (two**2).sum((1, 2)))
        with np.errstate(invalid="ignore"):
            found.append((one * two).sum((1, 2)) / scale)
    return np.concatenate(found)


def _spearmans(x: Array, y: Array) -> Array:
    """Rank correlation of each row."""
    one, two = (stats.rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2.0 for rows in (x, y))
    with np.errstate(invalid="ignore"):
        return np.asarray((one * two).sum(1) / np.sqrt((one**2).sum(1) * (two**2).sum(1)))


def _chance(x: Array, y: Array, generator: np.random.Generator) -> float:
    """Two-sided permutation p-value of tau: over all orders where they are few, else over draws and the data's own."""
    size = len(x)
    exact = size <= EXACT
    orders = np.array(list(itertools.permutations(range(size)))) if exact else _orders(size, generator)
    drawn = _kendalls(np.broadcast_to(x, orders.shape), y[orders])
    # A tie with the data's own value must count, whatever the rounding.
    extreme = int((np.abs(drawn) >= abs(kendall(x, y)) - 1e-12).sum())
    return extreme / len(orders) if exact else (extreme + 1) / (len(orders) + 1)


def _orders(size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return generator.permuted(np.tile(np.arange(size), (PERMUTATIONS, 1)), axis=1)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are: the chance of any false claim stays below the level.

    Args:
        chances: uncorrected p-values.

    Returns:
        Corrected ones, in the same order.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(np.argsort(chances, kind="stable")):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = highest
    return corrected


def agreement(comparison: Comparison, measures: Sequence[Measure]) -> Array:
    """tau_b between every two measures, each turned so that smaller is flatter.

    Args:
        comparison: some checkpoints.
        measures: rows of the registry.

    Returns:
        (measures, measures), symmetric; nan where fewer than three checkpoints have both.
    """
    columns = []
    for measure in measures:
        sign = 1.0 if measure.flatter == "smaller" else -1.0
        columns.append(sign * np.array([one.value(measure.name) for one in comparison.done]))
    found = np.full((len(columns), len(columns)), math.nan)
    for i, x in enumerate(columns):
        for j, y in enumerate(columns):
            both = np.isfinite(x) & np.isfinite(y)
            if both.sum() >= 3:
                found[i, j] = kendall(x[both], y[both])
    return found
