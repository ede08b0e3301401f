"""Langevin chains in blocks that memory has room for, shared out over ranks: all get the chains of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from comparisons.langevin.chains import Array, Chains
from comparisons.langevin.metropolis import MetropolisRun
from comparisons.langevin.minibatches import Minibatches, row_count
from comparisons.langevin.settings import ChainSettings
from comparisons.langevin.sgld import LangevinRun
from spectra.errors import UserError
from spectra.landscape import Landscape
from volume.chunks import at_once, gathered_rows


def sample_chains(landscape: Landscape, settings: ChainSettings, *, positions: Tensor | None = None) -> Chains:
    r"""Langevin chains around the checkpoint by the settings' sampler, all in one pass where memory has room.

    Args:
        landscape: the cost L, on data kept in memory; it is evaluated in its own mode throughout. Spread over ranks,
            each runs its share of the chains, on all data.
        settings: settings with ``step_size`` and ``burn_in`` given.
        positions: positions in theta (k,) of the parameters that move; None for all.

    Returns:
        The chains.

    Raises:
        UserError: if the step size or the burn-in is missing.
    """
    settings = settings.at(landscape)
    if settings.step_size is None or settings.burn_in is None:
        raise UserError("step_size and burn_in must be given where no spectrum sets them, got None")
    free = None
    if positions is not None:
        free = torch.zeros_like(landscape.theta)
        free[positions.to(free.device)] = 1.0
    run = MetropolisRun if settings.sampler == "mala" else LangevinRun

    def blocks(alone: Landscape, numbers: range) -> Chains:
        size = None if settings.batch_size is None else min(settings.batch_size, row_count(alone))
        batches = Minibatches(alone, size)
        width = at_once(alone.size, len(numbers))
        parts = [numbers[start : start + width] for start in range(0, len(numbers), width)]
        return _joined([run(alone, settings, part, batches, free).chains() for part in parts])

    return _over_ranks(landscape, settings.chains, blocks)


def _joined(parts: list[Chains]) -> Chains:
    """Blocks of chains as one."""

    def rows(name: str) -> Array | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else np.concatenate(found)

    tables = {name: rows(name) for name in ("rises", "acceptance", "factors", "sample_sums")}
    spent = sum(part.gradient_evaluations for part in parts)
    return replace(parts[0], **tables, gradient_evaluations=spent)  # type: ignore[arg-type]


def _over_ranks(landscape: Landscape, count: int, run: Callable[[Landscape, range], Chains]) -> Chains:
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

    def joined(rows: Array | None) -> Array | None:
        if rows is None:
            return None
        all_rows: Array = gathered_rows(ranks, torch.from_numpy(rows[: len(mine)]), count).numpy()
        return all_rows

    tables = {name: joined(getattr(found, name)) for name in ("rises", "acceptance", "factors", "sample_sums")}
    spent = torch.tensor([found.gradient_evaluations if mine else 0.0], dtype=torch.float64)
    return replace(found, **tables, gradient_evaluations=float(ranks.total(spent)))  # type: ignore[arg-type]
