"""A path between two checkpoints, the cost along it, and the barrier on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comparisons.connections.peaks import Array, Peak, peak, to_look_at
from spectra.errors import UserError, require_counts

STRAIGHT, ALIGNED = "straight", "aligned"
# Points of a round, after which a path is kept.
ROUND = 8


@dataclass(frozen=True, kw_only=True)
class PathSettings:
    """What decides the numbers of a connection.

    Attributes:
        points: number of equally spaced points that each path begins with, both ends among them.
        tolerance: how far the barrier may be off, as a share of the range of costs along its path.
        most: number of points at which a path is given up, known as well as it is.
        matching: how hidden units are matched: by ``weights`` or by ``activations``; ``none`` leaves the path out.
        statistics: what batch norm's running statistics are on the way: ``recompute`` or ``interpolate``.
    """

    points: int = 25
    tolerance: float = 1e-3
    most: int = 200
    matching: str = "weights"
    statistics: str = "recompute"

    def __post_init__(self) -> None:
        require_counts(self, {"points": 5, "most": 5})
        if not 0.0 < self.tolerance < 1.0:
            raise UserError(f"tolerance must lie between 0 and 1, a share of the range of costs; got {self.tolerance}")

    def as_dict(self) -> dict[str, object]:
        """The settings by name."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class CostPath:
    """The cost along a straight line between two parameter vectors.

    Attributes:
        name: ``straight``, or ``aligned`` to a copy of the second checkpoint with its hidden units in another order.
        places: (k,) ascending shares of the way, 0 at the first checkpoint and 1 at the second.
        costs: (k,) the cost there.
        distance: norm of the difference of the parameters.
        noise: rounding of the costs, in their unit: heights below it are none.
    """

    name: str
    places: Array
    costs: Array
    distance: float
    noise: float = 0.0

    @property
    def above_chord(self) -> Array:
        """(k,) cost less what a straight line between the costs of both ends has there."""
        chord: Array = (1.0 - self.places) * self.costs[0] + self.places * self.costs[-1]
        return self.costs - chord

    @property
    def above_ends(self) -> Array:
        """(k,) cost less that of the worse end."""
        found: Array = self.costs - max(self.costs[0], self.costs[-1])
        return found

    @property
    def barrier(self) -> Peak:
        """The highest point above the line between the costs of both ends: the barrier as the field defines it.

        Reference:
            Entezari, Sedghi, Saukh and Neyshabur, The role of permutation invariance in linear mode connectivity of
            neural networks, 2022.
        """
        return peak(self.places, self.above_chord)

    @property
    def rise(self) -> Peak:
        """The highest point above the worse end: none where one could walk down from there to the better one."""
        return peak(self.places, self.above_ends)

    def allowed(self, settings: PathSettings) -> float:
        """What the heights may be off by, in the cost's unit."""
        return max(settings.tolerance * float(np.ptp(self.costs)), 2.0 * self.noise)

    def next_places(self, settings: PathSettings) -> Array:
        """Where to evaluate the cost next; none once the heights are known, or there are ``most`` points.

        They follow from the points that there are, so that a path that is gone on with comes to the same numbers.
        """
        grid = np.linspace(0.0, 1.0, settings.points)
        found: Array = grid[~np.isin(grid, self.places)]
        if not len(found):
            curves = np.stack([self.above_chord, self.above_ends])
            found = to_look_at(self.places, curves, self.allowed(settings))
        return found[: max(0, min(ROUND, settings.most - len(self.places)))]

    def known(self, settings: PathSettings) -> bool:
        """Whether both heights are known within the tolerance."""
        return len(self.places) >= settings.points and max(self.barrier.error, self.rise.error) <= self.allowed(
            settings
        )

    def with_costs(self, places: Array, costs: Array) -> CostPath:
        """The path with further points."""
        order = np.argsort(found := np.concatenate([self.places, places]), kind="stable")
        values = np.concatenate([self.costs, costs])[order]
        return CostPath(self.name, found[order], values, self.distance, self.noise)
