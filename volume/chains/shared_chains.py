"""Chains of a bridge shared out over ranks: each moves its own on all of the data, and all see where all stand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.ranks import Ranks
from volume.chains.cost import BridgeCost, Evaluations
from volume.chunks import gathered_rows
from volume.priors import Prior


class SharedCost:
    """A cost whose rows of points are shared out over ranks; all must ask for the same ones together.

    What a rank evaluates and the others take over is the same to the bit on all of them, whatever their machines.

    Attributes:
        alone: the cost as one process has it.
        ranks: the processes.
        anchor: anchor of ``alone``.
        like: ``like`` of ``alone``.
        tilt: ``tilt`` of ``alone``.
        spent: evaluations of all ranks so far.
    """

    def __init__(self, alone: BridgeCost, ranks: Ranks) -> None:
        """Takes the cost with all data and the processes."""
        self.alone, self.ranks = alone, ranks
        self.anchor, self.like, self.tilt, self.spent = alone.anchor, alone.like, alone.tilt, Evaluations()

    def costs(self, points: Tensor) -> Tensor:
        """Costs (k,), float64, at rows of points (k, n)."""
        mine = self._rows(points)
        found = self.alone.costs(mine) if len(mine) else points.new_empty(0).double()
        return self._joined(found, len(points))

    def forces(self, points: Tensor, *, with_costs: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients (k, n), and the costs if wanted."""
        mine = self._rows(points)
        costs, slopes = self.alone.forces(mine, with_costs=with_costs) if len(mine) else (mine[:, 0].double(), mine)
        joined = None if costs is None or not with_costs else self._joined(costs, len(points))
        return joined, self._joined(slopes, len(points))

    def levels(self, points: Tensor, costs: Tensor) -> Tensor | None:
        """What decides (k,) whether points (k, n) are in the set; None where their costs do."""
        place = self.ranks.part(len(points))
        mine = self.alone.levels(points[place.start : place.stop], costs[place.start : place.stop])
        return None if mine is None else self._joined(mine, len(points))

    @property
    def draws_curvature(self) -> bool:
        """As one process has it."""
        return self.alone.draws_curvature

    def curvature_draws(self, points: Tensor, each: int, first: int = 0) -> Tensor:
        """(k * each, n) random vectors whose second moment is the mean curvature of the cost at points (k, n)."""
        start, mine = self.ranks.part(len(points)).start, self._rows(points)
        found = self.alone.curvature_draws(mine, each, first + start) if len(mine) else mine
        return self._joined(found.view(len(mine), each, points.shape[1]), len(points)).flatten(0, 1)

    def _rows(self, points: Tensor) -> Tensor:
        mine = self.ranks.part(len(points))
        return points[mine.start : mine.stop]

    def _joined(self, mine: Tensor, count: int) -> Tensor:
        self.settle()
        return gathered_rows(self.ranks, mine, count)

    def settle(self) -> None:
        """Counts what ranks have evaluated since; all of them must call this together."""
        own, self.alone.spent = self.alone.spent, Evaluations()
        costs, gradients = self.ranks.total(torch.tensor([own.costs, own.gradients])).tolist()
        self.spent.costs += costs
        self.spent.gradients += gradients


def shared_cost(
    make: Callable[[Landscape, Prior], BridgeCost], landscape: Landscape, prior: Prior, chains: int
) -> BridgeCost:
    """The cost of a bridge, its points shared out where the landscape is spread over ranks.

    Args:
        make: makes the cost of a landscape with all data.
        landscape: the cost.
        prior: the measure.
        chains: how many there will be.

    Returns:
        The cost; all ranks must use it together.

    Raises:
        UserError: if there are fewer chains than ranks, or the prior is not smooth.
    """
    if landscape.ranks.alone:
        return make(landscape, prior)
    if chains < landscape.ranks.count:
        raise UserError(f"{chains} chains cannot be shared out over {landscape.ranks.count} ranks: use more chains")
    return SharedCost(make(landscape.whole, prior), landscape.ranks)


class ChainShare:
    """Which of the chains this process moves.

    Attributes:
        cost: cost to move them by, without other processes.
        count: number of all chains.
    """

    def __init__(self, cost: BridgeCost, count: int) -> None:
        """Takes the cost, shared or not, and the number of chains."""
        self.count = count
        self._shared = cost if isinstance(cost, SharedCost) else None
        self.cost = cost if self._shared is None else self._shared.alone

    def own(self, rows: Tensor) -> Tensor:
        """This process's rows of those of all chains (k, ...)."""
        if self._shared is None:
            return rows
        place = self._shared.ranks.part(self.count)
        return rows[place.start : place.stop]

    def joined(self, rows: Tensor) -> Tensor:
        """The rows of all chains from those of this process's."""
        return rows if self._shared is None else gathered_rows(self._shared.ranks, rows, self.count)

    def settle(self) -> None:
        """Counts what all processes have evaluated since."""
        if self._shared is not None:
            self._shared.settle()
