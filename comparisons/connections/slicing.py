"""Planes through parameter space: which, what the quadratic model is on them, and the cost on their windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparisons.connections.cost_slice import CostSlice, SliceSettings
from comparisons.connections.departures import departures
from comparisons.connections.journey import Journey, Report, silent
from comparisons.connections.peaks import Array
from comparisons.connections.running_statistics import batch_norms, between, recomputed
from spectra.errors import UserError
from spectra.files import Provenance, counted
from spectra.lanczos import dots, orthonormal_rows, top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import Hessian
from spectra.spectrum import SpectrumSettings
from volume.chunks import at_once

# How far is looked for where the model breaks, in norms of the parameters.
_FARTHEST = 4.0
# Of three checkpoints: what the window has beyond them, as a share of their spread.
_MARGIN = 0.35
# A plane is none where the third checkpoint is this near the line through the other two, as a share of its distance.
_ON_A_LINE = 1e-4


@dataclass(frozen=True, eq=False)
class Axes:
    """A plane through a landscape's anchor.

    Attributes:
        directions: (2, n) orthonormal rows.
        eigenvalues: (2,) of the eigenvectors that they are; nan for others.
        residuals: (2,) of these.
        notes: sentences on them.
    """

    directions: Tensor
    eigenvalues: Array
    residuals: Array
    notes: tuple[str, ...] = ()


def eigenvector_axes(operator: Hessian, settings: SliceSettings, progress: Report) -> Axes:
    """The eigenvectors that the settings name, the entry of largest size in each positive."""
    done, wanted, found, notes = 0, settings.axes, {}, []
    reach = {side: max((side * one for one in wanted if side * one > 0), default=0) for side in (1, -1)}

    def tell(products: int) -> None:
        nonlocal done
        done += products
        progress(done, max(done, 2 * max(map(abs, wanted)) + 32), "eigenvectors")

    for side, count in reach.items():
        if not count:
            continue
        if count > operator.size:
            raise UserError(f"--axes {side * count} is beyond the {counted(operator.size, 'parameter')} of the model")
        which = "largest" if side > 0 else "smallest"
        # The lower end may be crowded, and more products would not tell its eigenvectors apart.
        limit = None if side > 0 else 20 * count + 200
        pairs = top_eigenpairs(operator, count, which=which, seed=settings.seed, max_products=limit, progress=tell)
        for number in range(count):
            found[side * (number + 1)] = pairs.vectors[number], pairs.values[number], pairs.residuals[number]
        if not pairs.converged:
            notes.append(f"the eigenvectors of the {which} eigenvalues are not converged: see their residuals")
    rows = torch.stack([found[number][0] for number in wanted])
    signs = torch.stack([row[row.abs().argmax()].sign() for row in rows]).unsqueeze(1)
    if abs(float(dots(rows[:1], rows[1:]))) > 0.5:
        raise UserError(f"--axes {wanted[0]} and {wanted[1]} are one eigenvector of this model: choose others")
    values, residuals = (np.array([float(found[number][place]) for number in wanted]) for place in (1, 2))
    return Axes(orthonormal(rows * signs), values, residuals, tuple(notes))


def orthonormal(rows: Tensor) -> Tensor:
    """Two rows (2, n) made orthonormal, the first keeping its direction and the second its side."""
    found, _ = orthonormal_rows(rows)
    signs = torch.stack(
        [dots(one.unsqueeze(0), two.unsqueeze(0))[0].sign() for one, two in zip(found, rows, strict=True)]
    )
    return found * signs.to(found).unsqueeze(1)


def slice_landscape(
    landscape: Landscape,
    others: Sequence[Landscape] = (),
    settings: SliceSettings = SliceSettings(),  # noqa: B008  # frozen
    *,
    provenances: Sequence[Provenance] = (),
    memory: int = SpectrumSettings.memory,
    resume: CostSlice | None = None,
    on_rows: Callable[[CostSlice], None] = silent,
    progress: Report = silent,
) -> CostSlice:
    """The cost on a plane around a landscape's anchor: through two eigenvectors, or through two further checkpoints.

    The quadratic model is that of the gradient and of two exact products with the Hessian, so that it does not depend
    on how well eigenvectors are known.

    Args:
        landscape: model, data and cost, around the checkpoint in the origin.
        others: none, or two landscapes of the same model and data.
        settings: what decides the numbers.
        provenances: where the checkpoints come from.
        memory: bytes that graphs of the Hessian may take.
        resume: slice to go on with, of the same landscapes and settings.
        on_rows: called with the slice after each row of points.
        progress: called with work done, work known to be needed and what is being done.

    Returns:
        The slice.

    Raises:
        UserError: if the landscapes are of different models or data, lie on one line, or the cost is not finite.
    """
    if len(others) not in (0, 2):
        raise UserError(f"a plane leads through one checkpoint or through three, got {1 + len(others)}")
    sources = tuple(provenances) or tuple(
        Provenance(f"checkpoint {1 + number}", "") for number in range(1 + len(others))
    )
    journeys = [Journey(landscape, other, "recompute") for other in others]
    found = resume or _begun(Hessian(landscape, memory=memory), journeys, settings, sources, progress)
    on_rows(found)
    plane = _Plane(landscape, journeys, found)
    for row in range(len(found.y)):
        if np.isnan(found.costs[row]).any():
            costs = found.costs.copy()
            costs[row] = plane.row(row)
            found = replace(found, costs=costs)
            on_rows(found)
            progress((row + 1) * len(found.x), found.costs.size, "points of the window")
    return found


def _begun(
    operator: Hessian,
    journeys: list[Journey],
    settings: SliceSettings,
    sources: tuple[Provenance, ...],
    progress: Report,
) -> CostSlice:
    """The slice with its axes, its quadratic model and its window, before any point of that is done."""
    landscape = operator.landscape
    axes = _through(landscape, journeys) if journeys else eigenvector_axes(operator, settings, progress)
    directions = axes.directions
    places = np.array([_coordinates(directions, one.theta - landscape.theta) for one in journeys]).reshape(-1, 2)
    # The first further checkpoint lies on the first axis, up to rounding.
    places[:1, 1:] = 0.0
    notes = [*axes.notes, *dict.fromkeys(note for journey in journeys for note in journey.notes())]
    slope, curvature = np.full(2, np.nan), np.full((2, 2), np.nan)
    gradient: Tensor | None = None
    if not journeys and batch_norms(landscape):
        notes.append("running statistics of batch norm stay the checkpoint's own on the whole plane")
    if any(journey.anew or journey.differing for journey in journeys):
        notes.append("no quadratic model is drawn: the Hessian is of a model whose buffers stay as they are")
    else:
        gradient = landscape.gradient()
        slope = np.array(_coordinates(directions, gradient))
        images = operator.matmat(directions)
        curvature = np.array([_coordinates(directions, image) for image in images])
        curvature = (curvature + curvature.T) / 2.0
    found = CostSlice(
        settings=settings,
        provenance=sources[0],
        others=sources[1:],
        size=landscape.size,
        samples=landscape.samples,
        data_sha256=landscape.batches.sha256,
        x=np.zeros(0),
        y=np.zeros(0),
        costs=np.zeros((0, 0)),
        cost=landscape.cost(),
        slope=slope,
        curvature=curvature,
        eigenvalues=axes.eigenvalues,
        residuals=axes.residuals,
        places=places,
        place_costs=np.array([journey.own_costs()[1] for journey in journeys]),
        directions=directions.cpu().numpy(),
        notes=(*notes, *landscape.notes),
    )
    norm = float(landscape.theta.double().norm()) or 1.0
    if gradient is not None:
        progress(0, 1, "how far the quadratic model holds")
        rays = departures(landscape, directions, gradient, curvature.diagonal(), farthest=_FARTHEST * norm)
        found = replace(found, departures=rays)
    x, y = _window(found, norm)
    return replace(found, x=x, y=y, costs=np.full((len(y), len(x)), np.nan))


def _through(landscape: Landscape, journeys: list[Journey]) -> Axes:
    rows = torch.stack([journey.theta - landscape.theta for journey in journeys])
    lengths = rows.double().norm(dim=1)
    if not bool((lengths > 0.0).all()):
        raise UserError("two of the three checkpoints are the same: no plane leads through them alone")
    directions = orthonormal(rows / lengths.to(rows).unsqueeze(1))
    height = abs(_coordinates(directions, rows[1])[1])
    if height < _ON_A_LINE * float(lengths[1]):
        raise UserError("the three checkpoints lie on one line: no one plane leads through them")
    return Axes(directions, np.full(2, np.nan), np.full(2, np.nan))


def _coordinates(directions: Tensor, vector: Tensor) -> list[float]:
    found: list[float] = dots(directions, vector.expand_as(directions)).tolist()
    return found


def _window(found: CostSlice, norm: float) -> tuple[Array, Array]:
    """Coordinates of the window's points: around where the model breaks, or around three checkpoints."""
    count = found.settings.points
    if found.others:
        ends = np.concatenate([np.zeros((1, 2)), found.places])
        low, high = ends.min(0), ends.max(0)
        low, high = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
        steps = (high - low) / (count - 1)
        # Moved by less than a step, so that the origin is a point of the window.
        places: list[Array] = [steps[axis] * (np.arange(count) + round(low[axis] / steps[axis])) for axis in (0, 1)]
        return places[0], places[1]
    sides: list[Any] = []
    for axis in (0, 1):
        known = [one.radius for one in found.departures if one.axis == axis and math.isfinite(one.radius)]
        half = found.settings.reach * (max(known) if known else norm / _FARTHEST)
        # Of an even number of points one side has one more, so that the origin is a point of the window.
        sides.append(half / (count // 2) * (np.arange(count) - count // 2))
    return sides[0], sides[1]


def _costs(landscape: Landscape, thetas: Tensor) -> Array:
    found: Array = landscape.costs(thetas).cpu().numpy()
    return found


class _Plane:
    """The cost at points of a plane."""

    def __init__(self, landscape: Landscape, journeys: list[Journey], found: CostSlice) -> None:
        self.landscape, self.journeys, self.found = landscape, journeys, found
        self.directions = torch.as_tensor(found.directions).to(landscape.theta)
        self.stateful = any(journey.norms or journey.differing for journey in journeys)

    def row(self, number: int) -> Array:
        """Costs at the points of a row."""
        found, theta = self.found, self.landscape.theta
        along = torch.as_tensor(found.x).to(theta).unsqueeze(1) * self.directions[0]
        count, costs = at_once(len(theta), len(along)), []
        for first in range(0, len(along), count):
            thetas = theta + float(found.y[number]) * self.directions[1] + along[first : first + count]
            if self.stateful:
                places = [(float(x), float(found.y[number])) for x in found.x[first : first + count]]
                costs += [self._with_state(point, place) for point, place in zip(thetas, places, strict=True)]
            else:
                costs += _costs(self.landscape, thetas).tolist()
        values = np.array(costs)
        if not np.isfinite(values).all():
            x, y = float(found.x[~np.isfinite(values)][0]), float(found.y[number])
            raise UserError(f"the cost is not finite at ({x:.3g}, {y:.3g}) of the plane: choose a smaller reach")
        return values

    def _with_state(self, theta: Tensor, place: tuple[float, float]) -> float:
        shares = np.linalg.solve(self.found.places.T, np.array(place))
        state = dict(self.journeys[0].start)
        for journey, share in zip(self.journeys, shares, strict=True):
            moved = between(journey.start, journey.end, float(share))
            state = {
                name: one + moved[name] - journey.start[name] if one.is_floating_point() else one
                for name, one in state.items()
            }
        if any(journey.anew for journey in self.journeys):
            state = recomputed(self.landscape, theta, state)
        return self.landscape.with_state(state).cost(theta)
