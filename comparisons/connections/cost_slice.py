"""The cost on a plane through parameter space, beside the quadratic model of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from comparisons.connections.peaks import Array
from spectra.errors import UserError, require_counts
from spectra.files import Provenance, Result, counted

# What a quadratic model may be off by, as a share of its own curvature term, before it counts as broken: as in
# the cutoffs that are chosen from data.
BROKEN = 0.1


@dataclass(frozen=True, kw_only=True)
class SliceSettings:
    """What decides the numbers of a slice.

    Attributes:
        axes: numbers of two eigenvectors of the Hessian: 1 is the one of the largest eigenvalue, -1 of the lowest.
        points: number of points along each side of the window.
        reach: half of the window's width, as a multiple of how far the quadratic model holds along that axis.
        seed: seed of the start vectors of the eigenvectors.
    """

    axes: tuple[int, int] = (1, 2)
    points: int = 31
    reach: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, {"points": 3, "seed": 0})
        if 0 in self.axes or self.axes[0] == self.axes[1]:
            raise UserError(
                f"axes must be the numbers of two different eigenvectors, counted from 1, or from -1 at the lower end; "
                f"got {', '.join(map(str, self.axes))}"
            )
        if not 0.0 < self.reach < math.inf:
            raise UserError(f"reach must be positive and finite, got {self.reach}")

    def as_dict(self) -> dict[str, object]:
        """The settings by name."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class Departure:
    """How far the quadratic model holds on a ray from the checkpoint along an axis.

    Attributes:
        axis: number of the axis, 0 or 1.
        sign: 1 or -1, the side.
        radius: distance beyond which the cost is off by more than ``BROKEN`` of the model's curvature term, until it is
            off by all of it or by a tenth of the cost at the checkpoint; inf if it comes to that nowhere.
        first: nearest distance at which it is off so much. It is less than the radius where the cost comes back to the
            model: kinks of the activations do that, whose slopes the Hessian in one point does not see.
        looked: distance up to which was looked.
        cost: cost at the radius less the checkpoint's; nan where there is none.
    """

    axis: int
    sign: int
    radius: float
    first: float
    looked: float
    cost: float


@dataclass(frozen=True, eq=False, repr=False)
class CostSlice(Result):
    """The cost on a window of a plane: coordinates are distances from the first checkpoint, in the parameters' unit.

    Attributes:
        settings: what decides the numbers.
        provenance: where the checkpoint in the origin, the model and the data come from.
        others: where the further checkpoints come from that the plane leads through.
        size: number of parameters n.
        samples: samples of the data whose weight is not zero.
        data_sha256: digest of the data as iterated.
        x: (p,) coordinates along the first axis.
        y: (q,) coordinates along the second.
        costs: (q, p) cost; nan in rows that are not done.
        cost: cost in the origin.
        slope: (2,) gradient of the cost along the axes.
        curvature: (2, 2) Hessian of the cost in the plane; nan where there is no quadratic model.
        eigenvalues: (2,) of the eigenvectors that are the axes; nan for other planes.
        residuals: (2,) ``|H q - l q|`` of these.
        places: (m, 2) coordinates of the further checkpoints.
        place_costs: (m,) their costs.
        directions: (2, n) the axes, orthonormal.
        departures: how far the quadratic model holds along each axis to each side.
        notes: sentences on what was found and left out.
    """

    settings: SliceSettings
    provenance: Provenance
    others: tuple[Provenance, ...]
    size: int
    samples: float
    data_sha256: str
    x: Array
    y: Array
    costs: Array
    cost: float
    slope: Array
    curvature: Array
    eigenvalues: Array
    residuals: Array
    places: Array
    place_costs: Array
    directions: Any
    departures: tuple[Departure, ...] = ()
    notes: tuple[str, ...] = ()
    _drawn_by: ClassVar[str] = "comparisons.connections:draw_slice"
    _written_by: ClassVar[str] = "comparisons.connections:write_slice"

    @property
    def complete(self) -> bool:
        """Whether every row is done."""
        return not bool(np.isnan(self.costs).any())

    @property
    def rows_done(self) -> int:
        """Number of rows that are done."""
        return int((~np.isnan(self.costs).any(1)).sum())

    @property
    def has_model(self) -> bool:
        """Whether there is a quadratic model to draw."""
        return bool(np.isfinite(self.curvature).all())

    def model(self, x: Array, y: Array) -> Array:
        """The quadratic model at coordinates: cost, slope and curvature of the origin."""
        first, second = self.slope
        squares = self.curvature[0, 0] * x**2 + 2.0 * self.curvature[0, 1] * x * y + self.curvature[1, 1] * y**2
        found: Array = self.cost + first * x + second * y + 0.5 * squares
        return found

    @property
    def models(self) -> Array:
        """(q, p) the quadratic model on the window."""
        return self.model(*np.meshgrid(self.x, self.y))

    @property
    def lowest(self) -> tuple[float, float, float]:
        """Coordinates and value of the lowest cost on the window's points."""
        row, column = np.unravel_index(int(np.nanargmin(self.costs)), self.costs.shape)
        return float(self.x[column]), float(self.y[row]), float(self.costs[row, column])

    @property
    def axis_names(self) -> tuple[str, str]:
        """What the axes are, for tables and figures."""
        if self.others:
            return f"towards {self.others[0].name}", f"at right angles, towards {self.others[1].name}"
        return tuple(f"eigenvector {number}" for number in self.settings.axes)  # type: ignore[return-value]

    def _title(self) -> str:
        names = " and ".join(one.name for one in self.others)
        through = f" through {names}" if names else ""
        return f"slice around {self.provenance.name}{through}, {counted(self.size, 'parameter')}"

    def _facts(self) -> dict[str, str]:
        found = {"cost": f"{self.cost:.6g} {self.provenance.cost_unit}"}
        known = [one.radius for one in self.departures if math.isfinite(one.radius)]
        if known:
            found["quadratic to within 10 % up to"] = f"{min(known):.3g}"
        if not self.complete:
            found["not complete"] = f"{self.rows_done} of {len(self.y)} rows"
        return found

    def records(self) -> list[dict[str, Any]]:
        """A row for each point of the window: coordinates, cost, and the quadratic model there."""
        models = self.models
        return [
            {"x": float(x), "y": float(y), "cost": float(self.costs[j, i]), "quadratic": float(models[j, i])}
            for j, y in enumerate(self.y)
            for i, x in enumerate(self.x)
        ]
