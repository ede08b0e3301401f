"""Langevin chains shared out over ranks: each runs its own on all of the data, and all get the chains of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from comparisons.langevin.chains import Array, Chains
from spectra.landscape import Landscape
from volume.chunks import gathered_rows


def over_ranks(landscape: Landscape, count: int, run: Callable[[Landscape, range], Chains]) -> Chains:
    """What ``run`` gives of the chains of some numbers, shared out where the landscape is spread over ranks.

    A chain depends on its own number alone and needs no sums over ranks on its way, so each rank runs some as one
    process would. All chains come back in order, the same on each rank.
    """
    if landscape.ranks.alone:
        return run(landscape, range(count))
    ranks = landscape.ranks
    mine = ranks.part(count)
    # A rank without a chain runs the first one again, for the shapes.
    found = run(landscape.whole, mine or range(1))

    def joined(rows: Array) -> Array:
        all_rows: Array = gathered_rows(ranks, torch.from_numpy(rows[: len(mine)]), count).numpy()
        return all_rows

    spent = torch.tensor([found.gradient_evaluations if mine else 0.0], dtype=torch.float64)
    return replace(
        found,
        rises=joined(found.rises),
        acceptance=joined(found.acceptance),
        gradient_evaluations=float(ranks.total(spent)),
    )
