"""Costs and gradients of many chains, each at its own parameters and on its own rows of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from comparisons.evidence import all_rows
from comparisons.langevin.recording import Slopes, recorded_slopes
from spectra.errors import FAST_PATH_FAILURES, UserError
from spectra.landscape import Landscape
from spectra.model import Batch
from volume.chunks import squared_lengths

# A recording takes some passes: it is made once that many were asked for.
RECORD_AFTER = 8
# Of larger blocks of parameters a pass takes so long that recording it saves nothing, and the recording much memory.
LARGEST_RECORDED = 2**21


class Minibatches:
    """Unbiased estimates of a landscape's cost and gradient from rows drawn at random, for a block of chains.

    All chains share one forward and one backward pass where the model can be vmapped; that is tried once against one
    pass a chain, and dropped where it fails or differs. After some passes their operations are recorded.

    Attributes:
        rows: rows in the data.
        size: rows of a minibatch; all of them make the estimates exact.
        vmapped: whether chains share their passes; None as long as nobody asked.
        recorded: whether their shared passes are replayed from a recording; None as long as none was tried.
    """

    def __init__(self, landscape: Landscape, size: int | None) -> None:
        """Joins the data, which is kept in memory; a size of None takes all rows."""
        if not landscape.batches.kept:
            raise UserError("chains need data kept in memory; this data is read anew at each pass")
        if reason := landscape.rows_apart():
            raise UserError(f"chains draw rows of the data, which must be samples of their own: {reason}")
        self._landscape = landscape
        self._data = all_rows(landscape.iterate())
        self.rows = self._data.rows
        self.size = self.rows if size is None else size
        if not 1 <= self.size <= self.rows:
            raise UserError(f"batch_size must lie between 1 and the rows of the data {self.rows}, got {size}")
        self.vmapped: bool | None = None
        self.recorded: bool | None = None
        self._passes = 0
        self._whole: Minibatches | None = None
        self._replay: Slopes | None = None
        self._recorded_shapes: tuple[torch.Size, torch.Size] | None = None
        self._all = torch.arange(self.rows, device=landscape.device)
        costs = self.sample_costs(None)
        if len(costs) % self.rows:
            raise UserError(f"chains need as many samples in each row, got {len(costs)} samples in {self.rows} rows")
        self._anchor = (costs * self.sample_weights).reshape(self.rows, -1).sum(1) / landscape.total_weight

    def draw(self, streams: list[torch.Generator]) -> Tensor:
        """Positions of one minibatch for each chain (k, size), without replacement."""
        if self.size == self.rows:
            return self._all.expand(len(streams), -1)
        drawn = [torch.randperm(self.rows, generator=random, device=random.device) for random in streams]
        return torch.stack([order[: self.size] for order in drawn]).to(self._all.device)

    def slopes_of_all(self, thetas: Tensor) -> tuple[Tensor, Tensor]:
        """The same as ``slopes``, on all rows."""
        if self.size == self.rows:
            return self.slopes(thetas, self._all.expand(len(thetas), -1))
        if self._whole is None:
            self._whole = Minibatches(self._landscape, None)
        return self._whole.slopes_of_all(thetas)

    def slopes(self, thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (k,) above the anchor's at thetas (k, n) on rows (k, size), with the penalty, and gradients (k, n).

        The anchor's cost on the same rows is subtracted: its mean over draws is the anchor's cost, and most of what a
        draw of rows adds to the cost's variance is common to both.
        """
        if self.vmapped is None and len(thetas) > 1:
            # Off the anchor, where a gradient may be nothing but rounding.
            aside = 0.01 * (thetas[:2].abs() + 0.1)
            self.vmapped = self._decide(thetas[:2] + aside, index[:2])
        shared = self.vmapped and len(thetas) > 1
        costs, slopes = self._shared(thetas, index) if shared else self._looped(thetas, index)
        factor, landscape = self.rows / self.size, self._landscape
        whole = self.size == self.rows
        same = self._anchor.sum() if whole else self._anchor[index].sum(1)
        rises = factor * (costs.double() - same)
        slopes = slopes if whole else slopes.mul_(factor)
        if landscape.l2:
            squares = squared_lengths(thetas) - squared_lengths(landscape.theta.unsqueeze(0))
            rises, slopes = rises + 0.5 * landscape.l2 * squares, slopes.add_(thetas, alpha=landscape.l2)
        return rises, slopes

    def _cost(self, theta: Tensor, batch: Batch) -> Tensor:
        landscape = self._landscape
        return landscape.cost_at(landscape.parameters.unflatten(theta), batch)

    def sample_costs(self, theta: Tensor | None) -> Tensor:
        """Cost of each sample at theta (n,), the anchor if None: float64 (samples,), as many rows at a time as drawn.

        The samples' weights are kept as ``sample_weights``.
        """
        landscape = self._landscape
        tensors = landscape.parameters.unflatten(landscape.theta if theta is None else theta)
        with torch.no_grad():
            parts = [landscape.samples_at(tensors, self._data.cut(rows)) for rows in torch.split(self._all, self.size)]
        if theta is None:
            weights = [torch.ones_like(costs) if weights is None else weights for costs, weights in parts]
            self.sample_weights = torch.cat(weights).double()
        return torch.cat([costs for costs, _ in parts]).double()

    def _shared(self, thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """One pass for all chains, from the recording once there is one."""
        self._passes += 1
        shapes = (thetas.shape, index.shape)
        if self._passes > RECORD_AFTER and self.recorded is None and thetas.numel() <= LARGEST_RECORDED:
            self._replay = recorded_slopes(self._vmapped, thetas.detach(), index, self.rows)
            self.recorded, self._recorded_shapes = self._replay is not None, shapes
        if self._replay is not None and shapes == self._recorded_shapes:
            return self._replay(thetas, index)
        return self._vmapped(thetas, index)

    def _vmapped(self, thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # The forward pass is vmapped, the backward pass is the plain one of the sum: the chains do not mix in it.
        leaf = thetas.detach().requires_grad_()
        whole = self.size == self.rows
        batch = self._data if whole else self._data.cut(index)
        place = None if whole else 0
        inside = (batch.inputs, batch.targets, batch.weights)
        axes = tuple(None if part is None else place for part in inside)

        def cost(theta: Tensor, inputs: object, targets: object, weights: Tensor | None) -> Tensor:
            return self._cost(theta, Batch(inputs, targets, weights))

        costs = torch.func.vmap(cost, in_dims=(0, *axes))(leaf, *inside)
        (slopes,) = torch.autograd.grad(costs.sum(), leaf)
        return costs.detach(), slopes

    def _looped(self, thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        landscape, costs, slopes = self._landscape, [], []
        for theta, rows in zip(thetas, index, strict=True):
            batch = self._data.cut(rows)
            leaves = landscape.leaves(theta)
            parts = list(leaves.values())

            def slope(batch: Batch = batch, parts: list[Tensor] = parts) -> tuple[Tensor, tuple[Tensor | None, ...]]:
                value = landscape.batch_cost(landscape.evaluation.outputs(batch.inputs), batch)
                return value.detach(), torch.autograd.grad(value, parts, allow_unused=True)

            value, found = landscape.evaluation.inside(leaves, slope)
            costs.append(value.double())
            slopes.append(landscape.parameters.concatenated(found, parts))
        # The one gradient of a large model is not copied.
        return torch.stack(costs), torch.stack(slopes) if len(slopes) > 1 else slopes[0].unsqueeze(0)

    def _decide(self, thetas: Tensor, index: Tensor) -> bool:
        """Whether chains may share their passes: only where that gives what one pass a chain gives."""
        costs, slopes = self._looped(thetas, index)
        try:
            found, same = self._vmapped(thetas, index)
        except FAST_PATH_FAILURES:  # whatever vmap cannot do, the loop can
            return False
        tolerance = 1e3 * torch.finfo(thetas.dtype).eps
        close = float((found.double() - costs).abs().max()) <= tolerance * float(costs.abs().max())
        return close and float((same - slopes).norm()) <= tolerance * float(slopes.norm())


def row_count(landscape: Landscape) -> int:
    """Rows of the data over all batches."""
    return sum(batch.rows for batch in landscape.whole.taken())
