r"""The highest cost on the far part of the ray from the anchor, made smooth: from the sublevel set to the star domain.

``C_w(x) = max_{1-w <= a <= 1} C(a x)`` decides which points are in the set: w = 0 is the sublevel set, w = 1 the star
domain, and the sets between are nested. That maximum has kinks, at which chains stall, and a coarse search for it gives
forces that are not its gradient. The ladder climbs a smooth cost instead, the power mean over points of the ray,

``C_p(x) = (mean_k C(a_k x)^p / mean_k a_k^(2p))^(1/p)``,

which is the cost itself where that is quadratic. The last step, from its ensemble to the set, is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectra.landscape import CHUNK_BYTES, Landscape
from volume.chains.cost import SublevelCost
from volume.chunks import at_once
from volume.priors import Prior

# Points of the ray in the power mean, and its exponent: the smooth cost is within log(8) / 128 = 2 % of the maximum
# over them, and chains take steps as long as at 16. Near the end rays are flat, and more points only cost gradients.
POINTS, POWER = 8, 128.0
# Points of the scan that decides, and parabolas through the best three, one evaluation each.
SCANNED, REFINEMENTS = 24, 2
# Points whose share of the gradient is smaller need none.
_NO_SHARE = 1e-6
# Within a trajectory every second point of a ray is looked at, and then those beside one that costs at least this share
# of the highest. Most rays cost most at their end, and take 5 evaluations of 8.
_SPACING, _NEAR_HIGHEST = 2, 0.8
_LEAST = torch.finfo(torch.float64).tiny


class WindowCost(SublevelCost):
    """The smooth maximum of the cost over a window of the ray; the true one decides.

    Attributes:
        fractions: (m,) float64, places on the ray that the power mean is over, its end the last.
    """

    def __init__(self, landscape: Landscape, prior: Prior, window: float = 1.0, *, memory: int = CHUNK_BYTES) -> None:
        """Takes a landscape, a Gaussian or another smooth prior, w in (0, 1], and the bytes of gradients' graphs.

        Raises:
            UserError: if the prior is neither.
        """
        super().__init__(landscape, prior, memory=memory)
        self.window = window
        grid = torch.linspace(1.0 - window, 1.0, POINTS + 1, dtype=torch.float64, device=landscape.device)
        self.fractions = grid[grid > 0.0]
        quadratic = torch.logsumexp(2.0 * POWER * self.fractions.log(), 0)
        self._log_quadratic = float(quadratic - math.log(len(self.fractions))) / POWER

    def costs(self, points: Tensor) -> Tensor:
        """Smooth maxima (k,), float64, at rows of points (k, n); inf where the cost is not finite on the way."""
        return self._smooth(self._along(points, self.fractions.expand(len(points), -1)))

    def forces(self, points: Tensor, *, with_costs: bool = True) -> tuple[Tensor | None, Tensor]:
        """Gradients (k, n) of the smooth maxima, and these (k,) if wanted.

        Those that come without are of the points near each ray's highest that were found. A trajectory is right by
        any forces that its places alone decide, and its ends are judged by the whole power mean.
        """
        values = self._along(points, self.fractions.expand(len(points), -1)) if with_costs else self._high(points)
        smooth = self._smooth(values)
        shares = torch.softmax(POWER * values.log(), 1)
        rows, places = (shares > _NO_SHARE).nonzero(as_tuple=True)
        slopes = torch.zeros_like(points)
        block = at_once(points.shape[1], len(rows) or 1)
        for start in range(0, len(rows), block):
            row, place = rows[start : start + block], places[start : start + block]
            where = self.fractions[place].to(points.dtype).unsqueeze(1)
            _, found = super().forces(points[row] * where)
            weight = smooth[row] * shares[row, place] / values[row, place]
            slopes.index_add_(0, row, found * where * weight.to(points.dtype).unsqueeze(1))
        return smooth if with_costs else None, slopes

    def levels(self, points: Tensor, costs: Tensor) -> Tensor:  # noqa: ARG002
        """The highest cost (k,) on the window of each ray, by a scan and parabolas; never below the anchor's, zero."""
        grid = torch.linspace(1.0 - self.window, 1.0, SCANNED + 1, dtype=torch.float64, device=points.device)
        fractions = grid.expand(len(points), -1)
        values = self._along(points, fractions)
        for _ in range(REFINEMENTS):
            vertex = _vertices(fractions, values).unsqueeze(1)
            fractions = torch.cat([fractions, vertex], 1)
            values = torch.cat([values, self._along(points, vertex)], 1)
            order = fractions.argsort(dim=1)
            fractions, values = fractions.gather(1, order), values.gather(1, order)
        return values.amax(1)

    def curvature_draws(self, points: Tensor, each: int, first: int = 0) -> Tensor:
        """(k * each, n) of the curvature at the highest place of each ray (k, n), as the end moves it."""
        where = self.fractions[self._high(points).argmax(1)].to(points.dtype).unsqueeze(1)
        return super().curvature_draws(points * where, each, first) * where.repeat_interleave(each, 0)

    def _smooth(self, values: Tensor) -> Tensor:
        mean = torch.logsumexp(POWER * values.log(), 1) - math.log(values.shape[1])
        return (mean / POWER - self._log_quadratic).exp()

    def _high(self, points: Tensor) -> Tensor:
        """Costs (k, m) at those places of rays (k, n) that are near the highest; next to nothing at the others."""
        values = torch.full((len(points), len(self.fractions)), _LEAST, dtype=torch.float64, device=points.device)
        coarse = torch.zeros_like(values, dtype=torch.bool)
        coarse[:, (len(self.fractions) - 1) % _SPACING :: _SPACING] = True
        self._look(values, points, coarse)
        high = coarse & (values >= _NEAR_HIGHEST * values.amax(1, keepdim=True))
        beside = torch.zeros_like(high)
        beside[:, 1:] |= high[:, :-1]
        beside[:, :-1] |= high[:, 1:]
        self._look(values, points, beside & ~coarse)
        return values

    def _look(self, values: Tensor, points: Tensor, wanted: Tensor) -> None:
        """Writes the costs at the wanted places (k, m) of rays (k, n) into the values (k, m)."""
        rows, places = wanted.nonzero(as_tuple=True)
        values[rows, places] = self._at(points, rows, self.fractions[places])

    def _along(self, points: Tensor, fractions: Tensor) -> Tensor:
        """Costs at fractions (k, m) of rays (k, n), (k, m)."""
        rows = torch.arange(len(points), device=points.device).repeat_interleave(fractions.shape[1])
        return self._at(points, rows, fractions.flatten()).view(fractions.shape)

    def _at(self, points: Tensor, rows: Tensor, fractions: Tensor) -> Tensor:
        """Costs at fractions (m,) of some rows (m,) of rays (k, n), (m,): positive, and infinite where they are nan."""
        block = at_once(points.shape[1], len(rows) or 1)
        parts = [points.new_empty(0, dtype=torch.float64)]
        for some, where in zip(torch.split(rows, block), torch.split(fractions, block), strict=True):
            parts.append(super().costs(points[some] * where.to(points.dtype).unsqueeze(1)))
        values = torch.cat(parts)
        return torch.where(values.isnan(), torch.inf, values).clamp(min=_LEAST)


def _vertices(fractions: Tensor, values: Tensor) -> Tensor:
    """Where parabolas through the highest point of each row and its neighbours are highest, within those three."""
    highest = values.argmax(1, keepdim=True)
    middle = highest.clamp(1, fractions.shape[1] - 2)
    x, y = ([part.gather(1, middle + offset)[:, 0] for offset in (-1, 0, 1)] for part in (fractions, values))
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    vertex = 0.5 * (x[0] + x[1]) - 0.5 * left / bend
    # A row of three points on a line has no vertex; it is looked at half way to its higher end.
    middle_way = 0.5 * (fractions.gather(1, highest)[:, 0] + x[1])
    usable = (bend < 0.0) & (vertex > x[0]) & (vertex < x[2])
    return torch.where(usable, vertex, middle_way)
