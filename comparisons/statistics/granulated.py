"""Rank correlation one hyperparameter at a time, and what a measure tells beyond the hyperparameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from comparisons.statistics.hyperparameters import Codes, groups

Array = NDArray[np.float64]
# Hyperparameters conditioned on at once at most, as in the paper.
MOST_CONDITIONS = 2


def granulated_kendall(
    x: Array, y: Array, hyperparameters: Mapping[str, Codes], seeds: Codes | None = None
) -> dict[str, float]:
    """The mean rank correlation over changes of one hyperparameter alone, by its name.

    psi_i is the mean, over all settings of the other hyperparameters (and the seed), of sum of sign(x_a - x_b) sign(y_a
    - y_b) over the pairs of checkpoints of that setting, divided by their number; Psi is the mean of psi_i. A measure
    that only follows, say, the width gets no credit from the other hyperparameters. It is nan where no two checkpoints
    differ in one hyperparameter alone; runs of different seeds are never compared.

    Reference:
        Jiang et al., Fantastic generalization measures and where to find them, 2020, section 2.2.2.

    >>> codes = {"width": np.array([0, 0, 1, 1]), "batch": np.array([0, 1, 0, 1])}
    >>> granulated_kendall(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 3.0, 2.0]), codes)
    {'width': 1.0, 'batch': -1.0}
    """
    count = len(x)
    signs = _signs(x) * _signs(y)
    found = {}
    for name, axis in hyperparameters.items():
        others = [codes for other, codes in hyperparameters.items() if other != name]
        setting = groups([*others, *([] if seeds is None else [seeds])], count)
        parts = []
        for number in range(int(setting.max()) + 1):
            here = np.flatnonzero(setting == number)
            apart = axis[here][:, None] != axis[here][None, :]
            if apart.any():
                parts.append(float(signs[np.ix_(here, here)][apart].mean()))
        found[name] = float(np.mean(parts)) if parts else math.nan
    return found


def mean_granulated(found: Mapping[str, float]) -> float:
    """Psi: the mean over hyperparameters that have a psi; nan if none has."""
    values = [value for value in found.values() if math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan


def conditional_information(x: Array, y: Array, conditions: list[Codes]) -> float:
    """I(V_x, V_y | U) / H(V_y | U) over ordered pairs of checkpoints: 0 if x tells nothing of y's order, 1 if all.

    V is the sign of the difference over a pair, U the values that both have of the conditions. Pairs tied in x or y are
    left out. It is nan if the conditions decide y's order alone, so that nothing is left to tell.

    Reference:
        Jiang et al., 2020, section 2.2.3.

    >>> conditional_information(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), [])
    1.0
    """
    one, two = _signs(x), _signs(y)
    first, second = np.nonzero((one != 0) & (two != 0))
    if len(first) == 0:
        return math.nan
    columns = [codes[side] for codes in conditions for side in (first, second)]
    place = groups(columns, len(first))
    counts = np.zeros((int(place.max()) + 1, 2, 2))
    np.add.at(counts, (place, (one[first, second] > 0).astype(int), (two[first, second] > 0).astype(int)), 1.0)
    joint = counts / counts.sum()
    both, mine, theirs, alone = (_entropy(joint.sum(axis)) for axis in ((), (2,), (1,), (1, 2)))
    left = theirs - alone
    # H(y | U) is 0 up to the rounding of its two terms.
    return math.nan if left < 1e-12 else max(0.0, mine + theirs - both - alone) / left


def least_information(x: Array, y: Array, hyperparameters: Mapping[str, Codes]) -> tuple[float, tuple[str, ...]]:
    """K: the least conditional information over all sets of at most two hyperparameters, and those of the least set."""
    least: tuple[float, tuple[str, ...]] = (math.nan, ())
    for size in range(MOST_CONDITIONS + 1):
        for names in itertools.combinations(hyperparameters, size):
            share = conditional_information(x, y, [hyperparameters[name] for name in names])
            if math.isfinite(share) and not share >= least[0]:
                least = (share, names)
    return least


def _signs(values: Array) -> Array:
    return np.sign(values[:, None] - values[None, :])


def _entropy(masses: Array) -> float:
    positive = masses[masses > 0.0]
    return float(-(positive * np.log(positive)).sum())
