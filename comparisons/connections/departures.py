"""Where the cost leaves its quadratic model: how far along a ray it is within a share of the curvature term."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comparisons.connections.cost_slice import BROKEN, Departure
from comparisons.connections.peaks import Array
from spectra.lanczos import dots
from spectra.landscape import Landscape
from volume.noise import cost_noise

# Factor between radii of the search, how many are looked at in one pass, and halvings of the bracket.
_STEP, _AT_ONCE, _HALVINGS = math.sqrt(2.0), 4, 6
# Roundings of the cost that the curvature term has to be above to be told.
_ROUNDINGS = 100.0
# The model is lost once it is off by all of its curvature term, or by this share of the cost at the anchor: a kink of
# the activations near the anchor does neither, and the cost comes back to the model.
_OF_COST = 0.1


def departures(
    landscape: Landscape, directions: Tensor, gradient: Tensor, bends: Array, *, farthest: float
) -> tuple[Departure, ...]:
    """Where the cost leaves the quadratic model along two axes, to each side.

    Args:
        landscape: the cost, around the point of the model.
        directions: (2, n) the axes, orthonormal.
        gradient: (n,) of the cost.
        bends: (2,) curvature along each axis.
        farthest: distance up to which is looked.

    Returns:
        Four departures: of each axis first the positive side.
    """
    noise = max(cost_noise(landscape), 4.0 * torch.finfo(landscape.parameters.computed).eps * abs(landscape.cost()))
    found = []
    for axis, bend in enumerate(bends.tolist()):
        start = math.sqrt(2.0 * _ROUNDINGS * noise / abs(bend)) if bend else math.inf
        for sign in (1, -1):
            ray = _Ray(landscape, sign * directions[axis], gradient, bend)
            found.append(Departure(axis, sign, *ray.departure(start, farthest)))
    return tuple(found)


class _Ray:
    """The cost along one direction, beside its quadratic model."""

    def __init__(self, landscape: Landscape, direction: Tensor, gradient: Tensor, bend: float) -> None:
        self.landscape, self.direction, self.gradient, self.bend = landscape, direction, gradient, bend

    def rises(self, radii: Array) -> tuple[Array, Array]:
        """The cost above the anchor's at distances, and what it is off by as a share of the curvature term."""
        landscape = self.landscape
        lengths = torch.as_tensor(radii).to(landscape.theta).unsqueeze(1)
        points = landscape.theta + lengths * self.direction
        costs: Array = landscape.costs(points).cpu().numpy() - landscape.cost()
        # Along the steps that rounding leaves: near the anchor it would be taken for curvature where the cost is steep.
        steps = points - landscape.theta
        slopes: Array = dots(steps, self.gradient.expand_as(steps)).double().cpu().numpy()
        curved = 0.5 * self.bend * radii**2
        return costs, np.abs(costs - slopes - curved) / np.abs(curved)

    def departure(self, start: float, farthest: float) -> tuple[float, float, float, float]:
        """Radius and first distance of a departure, how far was looked, and the cost above at the radius."""
        radii, shares = np.zeros(0), np.zeros(0)
        radius, lost = start, False
        while radius <= farthest and not lost:
            new = radius * _STEP ** np.arange(float(_AT_ONCE))
            radii, shares = np.concatenate([radii, new]), np.concatenate([shares, self.rises(new)[1]])
            beyond = np.flatnonzero(~(shares < 1.0) | self._costly(radii, shares))
            lost = bool(len(beyond))
            if lost:
                radii, shares = radii[: beyond[0] + 1], shares[: beyond[0] + 1]
            radius = float(radii[-1]) * _STEP
        off = ~(shares <= BROKEN)
        looked = float(radii[-1]) if len(radii) else 0.0
        if not off.any() or not off[-1]:
            return math.inf, float(radii[off][0]) if off.any() else math.inf, looked, math.nan
        kept = int(np.flatnonzero(~off)[-1]) if not off.all() else -1
        high = self._between(float(radii[kept]), float(radii[kept + 1])) if kept >= 0 else float(radii[0])
        first = high if off.argmax() == kept + 1 else float(radii[off][0])
        return high, first, looked, float(self.rises(np.array([high]))[0][0])

    def _costly(self, radii: Array, shares: Array) -> NDArray[np.bool_]:
        """Whether the model is off by more than what counts as broken, and by a share of the anchor's cost."""
        apart = shares * np.abs(0.5 * self.bend * radii**2)
        return (shares > BROKEN) & (apart >= _OF_COST * abs(self.landscape.cost()))

    def _between(self, low: float, high: float) -> float:
        """The distance at which the share passes ``BROKEN`` in a bracket."""
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.rises(np.array([middle]))[1][0] <= BROKEN else (low, middle)
        return high
