"""The cost on the way from one checkpoint to another, and the computing of a connection from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparisons.connections.connection import Connection
from comparisons.connections.exchangeable import hidden_layers, same_outputs
from comparisons.connections.matching import Copy, nearest_copy
from comparisons.connections.path import ALIGNED, STRAIGHT, CostPath, PathSettings
from comparisons.connections.peaks import Array
from comparisons.connections.running_statistics import (
    State,
    batch_norms,
    between,
    differing,
    recomputed,
    state_of,
)
from spectra.errors import UserError
from spectra.files import Provenance, counted
from spectra.lanczos import draw_probes
from spectra.landscape import Landscape
from spectra.nested import tensors_in
from volume.chunks import at_once

Report = Callable[[int, int, str], None]
# Draws by which the rounding of the cost is found, and the roundings of each parameter that they move it by.
_DRAWS, _MOVED = 4, 2.0


class Journey:
    """The cost on straight lines from a landscape's anchor to the parameters of another.

    Attributes:
        landscape: model, data and cost; its anchor is where all lines begin.
        start: buffers and frozen parameters there.
        theta: (n,) parameters of the other checkpoint.
        end: its buffers and frozen parameters.
        differing: names of what the two hold differently beside the variables.
        anew: whether running statistics are computed anew at each point.
    """

    def __init__(self, landscape: Landscape, other: Landscape, statistics: str) -> None:
        """Refuses what is not one model on one set of data.

        Raises:
            UserError: saying what differs.
        """
        ours, theirs = landscape.parameters, other.parameters
        for name, shape in zip(ours.names, ours.shapes, strict=True):
            if name not in theirs.names:
                raise UserError(f"the checkpoints are of different models: the second has no parameter {name}")
            if shape != (found := theirs.shapes[theirs.names.index(name)]):
                raise UserError(
                    f"the checkpoints are of different models: {name} has shape {tuple(shape)} in the first and "
                    f"{tuple(found)} in the second"
                )
        if more := set(theirs.names) - set(ours.names):
            raise UserError(f"the checkpoints are of different models: the first has no parameter {min(more)}")
        if landscape.batches.sha256 != other.batches.sha256:
            raise UserError("the task gives the two checkpoints different data: a path needs one cost")
        self.landscape, self.start, self.end = landscape, state_of(landscape), state_of(other)
        self.theta = ours.flatten(theirs.unflatten(other.theta)).to(landscape.theta)
        self.differing = differing(self.start, self.end)
        self.norms = batch_norms(landscape)
        self.anew = bool(self.norms) and statistics == "recompute"
        self._check_function(other)

    def _check_function(self, other: Landscape) -> None:
        """That this model with the other's tensors is the other model: hyperparameters are not in a checkpoint."""
        inputs = next(self.landscape.iterate()).inputs
        theirs = other.parameters.unflatten(other.theta)
        with torch.no_grad():
            here, there = self.landscape.evaluation(self.tensors(), inputs), other.evaluation(theirs, inputs)
        ours, alike = ([one for one in tensors_in(nest) if one.is_floating_point()] for nest in (here, there))
        if not same_outputs(ours, alike, self.landscape.parameters.computed):
            raise UserError(
                "the checkpoints are of different models: with the second's parameters the first's model gives other "
                "outputs than the second's"
            )

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the other checkpoint, by name."""
        return self.landscape.parameters.unflatten(self.theta) | self.end

    def own_costs(self) -> tuple[float, float]:
        """Costs of both checkpoints as they are."""
        return self.landscape.cost(), self.landscape.with_state(self.end).cost(self.theta)

    def noise(self) -> float:
        """Rounding of the cost at the first checkpoint: what moving each parameter by its own rounding changes."""
        theta, changes = self.landscape.theta, []
        step = _MOVED * torch.finfo(self.landscape.parameters.computed).eps
        kind: dict[str, Any] = {"kind": "rademacher", "dtype": theta.dtype, "device": theta.device}
        for draw in range(_DRAWS):
            signs = draw_probes(len(theta), 1, seed=0, first=draw, stream="roundings", **kind)[0]
            changes.append(abs(self.landscape.cost(theta + step * signs * theta) - self.landscape.cost()))
        return max(changes)

    def costs(self, theta: Tensor, end: State, places: Array, tell: Callable[[int], None]) -> Array:
        """Costs at shares of the way to parameters and a state; ``tell`` is called with how many are done."""
        start = self.landscape.theta
        if not self.norms and not self.differing:
            count, found = at_once(self.landscape.size, len(places)), []
            for first in range(0, len(places), count):
                rows = [torch.lerp(start, theta, share) for share in places[first : first + count].tolist()]
                found.append(self.landscape.costs(torch.stack(rows)).cpu().numpy())
                tell(len(rows))
            return np.concatenate(found)
        costs = []
        for share in places.tolist():
            point, state = torch.lerp(start, theta, share), between(self.start, end, share)
            if self.anew:
                state = recomputed(self.landscape, point, state)
            costs.append(self.landscape.with_state(state).cost(point))
            tell(1)
        return np.array(costs)

    def copy(self, matching: str) -> tuple[Copy | None, tuple[str, ...]]:
        """The copy of the other checkpoint with its units matched, and notes on it; None where there are none."""
        if matching == "none":
            return None, ()
        places = hidden_layers(self.landscape, self.tensors())
        if not places:
            return None, ("no aligned path: no hidden units were found that may change places",)
        first = self.landscape.parameters.unflatten(self.landscape.theta) | self.start
        found = nearest_copy(self.landscape, places, first, self.tensors(), matching)
        return found, found.notes

    def notes(self) -> tuple[str, ...]:
        """Sentences on what is between the checkpoints beside the variables."""
        kept = {f"{name}.{kind}" for name in self.norms for kind in ("running_mean", "running_var")}
        rest = [name for name in self.differing if name not in kept]
        found = []
        if self.anew:
            layers = counted(len(self.norms), "batch norm layer")
            found.append(
                f"running statistics of {layers} are computed anew at each point from the data, at both ends too "
                "(REPAIR)"
            )
        elif self.norms:
            layers = counted(len(self.norms), "batch norm layer")
            found.append(
                f"running statistics of {layers} are interpolated, which averaged weights do not have: a barrier may "
                "be of stale statistics alone"
            )
        if rest:
            names = ", ".join(rest[:3]) + (", …" if len(rest) > 3 else "")
            found.append(f"{counted(len(rest), 'tensor')} beside the variables differ and are interpolated: {names}")
        return tuple(found)


def silent(*_: object) -> None:
    """What is called where nobody listens."""


def connect_landscapes(
    landscape: Landscape,
    other: Landscape,
    settings: PathSettings = PathSettings(),  # noqa: B008  # frozen
    *,
    provenances: tuple[Provenance, Provenance] = (Provenance("first", ""), Provenance("second", "")),  # noqa: B008
    resume: Connection | None = None,
    on_round: Callable[[Connection], None] = silent,
    progress: Report = silent,
) -> Connection:
    """The cost along the straight path between two landscapes' anchors, and along the one to an aligned copy.

    Each path is refined where its highest point may be, until the barrier is known to the tolerance.

    Args:
        landscape: model, data and cost, around the first checkpoint.
        other: the same model and data around the second.
        settings: what decides the numbers.
        provenances: where the two come from.
        resume: connection to go on with, of the same landscapes.
        on_round: called with the connection after each round of points.
        progress: called with points done, points known to be needed and the path.

    Returns:
        The connection.

    Raises:
        UserError: if the landscapes are of different models or data, or the cost is not finite on the way.
    """
    journey = Journey(landscape, other, settings.statistics)
    copy, notes = journey.copy(settings.matching)
    found = Connection(
        settings=settings,
        provenance=provenances[0],
        other=provenances[1],
        size=landscape.size,
        samples=landscape.samples,
        data_sha256=landscape.batches.sha256,
        own_costs=journey.own_costs(),
        layers=() if copy is None else copy.layers,
        paths=() if resume is None else resume.paths,
        notes=(*journey.notes(), *notes, *landscape.notes),
    )
    ends = {STRAIGHT: (journey.theta, journey.end)}
    if copy is not None:
        theta = landscape.parameters.flatten(copy.tensors)
        ends[ALIGNED] = (theta, {name: copy.tensors[name] for name in journey.end})
    for number, (name, (theta, state)) in enumerate(ends.items()):
        walk = _Walk(journey, theta, state, progress, name)
        path = found.path(name) or walk.begin(settings)
        found = _with(found, number, path)
        on_round(found)
        while len(places := path.next_places(settings)):
            path = path.with_costs(places, walk.at(places, len(path.places), settings.points))
            found = _with(found, number, path)
            on_round(found)
    return _checked(found)


class _Walk:
    """One line, walked along with progress."""

    def __init__(self, journey: Journey, theta: Tensor, state: State, progress: Report, name: str) -> None:
        self.journey, self.theta, self.state, self.progress, self.name = journey, theta, state, progress, name

    def at(self, places: Array, done: int, least: int = 0) -> Array:
        def tell(more: int) -> None:
            nonlocal done
            done += more
            self.progress(done, total, f"{self.name} path")

        total = max(least, done + len(places))
        costs = self.journey.costs(self.theta, self.state, places, tell)
        if not np.isfinite(costs).all():
            place = float(places[~np.isfinite(costs)][0])
            raise UserError(
                f"the cost is not finite at {place:.4f} of the {self.name} path: there is no barrier of finite height"
            )
        return costs

    def begin(self, settings: PathSettings) -> CostPath:
        places = np.array([0.0, 0.5, 1.0])
        costs = self.at(places, 0, settings.points)
        theta, start = self.theta, self.journey.landscape.theta
        epsilon = torch.finfo(self.journey.landscape.parameters.computed).eps
        noise = max(self.journey.noise(), 4.0 * epsilon * float(np.abs(costs).max()))
        return CostPath(self.name, places, costs, float((theta.double() - start.double()).norm()), noise)


def _with(found: Connection, number: int, path: CostPath) -> Connection:
    return replace(found, paths=(*found.paths[:number], path, *found.paths[number + 1 :]))


def _checked(found: Connection) -> Connection:
    """Without the aligned path where its end does not cost what the second checkpoint costs."""
    straight, aligned = found.path(STRAIGHT), found.path(ALIGNED)
    if straight is None or aligned is None:
        return found
    apart = abs(float(aligned.costs[-1] - straight.costs[-1]))
    if apart <= max(8.0 * straight.noise, 1e-4 * abs(float(straight.costs[-1]))):
        return found
    note = (
        f"no aligned path: the copy of the second checkpoint costs {apart:.2g} more or less than itself, so that the "
        "hidden units that were found may not change places on all of the data"
    )
    return replace(found, paths=(straight,), layers=(), notes=(*found.notes, note))
