"""One rung of a bridge: a Gibbs ensemble, and what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# What a work of no finite value counts as, nats: its weight is zero all the same.
IMPOSSIBLE = 1e12
# More of them than this, and a rung is out of reach; fewer only cost their share of the overlap.
_TOLERATED = 0.25


@dataclass(frozen=True)
class RungState:
    """Which ensemble: ``pi(x) ~ N(a + x; 0, I) exp(-b C(x) - g/2 |x|^2)``.

    Attributes:
        inverse_temperature: b, per unit of cost.
        localisation: g, in units of the prior's precision.
    """

    inverse_temperature: float
    localisation: float

    @property
    def free(self) -> bool:
        """Whether nothing but the cost holds it to the anchor."""
        return self.localisation == 0.0


@dataclass(frozen=True)
class Passage:
    """How points are carried from one rung to the next: as the quadratic ensemble moves between two references.

    Any two references give a right answer; ones as narrow as the rungs themselves give small works.

    Attributes:
        here: the rung.
        there: the next.
        departure: reference of this rung.
        arrival: reference of the next.
    """

    here: RungState
    there: RungState
    departure: RungState
    arrival: RungState


@dataclass(frozen=True, eq=False)
class Correction:
    """What chains have seen of an ensemble, in units of the quadratic model's precision there.

    Attributes:
        precisions: (k,) of the leading directions, at least one.
        vectors: (k, n) these directions, orthonormal rows.
        rest: mean precision on their complement, at least one.
        mean: (n,) mean of the draws.
        points: (m, n) draws whose curvature may be taken, in place of all this; none where that is not affordable.
    """

    precisions: Array
    vectors: NDArray[np.floating]
    rest: float
    mean: NDArray[np.floating]
    points: NDArray[np.floating] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def stiffer(self, factor: float) -> Correction:
        """The same where what the model lacks is that many times as much."""
        precisions, rest = 1.0 + factor * (self.precisions - 1.0), 1.0 + factor * (self.rest - 1.0)
        return replace(self, precisions=precisions, rest=rest)


@dataclass(frozen=True, eq=False)
class Rung:
    """Evidence of one rung; all its estimates follow from these numbers, and the points are not kept.

    A work is that of carrying a point to a neighbouring rung: the change of the reduced potential less the log
    determinant of the map.

    Attributes:
        state: the ensemble.
        passage: way to the next rung; None for the last.
        costs: (draws, chains) C.
        quadratics: (kept, chains) the quadratic model's cost.
        squares: (draws, chains) ``|x|^2`` in standard deviations of the prior.
        prior_squares: (draws, chains) ``|a + x|^2``, minus twice the prior's log density up to a constant.
        onward: (kept, chains) works to the next rung; no rows for the last.
        backward: (kept, chains) works to the rung before; no rows for the first.
        last: (chains, n) the last points.
        diverged: (chains,) trajectories that ended at no finite energy, or far too high a one; all were rejected.
        step_size: step size of the integrator; nan for independent draws.
        acceptance: mean acceptance probability; nan for independent draws.
        leaps: integrator steps of each chain.
        gradient_evaluations: gradients evaluated, of one parameter vector each.
        cost_evaluations: costs evaluated, of one parameter vector each.
        levels: (draws, chains) what decides whether a draw is in the set; no rows where C does, or the rung is neither
            free nor the first.
        seen: what the next rung's quadratic model is mended by; None where nothing was learned.
    """

    state: RungState
    passage: Passage | None
    costs: Array
    quadratics: Array
    squares: Array
    prior_squares: Array
    onward: Array
    backward: Array
    last: NDArray[np.floating]
    diverged: NDArray[np.int64]
    step_size: float = float("nan")
    acceptance: float = float("nan")
    leaps: int = 0
    gradient_evaluations: int = 0
    cost_evaluations: int = 0
    levels: Array = field(default_factory=lambda: np.empty((0, 0)))
    seen: Correction | None = None

    @property
    def deciding(self) -> Array:
        """What decides (draws, chains) whether a draw is in the set."""
        return self.levels if self.levels.size else self.costs

    def without(self, chain: int) -> Rung:
        """The rung less one chain's costs and levels."""
        levels = np.delete(self.levels, chain, 1) if self.levels.size else self.levels
        return replace(self, costs=np.delete(self.costs, chain, 1), levels=levels)

    @property
    def chains(self) -> int:
        """How many chains."""
        return int(self.costs.shape[1])


PER_DRAW = ("costs", "quadratics", "squares", "prior_squares", "onward", "backward", "levels")


def merged_passes(rungs: list[Rung]) -> Rung:
    """The same rung of several passes as one, their chains side by side; all are of one state and as many draws."""
    first = rungs[0]
    if len(rungs) == 1:
        return first
    values = {field.name: getattr(first, field.name) for field in fields(first)}
    for name in PER_DRAW:
        values[name] = np.concatenate([getattr(rung, name) for rung in rungs], axis=1)
    for name in ("last", "diverged"):
        values[name] = np.concatenate([getattr(rung, name) for rung in rungs])
    for name in ("leaps", "gradient_evaluations", "cost_evaluations"):
        values[name] = sum(getattr(rung, name) for rung in rungs)
    values["acceptance"] = float(np.mean([rung.acceptance for rung in rungs]))
    return Rung(**values)


def in_halves(rung: Rung) -> tuple[Rung, Rung]:
    """The first and the second half of the draws of each chain; what is not of single draws is the same in both."""
    arrays = {name: getattr(rung, name) for name in PER_DRAW}
    first = {name: array[: len(array) // 2] for name, array in arrays.items()}
    second = {name: array[len(array) // 2 :] for name, array in arrays.items()}
    return replace(rung, **first), replace(rung, **second)


def robust_deviation(works: Array) -> float:
    """Half the distance of the 16th and 84th percentile: the standard deviation of a normal, deaf to outliers.

    Works that are impossible are left out, and the answer is inf if they are more than a quarter.

    >>> robust_deviation(np.arange(101.0))
    34.0
    """
    if float(np.mean(works >= IMPOSSIBLE)) > _TOLERATED:
        return float("inf")
    low, high = np.percentile(works[works < IMPOSSIBLE], [16.0, 84.0])
    return float(0.5 * (high - low))
