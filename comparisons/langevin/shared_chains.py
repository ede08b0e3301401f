"""Langevin chains shared out over ranks: each runs its own on all of the data, and all get the chains of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from comparisons.langevin.chains import Array, Chains
from spectra.landscape import Landscape


def over_ranks(landscape: Landscape, count: int, run: Callable[[Landscape, range], Chains]) -> Chains:
    """What ``run`` gives of a number of chains.

    A chain depends on its own number alone and needs no sums over ranks on its way, so that each rank runs some, in one
    process as it were.

    Args:
        landscape: the cost; the chains are shared out where it is spread over ranks.
        count: of chains.
        run: of a landscape and the chains' numbers.

    Returns:
        All chains in order, the same on each rank; its seconds are those of the slowest rank.
    """
    if landscape.ranks.alone:
        return run(landscape, range(count))
    ranks = landscape.ranks
    mine = ranks.part(count)
    # A rank without a chain runs the first one again, for the shapes.
    found = run(landscape.whole, mine or range(1))

    def joined(rows: Array) -> Array:
        table = np.zeros((count, *rows.shape[1:]))
        if mine:
            table[mine.start : mine.stop] = rows
        # Numbers and zeros add up to the numbers, to the bit.
        total: Array = ranks.total(torch.from_numpy(table)).numpy()
        return total

    spent = torch.tensor([found.gradient_evaluations if mine else 0.0], dtype=torch.float64)
    return replace(
        found,
        rises=joined(found.rises),
        acceptance=joined(found.acceptance),
        distances=joined(found.distances),
        gradient_evaluations=float(ranks.total(spent)),
        seconds=ranks.largest(found.seconds),
        vmapped=ranks.every(found.vmapped),
    )
