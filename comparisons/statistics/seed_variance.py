"""How much of a measure's variance over checkpoints lies between configurations, how much between seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparisons.statistics.hyperparameters import Codes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class VarianceShares:
    """A one-way random-effects decomposition, in the squared unit of the measure.

    Attributes:
        between: variance of the configurations' true means; negative where seeds alone would scatter means more.
        within: variance between seeds of one configuration, the estimator's error included.
        estimator: mean square of the standard errors: the part of ``within`` that a larger budget would remove.
        configurations: how many there are.
        checkpoints: how many there are.
    """

    between: float
    within: float
    estimator: float
    configurations: int
    checkpoints: int

    @property
    def share_between(self) -> float:
        """The intraclass correlation: ``between`` over the sum; nan if nothing varies."""
        total = self.between + self.within
        return self.between / total if total > 0.0 else math.nan

    @property
    def share_estimator(self) -> float:
        """The estimator's part of the sum; nan if nothing varies."""
        total = self.between + self.within
        return self.estimator / total if total > 0.0 else math.nan


def variance_shares(values: Array, configurations: Codes, standard_errors: Array) -> VarianceShares | None:
    """Splits the variance of a measure over checkpoints between configurations and seeds.

    With g groups of n_i values, MS_b = sum n_i (mean_i - mean)^2 / (g - 1) and MS_w = sum (x - mean_i)^2 / (N - g):
    within = MS_w, between = (MS_b - MS_w) / n_0, n_0 = (N - sum n_i^2 / N) / (g - 1). Nothing is clipped. There is none
    with fewer than two configurations, or no configuration of two seeds.

    Reference:
        Searle, Casella and McCulloch, Variance components, 1992, section 3.6.

    >>> found = variance_shares(np.array([0.0, 2.0, 10.0, 12.0]), np.array([0, 0, 1, 1]), np.zeros(4))
    >>> found.within, found.between
    (2.0, 49.0)
    """
    sizes = np.bincount(np.unique(configurations, return_inverse=True)[1].reshape(-1)).astype(float)
    many, total = len(sizes), len(values)
    if many < 2 or total == many:
        return None
    place = np.unique(configurations, return_inverse=True)[1].reshape(-1)
    means = np.bincount(place, weights=values) / sizes
    within = float(((values - means[place]) ** 2).sum() / (total - many))
    between_square = float((sizes * (means - values.mean()) ** 2).sum() / (many - 1))
    group_size = (total - float((sizes**2).sum()) / total) / (many - 1)
    finite = standard_errors[np.isfinite(standard_errors)]
    estimator = float((finite**2).mean()) if len(finite) else math.nan
    return VarianceShares((between_square - within) / group_size, within, estimator, many, total)
