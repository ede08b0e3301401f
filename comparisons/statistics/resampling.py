"""Rank correlations of bootstrap samples of whole configurations, from how often each checkpoint was drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from comparisons.statistics.hyperparameters import Codes

Array = NDArray[np.float64]


def multiplicities(configurations: Codes, draws: int, generator: np.random.Generator) -> Array:
    """How often each checkpoint is in each bootstrap sample (draws, k), configurations being drawn as wholes.

    Seeds of one configuration are no independent evidence on how measures rank configurations: drawn one by one they
    would make intervals too short.
    """
    many = int(configurations.max()) + 1
    picks = generator.integers(0, many, (draws, many))
    counts = np.zeros((draws, many))
    np.add.at(counts, (np.arange(draws)[:, None], picks), 1.0)
    return counts[:, configurations]


def kendalls_of(x: Array, y: Array, counts: Array) -> Array:
    """tau_b of samples in which each point occurs as often as counts (draws, k) say; nan where either is constant.

    A point and its copy are tied in both, so they add nothing: sums over pairs become sums weighted by products of
    counts.

    >>> kendalls_of(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), np.array([[1.0, 1.0, 0.0]])).tolist()
    [1.0]
    """
    one, two = (np.sign(values[:, None] - values[None, :]) for values in (x, y))
    both, first, second = (((counts @ pairs) * counts).sum(1) for pairs in (one * two, one**2, two**2))
    with np.errstate(invalid="ignore"):
        return np.asarray(both / np.sqrt(first * second))


def spearmans_of(x: Array, y: Array, counts: Array) -> Array:
    """Spearman's correlation of such samples, ties and copies sharing their mean rank; nan where either is constant."""
    totals = counts.sum(1, keepdims=True)
    # Twice the rank less twice the mean rank: those beneath less those above.
    one, two = (counts @ np.sign(values[None, :] - values[:, None]) for values in (x, y))
    one, two = ((ranks - (counts * ranks).sum(1, keepdims=True) / totals) for ranks in (one, two))
    both, first, second = ((counts * part).sum(1) for part in (one * two, one**2, two**2))
    with np.errstate(invalid="ignore"):
        return np.asarray(both / np.sqrt(first * second))
