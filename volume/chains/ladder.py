"""From one rung of a bridge to the next: the work of carrying points, and how far the next rung may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from spectra.errors import UserError
from volume.chains.cost import BridgeCost
from volume.chains.hamiltonian import Potential
from volume.chains.rung import IMPOSSIBLE, Array, Passage, RungState, robust_deviation
from volume.chains.settings import LEAST_BELOW
from volume.quadratic import QuadraticEnsemble

# Trial rungs of one search, and the points that judge them, each by an evaluation.
TRIALS, TRIED = 8, 128
# Arrivals of each trial, by how much of the change of g or b they follow, and the points that judge them.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SHAPING = 32
# A trial whose work spreads by this share of the aim or more, and not above it, is good enough.
GOOD_ENOUGH = 0.75
# Free ensembles reach a cutoff where it is within so many standard deviations of their mean cost.
REACHED = 1.0
# The exactly known start is localised no more than this, in units of the prior's precision.
LARGEST_LOCALISATION = 1e15


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of a rung that are carried.

    Attributes:
        points: (k, n).
        costs: (k,) float64.
        components: (k, m) of the points on the reference's eigenvectors.
    """

    points: Tensor
    costs: Tensor
    components: Tensor

    def head(self, count: int) -> Cloud:
        """The first of them."""
        return Cloud(self.points[:count], self.costs[:count], self.components[:count])


@dataclass(frozen=True, eq=False)
class Carrier:
    """Carries points between the rungs of one cost.

    Attributes:
        cost: C.
        reference: a quadratic ensemble of the curvature that the maps are made of, at any rung.
        moves: whether points are moved at all; else, on a ladder without localisation, a point is its own image, and
            its work needs no new cost.
    """

    cost: BridgeCost
    reference: QuadraticEnsemble
    moves: bool = True

    def ensemble(self, state: RungState) -> QuadraticEnsemble:
        """The quadratic ensemble at a rung."""
        return self.reference.at(state.inverse_temperature, state.localisation)

    def tilted(self, points: Tensor) -> Tensor | float:
        """Energies (k,) that replace the normal prior by the real one; nothing on a ladder that starts from that."""
        return 0.0 if self.cost.tilt is None or not self.moves else self.cost.tilt(points)[0]

    def cloud(self, points: Tensor, costs: Tensor) -> Cloud:
        """Points (k, n) with their costs (k,), ready to be carried."""
        return Cloud(points, costs, self.reference.components(points))

    def carried(self, points: Tensor, components: Tensor, passage: Passage) -> Tensor:
        """Points (k, n) of this rung moved to the next."""
        if not self.moves:
            return points
        return self.ensemble(passage.departure).carried(points, components, self.ensemble(passage.arrival))

    def works(self, cloud: Cloud, passage: Passage) -> Array:
        """Works (k,) of carrying points of one rung to another; float64, nats."""
        here, there = passage.here, passage.there
        after = Potential(self.cost, there.inverse_temperature, there.localisation)
        if not self.moves:
            # Nothing localises a ladder of points that stay: their costs are all that counts.
            return finite((there.inverse_temperature - here.inverse_temperature) * cloud.costs)
        moved = self.carried(cloud.points, cloud.components, passage)
        before = Potential(self.cost, here.inverse_temperature, here.localisation)
        change = after.energy(self.cost.costs(moved), moved) - before.energy(cloud.costs, cloud.points)
        return finite(change - self.ensemble(passage.departure).log_stretch(self.ensemble(passage.arrival)))

    def fitted(self, state: RungState, mean_square: float) -> RungState:
        """The reference of a rung: as much localised as makes the quadratic ensemble as wide as the rung is.

        Args:
            state: the rung.
            mean_square: its ``E|x|^2``.

        Returns:
            The state of that quadratic ensemble, no less localised than nothing at all.
        """

        def excess(log_width: float) -> float:
            there = RungState(state.inverse_temperature, math.expm1(log_width))
            return math.log(self.ensemble(there).mean_square) - math.log(mean_square)

        low, high = 0.0, math.log1p(state.localisation) + 1.0
        if excess(low) <= 0.0:
            return RungState(state.inverse_temperature, 0.0)
        while excess(high) > 0.0:
            high += 2.0
        return RungState(state.inverse_temperature, math.expm1(float(brentq(excess, low, high, xtol=1e-3))))


def finite(works: Tensor) -> Array:
    """Works as float64 on the host; those that are not finite count as impossible."""
    values = torch.nan_to_num(works.double(), nan=IMPOSSIBLE, posinf=IMPOSSIBLE, neginf=IMPOSSIBLE)
    return np.asarray(values.clamp(max=IMPOSSIBLE).cpu().numpy(), dtype=np.float64)


def first_localisation(carrier: Carrier, draw: Callable[[RungState], Tensor], inverse_temperature: float) -> RungState:
    """The weakest localisation, roughly, at which the cost is its quadratic model for the ensemble's purposes.

    There ``b (C - Q)`` spreads by at most one nat over the points that ``draw`` gives of the quadratic ensemble at a
    state, from the same random numbers each time.

    Raises:
        UserError: if no localisation makes the cost its quadratic model.
    """

    def deviation(localisation: float) -> float:
        state = RungState(inverse_temperature, localisation)
        points = draw(state)
        excess = carrier.cost.costs(points) - carrier.ensemble(state).costs(points)
        works = finite(inverse_temperature * excess + carrier.tilted(points))
        found = robust_deviation(works)
        return found if math.isinf(found) else max(found, 0.25 * float(np.ptp(works[works < IMPOSSIBLE])))

    if deviation(0.0) <= 1.0:
        return RungState(inverse_temperature, 0.0)
    high = 1.0
    while deviation(high) > 1.0:
        high *= 10.0
        if high > LARGEST_LOCALISATION:
            raise UserError(
                "the cost is nowhere its quadratic model: it has a kink or a slope at the anchor, or its rounding "
                f"times the inverse temperature {inverse_temperature:.3g} is more than one nat (use float64)"
            )
    low = high / 10.0 if high > 1.0 else 0.1
    for _ in range(3):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if deviation(middle) <= 1.0 else (middle, high)
    return RungState(inverse_temperature, high)


def pending_cutoff(cutoffs: Iterable[float], free: Iterable[tuple[RungState, Array]]) -> float | None:
    """The largest cutoff that no free ensemble, of state and costs (draws, chains), has reached yet, or None.

    Raises:
        UserError: if a cutoff is above all that the prior itself costs.
    """
    seen = list(free)
    for cutoff in sorted(cutoffs, reverse=True):
        if not any(reached(costs, cutoff) or _within_prior(state, costs, cutoff) for state, costs in seen):
            return cutoff
    return None


def _within_prior(state: RungState, costs: Array, cutoff: float) -> bool:
    """Whether the prior itself costs less than the cutoff in the mean: no cooling leads there."""
    if state.inverse_temperature > 0.0 or not float(np.median(costs)) < cutoff:
        return False
    if (most := float(costs.max())) < cutoff:
        advice = "use a smaller one" if most > 0.0 else "and would at any other"
        raise UserError(
            f"cutoff {cutoff:g} is above the cost of all {costs.size} draws of the prior (at most {most:.4g}): nearly "
            f"all of parameter space behaves so, {advice}"
        )
    return True


def reached(costs: Array, cutoff: float) -> bool:
    """Whether the cutoff is near the mean of an ensemble's costs (draws, chains), which lie on both sides of it.

    >>> reached(np.array([[1.0, 2.0], [3.0, 4.0]]), 2.5), reached(np.array([[1.0, 2.0], [3.0, 4.0]]), 9.0)
    (True, False)
    """
    if not np.isfinite(costs).all():
        return False
    gap = abs(float(costs.mean()) - cutoff)
    below = costs < cutoff
    return gap <= REACHED * float(costs.std()) and float(below.mean()) >= LEAST_BELOW and _several(below)


def _several(below: NDArray[np.bool_]) -> bool:
    """Whether draws of at least two chains are below, so that their spread is an error."""
    return int(np.atleast_2d(below).any(0).sum()) >= 2


def goal(state: RungState, costs: Array, cutoff: float) -> RungState:
    """Where the ladder wants to go from a rung: to freedom first, then to the b whose mean cost is the cutoff.

    Raises:
        UserError: if the ensemble costs less than the anchor.
    """
    if not state.free:
        return RungState(state.inverse_temperature, 0.0)
    if state.inverse_temperature == 0.0:
        return RungState(1.0 / cutoff, 0.0)
    if not float(costs.mean()) > 0.0:
        mean = float(costs.mean())
        found = f"is {mean:.3g}, not above the checkpoint's own" if math.isfinite(mean) else "falls without end"
        raise UserError(
            f"at inverse temperature {state.inverse_temperature:.3g} the mean cost {found}: the checkpoint is no "
            f"minimum of this cost, or the cost is constant, and no cooling leads to the cutoff {cutoff:g}; use --cost "
            "kl, for a classifier, or a checkpoint that is one"
        )
    # The mean cost is nearly inverse to b: half the effective dimension over b.
    return RungState(state.inverse_temperature * float(costs.mean()) / cutoff, 0.0)


def next_passage(
    carrier: Carrier, cloud: Cloud, here: RungState, towards: RungState, aim: float
) -> tuple[Passage, Array]:
    """The passage to the farthest rung on the way to a goal whose works spread by no more than the aim, roughly.

    The works (k,) of the cloud's points come with it, nats.
    """
    departure = here
    if carrier.moves:
        departure = carrier.fitted(here, float(cloud.points.double().square().sum(-1).mean()))
    low, high, share = 0.0, 1.0, 1.0
    best: Passage | None = None
    for _ in range(TRIALS):
        passage = _shaped(carrier, cloud.head(SHAPING), departure, here, between(here, towards, share))
        found = robust_deviation(carrier.works(cloud.head(TRIED), passage))
        if found <= aim:
            low, best = share, passage
            if found >= GOOD_ENOUGH * aim or share == 1.0:
                break
        else:
            high = share
        # Beyond the aim the spread grows faster than the way.
        share = math.sqrt(low * high) if low else share * min(max(0.9 * aim / found, 0.1), 0.7)
    if best is None:
        best = _shaped(carrier, cloud.head(SHAPING), departure, here, between(here, towards, share))
    return best, carrier.works(cloud, best)


def shortened(carrier: Carrier, cloud: Cloud, passage: Passage) -> tuple[Passage, Array]:
    """A passage to a rung half way with its works (k,), for where the next rung shares too little with this one."""
    half = between(passage.here, passage.there, 0.5)
    shorter = _shaped(carrier, cloud.head(SHAPING), passage.departure, passage.here, half)
    return shorter, carrier.works(cloud, shorter)


def _shaped(carrier: Carrier, cloud: Cloud, departure: RungState, here: RungState, there: RungState) -> Passage:
    """The passage whose arrival is as wide as makes the works small: their mean less the log ratio is a divergence."""
    if not carrier.moves:
        return Passage(here, there, departure, there)
    moved = math.log1p(there.localisation) - math.log1p(here.localisation)
    moved += math.log(there.inverse_temperature) - math.log(here.inverse_temperature)
    passages = []
    for share in SHARES:
        log_width = max(math.log1p(departure.localisation) + share * moved, 0.0)
        arrival = RungState(there.inverse_temperature, math.expm1(log_width))
        passages.append(Passage(here, there, departure, arrival))
    medians = [float(np.median(carrier.works(cloud, passage))) for passage in passages]
    return passages[int(np.argmin(medians))]


def between(here: RungState, there: RungState, share: float) -> RungState:
    """A rung at a share in [0, 1] of a way, geometric in ``g + 1`` and in b; linear in b if that begins at zero.

    >>> round(between(RungState(1.0, 99.0), RungState(1.0, 0.0), 0.5).localisation, 12)
    9.0
    """
    if share == 1.0:
        return there
    log_width = (1.0 - share) * math.log1p(here.localisation) + share * math.log1p(there.localisation)
    if here.inverse_temperature == 0.0:
        return RungState(share * there.inverse_temperature, math.expm1(log_width))
    log_b = (1.0 - share) * math.log(here.inverse_temperature) + share * math.log(there.inverse_temperature)
    return RungState(math.exp(log_b), math.expm1(log_width))
