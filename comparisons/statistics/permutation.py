"""What chance does to a rank correlation: p-values by permutation of whole configurations, corrected for many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from comparisons.statistics.hyperparameters import Codes
from comparisons.statistics.rank_correlation import kendall, kendalls

Array = NDArray[np.float64]
Orders = NDArray[np.int64]
PERMUTATIONS = 2000
# Up to this many orders all are tried: those of seven checkpoints.
EVERY = math.factorial(7)


def permutation_chance(x: Array, y: Array, configurations: Codes, generator: np.random.Generator) -> float:
    """Two-sided permutation p-value of Kendall's tau, configurations exchanged as wholes.

    Seeds of one configuration resemble each other whatever the measure is worth: exchanged one by one they would make
    chance look smaller than it is. A configuration takes the place of any other of as many checkpoints, which keep
    their order; one that is alone in its number stays. It is the share of orders as extreme as the data's own: of all
    orders where they are few, else of draws and that one.

    Reference:
        Winkler et al., Multi-level block permutation, 2015 (whole-block exchange).

    >>> permutation_chance(np.arange(4.0), np.arange(4.0) ** 2, np.arange(4), np.random.default_rng(0)) * 24
    2.0
    """
    orders, exact = block_orders(configurations, generator)
    drawn = kendalls(np.broadcast_to(x, orders.shape), y[orders])
    # A tie with the data's own value must count, whatever the rounding.
    extreme = int((np.abs(drawn) >= abs(kendall(x, y)) - 1e-12).sum())
    return extreme / len(orders) if exact else (extreme + 1) / (len(orders) + 1)


def block_orders(configurations: Codes, generator: np.random.Generator) -> tuple[Orders, bool]:
    """Orders (orders, k) that exchange configurations of as many checkpoints, and whether they are all there are."""
    sizes: dict[int, list[Orders]] = {}
    for number in range(int(configurations.max()) + 1):
        places = np.flatnonzero(configurations == number)
        sizes.setdefault(len(places), []).append(places)
    alike = [np.stack(blocks) for blocks in sizes.values()]
    exact = math.prod(math.factorial(len(blocks)) for blocks in alike) <= EVERY
    if exact:
        choices = list(itertools.product(*(itertools.permutations(range(len(blocks))) for blocks in alike)))
        picks = [np.array([choice[place] for choice in choices]) for place in range(len(alike))]
    else:
        picks = [generator.permuted(np.tile(np.arange(len(b)), (PERMUTATIONS, 1)), axis=1) for b in alike]
    orders = np.empty((len(picks[0]), len(configurations)), dtype=np.int64)
    for blocks, chosen in zip(alike, picks, strict=True):
        orders[:, blocks.reshape(-1)] = blocks[chosen].reshape(len(chosen), -1)
    return orders, exact


def holm(chances: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are: the chance of any false claim stays below the level.

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
