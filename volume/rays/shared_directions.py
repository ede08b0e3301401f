"""Directions shared out over ranks: each follows its own, and all get the terms of all, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from spectra.landscape import Landscape
from volume.chunks import gathered_rows
from volume.rays.cost_surface import CostSurface
from volume.result import VolumeEstimate

# Estimates, one a cutoff, of ``count`` directions from number ``first`` on.
Solve = Callable[[CostSurface, int, int], tuple[VolumeEstimate, ...]]
_COLUMNS = ("log_terms", "evaluations", "unbounded", "monotone", "radial_error")


def alone(landscape: CostSurface) -> CostSurface:
    """The surface as one process has it: the whole landscape of one that is spread over ranks, others as they are."""
    return landscape.whole if isinstance(landscape, Landscape) else landscape


def over_ranks(landscape: CostSurface, solve: Solve, first: int, count: int) -> tuple[VolumeEstimate, ...]:
    """What ``solve`` says of a block of directions.

    On several ranks each solves some of them, on all of the data: rays need no sums over ranks until they are done, and
    each gives what it gives in one process.

    Args:
        landscape: the cost; the directions are shared out where it is spread over ranks.
        solve: follows directions; deterministic.
        first: number of the first direction.
        count: how many.

    Returns:
        The estimates, with all directions in order, the same on each rank.
    """
    if not isinstance(landscape, Landscape) or landscape.ranks.alone:
        return solve(landscape, first, count)
    ranks = landscape.ranks
    mine = ranks.part(count)
    # A rank without a direction solves the first one again, for the rest of what an estimate says.
    found = solve(landscape.whole, first + mine.start, len(mine)) if len(mine) else solve(landscape.whole, first, 1)
    own = np.array([[getattr(one, name)[: len(mine)] for name in _COLUMNS] for one in found], dtype=np.float64)
    table = gathered_rows(ranks, torch.from_numpy(own).movedim(-1, 0), count).movedim(0, -1).numpy()
    kinds = [getattr(found[0], name).dtype for name in _COLUMNS]
    return tuple(
        replace(one, **{name: row.astype(kind) for name, row, kind in zip(_COLUMNS, rows, kinds, strict=True)})
        for one, rows in zip(found, table, strict=True)
    )
