"""First crossings of the cutoff along rays, in few cost evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spectra.errors import UserError
from volume.rays.cost_surface import CostSurface

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
# Costs of rays at radii: (rows of the block, radii) -> costs above the anchor's, nats.
RayCosts = Callable[[NDArray[np.int64], Array], Array]

# A ray is followed to this many times the norm of the anchor (or 1) where no prior ends it.
FARTHEST = 1e12
MOST_EVALUATIONS = 200
# One step outwards while the far side of the crossing is not known: at most this much in log r.
_LEAP = np.log(10.0)
# Only points whose cost is within this factor (in log) of the cutoff are interpolated through.
_NEAR = 3.0
# The newest two must be this near, as a product of logs, before the interpolation's own error is believed.
_LOCAL = 0.01
# However noisy the cost, log r is sought to this.
_COARSEST = 0.1


@dataclass(frozen=True, eq=False)
class Crossings:
    """Where rays first cross the cutoff.

    Attributes:
        radius: (k,) first crossing, unit of the parameters; for an unbounded ray the largest radius looked at.
        error: (k,) estimated error of log radius.
        unbounded: (k,) whether the cost stayed below the cutoff as far as was looked.
        monotone: (k,) whether the scan saw the cost below the cutoff all the way.
        evaluations: (k,) cost evaluations spent, scan included.
        scan: number of radii scanned below each crossing.
    """

    radius: Array
    error: Array
    unbounded: Flags
    monotone: Flags
    evaluations: Counts
    scan: int


def ray_costs(landscape: CostSurface, directions: Tensor, stiffness: Array | None = None) -> RayCosts:
    """Costs above the anchor's along rays from the anchor.

    Args:
        landscape: the cost, of size n.
        directions: (k, n) rows; a radius is in units of their length.
        stiffness: (k,) c of a correction ``c / 2 r^2`` that is added on each ray, unit of the curvature.

    Returns:
        A function of row numbers and radii.
    """

    def costs(rows: NDArray[np.int64], radii: Array) -> Array:
        points = directions[torch.as_tensor(rows, device=directions.device)]
        scale = torch.as_tensor(radii, dtype=directions.dtype, device=directions.device).unsqueeze(1)
        points.mul_(scale).add_(landscape.theta)
        found = landscape.costs(points) - landscape.anchor_cost
        plain: Array = found.cpu().numpy()
        return plain if stiffness is None else plain + 0.5 * stiffness[rows] * radii**2

    return costs


def first_crossings(
    costs: RayCosts,
    count: int,
    cutoff: float,
    *,
    limit: Array,
    guess: ArrayLike,
    tolerance: float,
    scan: int = 2,
    noise: float = 0.0,
    single: bool = False,
) -> Crossings:
    """The first radius on each ray at which the cost reaches the cutoff.

    In (log r, log C) a quadratic cost is a line of slope 2. From the guess one step along that slope, then inverse
    interpolation through the last points, kept inside the bracket once there is one; a ray is done when the quadratic
    and the linear interpolation agree within the tolerance. Then ``scan`` radii below the crossing are looked at, and
    a ray that is above the cutoff at one of them is solved again before it.

    Args:
        costs: costs above the anchor's by row and radius.
        count: k, number of rays.
        cutoff: T, nats (unit of the cost), positive.
        limit: (k,) farthest radius looked at on each ray, finite and positive.
        guess: first radius to try, one for all rays or (k,).
        tolerance: error allowed in log r.
        scan: radii at equal distances below the crossing to look at; 0 trusts the first crossing found.
        noise: rounding noise of the cost, its unit: on a quadratic cost it moves log r by ``noise / (2 T)``. No ray is
            followed more finely than that, and it is part of the error.
        single: whether the costs' radii are rounded to float32; only such radii are then asked for.

    Returns:
        The crossings.

    Raises:
        UserError: if the cutoff or the tolerance is not positive and finite, or a cost is not a number.

    >>> found = first_crossings(lambda rows, r: r**2 / 2, 1, 0.02, limit=np.ones(1), guess=0.5, tolerance=1e-9)
    >>> round(float(found.radius[0]), 9)
    0.2
    """
    start = np.broadcast_to(np.asarray(guess, dtype=np.float64), (count,))
    for name, value in (("cutoff", cutoff), ("tolerance", tolerance), ("guess", start.min(initial=np.inf))):
        if not (np.isfinite(value) and value > 0.0) and (name != "guess" or count):
            raise UserError(f"{name} must be positive and finite, got {value}")
    if scan < 0:
        raise UserError(f"scan must be at least 0, got {scan}")
    blur = noise / (2.0 * cutoff)
    tolerance = max(tolerance, min(blur, _COARSEST))
    search = _Search(costs, count, cutoff, np.broadcast_to(limit, (count,)), single)
    search.solve(np.arange(count), start.copy(), tolerance)
    monotone = np.ones(count, dtype=np.bool_)
    for _ in range(8 if scan else 0):
        early = search.scan(np.flatnonzero(~search.settled), scan)
        if len(early) == 0:
            break
        monotone[early] = False
        search.solve(
            early, np.sqrt(np.maximum(search.low[early], 1e-3 * search.high[early]) * search.high[early]), tolerance
        )
    return Crossings(search.radius, np.hypot(search.error, blur), search.unbounded, monotone, search.evaluations, scan)


class _Search:
    """Brackets and last points of all rays; each call of the cost serves all rays that still move."""

    def __init__(self, costs: RayCosts, count: int, cutoff: float, limit: Array, single: bool) -> None:
        self.costs, self.cutoff, self.single = costs, cutoff, single
        self.limit = self.representable(limit)
        self.low, self.high = np.zeros(count), np.full(count, np.inf)
        self.radius, self.error = self.limit.copy(), np.zeros(count)
        self.unbounded = np.zeros(count, dtype=np.bool_)
        self.settled = np.zeros(count, dtype=np.bool_)
        self.evaluations = np.zeros(count, dtype=np.int64)
        # The last three points: log r and log (C / T), newest first; nan where there is none.
        self.points = np.full((count, 3, 2), np.nan)

    def representable(self, radii: Array) -> Array:
        """The radii that the costs will be at, once rounded to the dtype of theta."""
        kind = np.float32 if self.single else np.float64
        return np.asarray(radii, dtype=kind).astype(np.float64)

    def evaluate(self, rows: NDArray[np.int64], radii: Array) -> Array:
        """Costs over the cutoff, with the bookkeeping."""
        found = self.costs(rows, radii) / self.cutoff
        if np.isnan(found).any():
            bad = rows[int(np.flatnonzero(np.isnan(found))[0])]
            raise UserError(f"the cost is not a number on ray {bad}: the model overflows there; use float64 or a prior")
        self.evaluations[rows] += 1
        below = found < 1.0
        self.low[rows[below]] = np.maximum(self.low[rows[below]], radii[below])
        self.high[rows[~below]] = np.minimum(self.high[rows[~below]], radii[~below])
        return found

    def solve(self, rows: NDArray[np.int64], start: Array, tolerance: float) -> None:
        """Refines the crossing of the given rays."""
        self.points[rows] = np.nan
        radii = self.representable(np.minimum(start, self.limit[rows]))
        while len(rows):
            found = self.evaluate(rows, radii)
            with np.errstate(divide="ignore"):
                value = np.where(found > 0.0, np.log(np.maximum(found, 1e-300)), -np.inf)
            # Points far from the crossing carry the cost's rounding, or another regime of it.
            usable = np.abs(value) <= _NEAR
            self.points[rows[usable], 1:] = self.points[rows[usable], :-1]
            self.points[rows[usable], 0] = np.stack([np.log(radii[usable]), value[usable]], axis=1)
            done = self._at_the_end(rows, radii, found)
            target, error = self._interpolated(rows, np.log(radii), value, tolerance)
            ready = ~done & (error <= tolerance)
            self.radius[rows[ready]] = np.exp(target[ready])
            self.error[rows[ready]] = error[ready]
            spent = ~done & ~ready & (self.evaluations[rows] >= MOST_EVALUATIONS)
            # Noise in the cost hides the crossing: the bracket says how well it is known.
            self.radius[rows[spent]] = self.low[rows[spent]]
            with np.errstate(divide="ignore"):
                self.error[rows[spent]] = np.log(self.high[rows[spent]] / self.low[rows[spent]])
            going = ~done & ~ready & ~spent
            rows, target = rows[going], np.minimum(np.exp(target[going]), self.limit[rows[going]])
            radii = self.representable(target)

    def _at_the_end(self, rows: NDArray[np.int64], radii: Array, found: Array) -> Flags:
        """Rays that are below the cutoff at the limit: unbounded as far as can be seen."""
        ended: Flags = (radii >= self.limit[rows]) & (found < 1.0)
        self.unbounded[rows[ended]] = True
        self.settled[rows[ended]] = True
        self.radius[rows[ended]] = self.limit[rows[ended]]
        return ended

    def _interpolated(
        self, rows: NDArray[np.int64], here: Array, value: Array, tolerance: float
    ) -> tuple[Array, Array]:
        """Where the crossing should be, in log r, and by how much two orders of interpolation differ."""
        x, f = self.points[rows, :, 0], self.points[rows, :, 1]
        # A point too far off to be kept says nothing of the crossing but its side.
        fresh = np.abs(value) <= _NEAR
        with np.errstate(divide="ignore", invalid="ignore"):
            slope2 = np.where(np.isfinite(value), here - np.clip(value / 2.0, -_LEAP, _LEAP), here + _LEAP)
            secant = x[:, 0] - f[:, 0] * (x[:, 1] - x[:, 0]) / (f[:, 1] - f[:, 0])
            # Inverse quadratic interpolation in Newton's form, at log (C / T) = 0.
            first = (x[:, 1] - x[:, 0]) / (f[:, 1] - f[:, 0])
            second = ((x[:, 2] - x[:, 1]) / (f[:, 2] - f[:, 1]) - first) / (f[:, 2] - f[:, 0])
            quadratic = np.where(fresh, secant + second * f[:, 0] * f[:, 1], np.nan)
            secant = np.where(fresh, secant, np.nan)
            apart = np.abs(quadratic - secant)
            low, high = np.log(self.low[rows]), np.log(self.high[rows])
            middle = (low + high) / 2.0
        target = np.where(np.isfinite(secant), secant, slope2)
        target = np.where(np.isfinite(quadratic), quadratic, target)
        # Two orders may agree by chance far from the crossing; close to it they agree because they are right.
        local = np.isfinite(quadratic) & (np.abs(f[:, 0] * f[:, 1]) <= _LOCAL)
        error = np.where(local, apart, np.inf)
        # The newest point is itself on the crossing when the step from it is below what was asked for.
        step = np.abs(np.where(np.isfinite(secant), secant, slope2) - here)
        arrived = fresh & (step <= tolerance)
        inside = arrived | ((target > low) & (target < high) & (np.abs(target - here) <= 2 * _LEAP))
        error = np.where(arrived, step, error)
        target = np.where(arrived, here, target)
        halved = np.where(np.isfinite(middle), middle, slope2)
        slope_fits = (slope2 > low) & (slope2 < high)
        away = np.where(slope_fits, slope2, halved)
        # A bracket narrower than what was asked for settles a ray whatever the interpolation says.
        with np.errstate(invalid="ignore"):
            width = np.where(np.isfinite(low) & np.isfinite(high), high - low, np.inf)
        error = np.where(inside, error, np.inf)
        target = np.where(inside, target, away)
        # Points that a noisy cost puts out of order send interpolation astray; halve when it dawdles.
        stuck = (self.evaluations[rows] > 12) & np.isfinite(middle) & (self.evaluations[rows] % 2 == 0)
        target = np.where(stuck, middle, target)
        return target, np.minimum(error, width)

    def scan(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Looks below each crossing; rays found above the cutoff there get the earlier bracket."""
        top = self.radius[rows].copy()
        early = np.zeros(len(rows), dtype=np.bool_)
        lowest = np.zeros(len(rows))
        for step in range(1, count + 1):
            look = ~early
            if not look.any():
                break
            radii = self.representable(top[look] * step / (count + 1))
            chosen = rows[look]
            found = self.costs(chosen, radii) / self.cutoff
            self.evaluations[chosen] += 1
            above = found >= 1.0
            hit = np.flatnonzero(look)[above]
            early[hit] = True
            self.low[rows[hit]], self.high[rows[hit]] = lowest[hit], radii[above]
            lowest[np.flatnonzero(look)[~above]] = radii[~above]
        self.settled[rows[~early]] = True
        return rows[early]
