"""Costs and gradients at many parameter vectors: vmapped where that is right and pays, else one at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spectra.errors import FAST_PATH_FAILURES
from spectra.landscape.landscape import Landscape
from spectra.landscape.many_costs import CHUNK_BYTES, SMALLEST_CHUNK, agree, nearby, vmappable
from spectra.model import Batch

# Beyond this the batched products gain nothing more.
LARGEST_CHUNK = 16
# Where a pass holds less than this share of the gradient's own bytes, vmapping is slower than the loop: 1.8 times at
# 0.02, with 611,110 parameters and 8 rows; 0.14 to 0.97 times for ten models at 0.65 and more (16 vectors, one core).
LEAST_HELD = 0.1


class ManyGradients:
    """The cost and its gradient at rows of thetas, from one pass each.

    The vmapped way is tried once, on two vectors beside the anchor: used for two vectors or more if it agrees with the
    loop to rounding. Sizes decide whether it pays, not time: chains that go on must go the same way.

    Attributes:
        landscape: the cost.
        vmapped: whether it is used; None as long as nobody asked.
    """

    def __init__(self, landscape: Landscape, *, memory: int = CHUNK_BYTES) -> None:
        """Takes the landscape whose cost is differentiated, and the bytes that the graphs of one pass may take."""
        self.landscape = landscape
        self._memory = min(memory, CHUNK_BYTES)
        self.vmapped: bool | None = None
        self._chunk = 1

    def __call__(self, thetas: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (k,) in float64 and gradients (k, n) at rows of thetas (k, n)."""
        thetas = thetas.to(self.landscape.theta)
        several = len(thetas) > 1
        if self.vmapped is None and several:
            self.vmapped = self._decide(nearby(self.landscape.theta))
        return self._vmapped(thetas) if self.vmapped and several else self._looped(thetas)

    def _looped(self, thetas: Tensor) -> tuple[Tensor, Tensor]:
        return self.landscape.costs(thetas), self.landscape.gradients(thetas)

    def _vmapped(self, thetas: Tensor) -> tuple[Tensor, Tensor]:
        landscape = self.landscape
        sums = torch.zeros(len(thetas), dtype=torch.float64, device=thetas.device)
        slopes = torch.zeros_like(thetas)
        for batch in landscape.iterate():
            mapped = torch.func.vmap(torch.func.grad_and_value(self._at(batch), has_aux=True), chunk_size=self._chunk)
            slope, (_, total) = mapped(thetas)
            sums, slopes = sums + total.detach(), slopes + slope.detach()
        costs, slopes = sums / landscape.total_weight, slopes / landscape.total_weight
        if landscape.l2:
            costs = costs + 0.5 * landscape.l2 * thetas.double().square().sum(-1)
            slopes = slopes + landscape.l2 * thetas
        return costs, slopes

    def _at(self, batch: Batch) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        landscape = self.landscape

        def summed(theta: Tensor) -> tuple[Tensor, Tensor]:
            costs, weights = landscape.samples_at(landscape.parameters.unflatten(theta), batch)
            if weights is None:
                return costs.sum(), costs.double().sum()
            return (costs * weights.to(costs)).sum(), (costs.double() * weights.double()).sum()

        return summed

    def _decide(self, thetas: Tensor) -> bool:
        landscape = self.landscape
        one = self._looped(thetas)  # first, for it refuses models whose parameters autograd cannot reach
        if not vmappable(landscape.evaluation, landscape.theta):
            return False
        batch = next(landscape.iterate())
        held = landscape.evaluation.saved_bytes(landscape.leaves(landscape.theta), batch.inputs)
        self._chunk = max(1, min(LARGEST_CHUNK, self._memory // max(held, 1)))
        if self._chunk < SMALLEST_CHUNK or held < LEAST_HELD * landscape.size * landscape.dtype.itemsize:
            return False
        try:
            two = self._vmapped(thetas)
        except FAST_PATH_FAILURES:  # whatever vmap cannot do, the loop can
            return False
        return all(agree(a, b, 1000 * torch.finfo(landscape.dtype).eps) for a, b in zip(one, two, strict=True))
