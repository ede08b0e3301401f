r"""Hamiltonian Monte Carlo on a batch of chains in lockstep, split around a Gaussian that is near the target.

The energy ``U(x) = b C(x) + g/2 |x|^2 + 1/2 |a + x|^2`` is that of the Gaussian (precision A, mean m) plus a residual.
With A as the mass, the Gaussian part rotates displacement and velocity into each other exactly, and only the residual
is kicked: ``v -= e/2 (A^-1 grad U - (x - m))``. Where the cost is quadratic, a step of any length is exact.

Reference: Shahbaba, Lan, Johnson and Neal, Split Hamiltonian Monte Carlo, 2014; Hoffman and Gelman, The No-U-Turn
sampler, 2014, for dual averaging.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from volume.chains.cost import BridgeCost
from volume.chains.metric import Gaussian
from volume.chains.shared_chains import ChainShare

TARGET_ACCEPTANCE = 0.8
# A quarter turn makes a Gaussian's draw independent of the last one; more than a radian a step is never of use.
QUARTER_TURN = 0.5 * math.pi
LONGEST_STEP = 1.0
# The gamma of dual averaging.
EAGERNESS = 0.2
# While it adapts, the step stays above this share of the first guess: a few rejections at once would else shrink it a
# hundredfold, and a trajectory would have a hundred thousand leaps.
SMALLEST_SHARE = 0.05
# An error of the energy beyond which a trajectory counts as diverged, nats.
DIVERGED = 1000.0


@dataclass(frozen=True, eq=False)
class Potential:
    """``U(x) = b C(x) + g/2 |x|^2 + 1/2 |a + x|^2``, in standard deviations of the prior, and its tilt if it has one.

    Attributes:
        cost: C and a.
        inverse_temperature: b.
        localisation: g.
    """

    cost: BridgeCost
    inverse_temperature: float
    localisation: float

    def energy(self, costs: Tensor, points: Tensor) -> Tensor:
        """U (k,), float64, where the costs are known."""
        square, prior_square = squares(points, self.cost.anchor)
        found = self.inverse_temperature * costs + 0.5 * (self.localisation * square + prior_square)
        return found if self.cost.tilt is None else found + self.cost.tilt(points)[0]

    def slope(self, slopes: Tensor, points: Tensor) -> Tensor:
        """Gradient of U (k, n), where that of the cost is known."""
        anchor = self.cost.anchor.to(points.dtype)
        found = self.inverse_temperature * slopes + (self.localisation + 1.0) * points + anchor
        return found if self.cost.tilt is None else found + self.cost.tilt(points)[1]


def squares(points: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """``|x|^2`` and ``|a + x|^2`` of rows of points (k, n), float64 (k,)."""
    wide = points.double()
    square = wide.square().sum(-1)
    return square, square + 2.0 * (wide @ anchor) + anchor.square().sum()


@dataclass(frozen=True, eq=False)
class ChainStates:
    """Where chains stand.

    Attributes:
        points: (k, n).
        costs: (k,) float64.
        forces: (k, n), what ``BridgeCost.forces`` gives there.
    """

    points: Tensor
    costs: Tensor
    forces: Tensor

    @classmethod
    def at(cls, cost: BridgeCost, points: Tensor) -> ChainStates:
        """States at given points."""
        costs, forces = cost.forces(points, with_costs=True)
        assert costs is not None
        return cls(points, costs, forces)


@dataclass
class SamplerRecord:
    """What the sampler did after the warm-up.

    Attributes:
        step_size: step size of the integrator, radians of the Gaussian's oscillation.
        acceptance: mean acceptance probability.
        diverged: (k,) trajectories of each chain that ended at no finite energy or far too high; all were rejected.
        leaps: integrator steps in all, warm-up included.
    """

    step_size: float
    acceptance: float
    diverged: Tensor
    leaps: int


def hamiltonian_chains(
    potential: Potential,
    metric: Gaussian,
    points: Tensor,
    generator: torch.Generator,
    *,
    warm_up: int,
    draws: int,
    step_size: float,
    on_draw: Callable[[int, ChainStates], None],
) -> tuple[Tensor, SamplerRecord]:
    """Runs chains from points (k, n): a warm-up that averages the step size, then draws at the step size found.

    Where the potential's cost is shared out over ranks, each rank moves some of the chains. The integrator is split
    around the metric: any Gaussian is right, one near the target is fast. ``on_draw`` gets the number of each draw and
    where all chains stand. The last points (k, n) are returned with what the sampler did.
    """
    averaging, share = StepSize(step_size), ChainShare(potential.cost, len(points))
    potential = replace(potential, cost=share.cost)
    states = ChainStates.at(share.cost, share.own(points))
    # Sums stay on the device: to read one makes the host wait, which a trajectory does once, for its length.
    diverged = torch.zeros(len(states.points), dtype=torch.int64, device=states.points.device)
    accepted = torch.zeros((), dtype=torch.float64, device=states.points.device)
    record = SamplerRecord(step_size, 0.0, diverged, 0)
    for number in range(warm_up + draws):
        warm = number < warm_up
        step = averaging.step if warm else record.step_size
        length = 0.7 + 0.6 * float(torch.rand(1, generator=generator, device=generator.device))
        leaps = max(1, round(metric.turns * QUARTER_TURN * length / step))
        states, chance, lost = _transition(potential, metric, states, share, generator, step, leaps)
        acceptance = share.joined(chance).mean()
        record.leaps += leaps
        if warm:
            averaging.update(float(acceptance))
            record.step_size = averaging.averaged
            continue
        accepted += acceptance / draws
        diverged += lost
        points = share.joined(states.points)
        on_draw(number - warm_up, ChainStates(points, share.joined(states.costs), share.joined(states.forces)))
    record.acceptance, record.diverged = float(accepted), share.joined(diverged.cpu())
    share.settle()
    return points, record


def _transition(
    potential: Potential,
    metric: Gaussian,
    states: ChainStates,
    share: ChainShare,
    generator: torch.Generator,
    step: float,
    leaps: int,
) -> tuple[ChainStates, Tensor, Tensor]:
    """One trajectory of each chain, accepted or not; their acceptance probabilities and which of them diverged."""
    # Every process draws the numbers of all chains and takes those of its own.
    velocities = share.own(metric.deviations(generator, share.count))
    before = potential.energy(states.costs, states.points) + _kinetic(metric, velocities)
    ends, velocities = _trajectory(potential, metric, states, velocities, step, leaps)
    after = potential.energy(ends.costs, ends.points) + _kinetic(metric, velocities)
    change = before - after
    diverged = ~(change > -DIVERGED)  # nan too
    chance = torch.where(diverged, 0.0, change.clamp(max=0.0).exp())
    uniform = share.own(torch.rand(share.count, generator=generator, dtype=torch.float64, device=generator.device))
    accepted = (uniform.to(chance.device) < chance).unsqueeze(1)
    kept = ChainStates(
        torch.where(accepted, ends.points, states.points),
        torch.where(accepted[:, 0], ends.costs, states.costs),
        torch.where(accepted, ends.forces, states.forces),
    )
    return kept, chance, diverged


def _trajectory(
    potential: Potential,
    metric: Gaussian,
    states: ChainStates,
    velocities: Tensor,
    step: float,
    leaps: int,
) -> tuple[ChainStates, Tensor]:
    """Half kick, rotation, half kick; neighbouring half kicks are one."""
    cosine, sine = math.cos(step), math.sin(step)
    points, forces = states.points, states.forces
    costs: Tensor | None = None

    def kick(size: float) -> Tensor:
        pull = metric.inverse(potential.slope(forces, points)) - (points - metric.mean)
        return velocities - size * pull

    velocities = kick(0.5 * step)
    for leap in range(leaps):
        last = leap == leaps - 1
        moved = points - metric.mean
        points = metric.mean + cosine * moved + sine * velocities
        velocities = cosine * velocities - sine * moved
        costs, forces = potential.cost.forces(points, with_costs=last)
        velocities = kick(0.5 * step if last else step)
    assert costs is not None
    return ChainStates(points, costs, forces), velocities


def _kinetic(metric: Gaussian, velocities: Tensor) -> Tensor:
    return 0.5 * (velocities.double() * metric.precision(velocities).double()).sum(-1)


class StepSize:
    """Nesterov's dual averaging of the log step size, towards the first guess and a quarter as eager as Hoffman's.

    Theirs is for one chain that begins anywhere. Here acceptance is a mean over chains and the guess is the last rung's
    step: two rejections right at the beginning would shrink it eightyfold, for trajectories of as many times the leaps.

    Attributes:
        step: step size to try next.
        averaged: step size to use after the warm-up.
    """

    def __init__(self, step_size: float) -> None:
        """Starts at a first guess, or at the longest step if that is shorter."""
        self.step = min(step_size, LONGEST_STEP)
        self.averaged = self.step
        self._centre, self._error, self._count = math.log(self.step), 0.0, 0
        self._least = math.log(SMALLEST_SHARE * self.step)

    def update(self, acceptance: float) -> None:
        """Takes the mean acceptance probability of the trajectory that was tried."""
        self._count += 1
        m = self._count
        self._error += (TARGET_ACCEPTANCE - acceptance - self._error) / (m + 10.0)
        log_step = self._centre - math.sqrt(m) / EAGERNESS * self._error
        log_step = max(min(log_step, math.log(LONGEST_STEP)), self._least)
        weight = m**-0.75
        self.averaged = math.exp(weight * log_step + (1.0 - weight) * math.log(self.averaged))
        self.step = math.exp(log_step)
