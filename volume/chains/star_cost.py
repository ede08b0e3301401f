"""The running maximum of the cost along the ray from the anchor: its sublevel set is the star domain."""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
from volume.chains.cost import SublevelCost
from volume.priors import Prior

# Points of the scan for the cost itself, and for the forces, which may be off: a trajectory's end is tested.
FINE, COARSE = 12, 5
REFINEMENTS = 2


class StarCost(SublevelCost):
    """``C*(x) = max_{0 <= a <= 1} C(a x)``, scanned and refined; its gradient is ``a* grad C(a* x)``."""

    def __init__(self, landscape: Landscape, prior: Prior, *, points: int = FINE) -> None:
        """Takes a landscape, a smooth prior and how many points of each ray are scanned.

        Raises:
            UserError: if the prior is not smooth, or fewer than 3 points are asked for.
        """
        super().__init__(landscape, prior)
        if points < 3:
            raise UserError(f"points must be at least 3, got {points}")
        self.points = points

    def costs(self, points: Tensor) -> Tensor:
        """Costs (k,), float64, at rows of points (k, n); zero is the least, the anchor's."""
        return self.peaks(points, self.points, REFINEMENTS)[1]

    def forces(self, points: Tensor, *, with_costs: bool = True) -> tuple[Tensor | None, Tensor]:
        """Gradients (k, n), the place of the peak from a coarse scan; and exact costs if wanted."""
        where = self.peaks(points, COARSE, 1)[0].to(points.dtype).unsqueeze(1)
        slopes = super().forces(points * where)[1] * where
        return (self.costs(points) if with_costs else None), slopes

    def peaks(self, points: Tensor, scanned: int, refinements: int) -> tuple[Tensor, Tensor]:
        """Where each ray has its highest cost, and that cost.

        Args:
            points: (k, n) ends of the rays.
            scanned: equally spaced points of each ray, its end included.
            refinements: parabolas through the best three points, one evaluation each.

        Returns:
            Fractions (k,) of the rays and costs (k,), float64.
        """
        count = len(points)
        grid = torch.linspace(0.0, 1.0, scanned + 1, dtype=torch.float64, device=points.device)
        fractions = grid.expand(count, -1).clone()
        values = torch.zeros_like(fractions)
        values[:, 1:] = self._along(points, fractions[:, 1:])
        for _ in range(refinements):
            vertex = _vertices(fractions, values)
            fractions = torch.cat([fractions, vertex.unsqueeze(1)], 1)
            values = torch.cat([values, self._along(points, vertex.unsqueeze(1))], 1)
            order = fractions.argsort(dim=1)
            fractions, values = fractions.gather(1, order), values.gather(1, order)
        # nan counts as infinitely high: such a point is not in the set.
        best = torch.where(values.isnan(), torch.inf, values).max(1, keepdim=True)
        return fractions.gather(1, best.indices)[:, 0], best.values[:, 0]

    def _along(self, points: Tensor, fractions: Tensor) -> Tensor:
        rows = points.unsqueeze(1) * fractions.unsqueeze(2).to(points.dtype)
        return super().costs(rows.flatten(0, 1)).view(fractions.shape)


def _vertices(fractions: Tensor, values: Tensor) -> Tensor:
    """Where parabolas through the highest point of each row and its neighbours are highest, within those three."""
    highest = torch.where(values.isnan(), torch.inf, values).argmax(1, keepdim=True)
    middle = highest.clamp(1, fractions.shape[1] - 2)
    x, y = ([part.gather(1, middle + offset)[:, 0] for offset in (-1, 0, 1)] for part in (fractions, values))
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    vertex = 0.5 * (x[0] + x[1]) - 0.5 * left / bend
    # A row of three points on a line has no vertex; it is looked at half way to its higher end.
    middle_way = 0.5 * (fractions.gather(1, highest)[:, 0] + x[1])
    usable = (bend < 0.0) & (vertex > x[0]) & (vertex < x[2])
    return torch.where(usable, vertex, middle_way)
