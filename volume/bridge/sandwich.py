r"""Log normalisers bounded from both sides on a task whose posterior has one draw that is known.

Annealed importance sampling from the prior along the inverse temperatures of a ladder gives weights whose mean is
``Z(b)``: the log of their mean over chains is, on average, below log Z. The same run backwards from the teacher, an
exact draw of the posterior at b, gives weights of mean ``1 / Z(b)``, and so a bound from above. Moves are
Hamiltonian trajectories whose steps are fixed beforehand, which leave each ensemble as it is.

Reference: Neal, Annealed importance sampling, 2001; Grosse, Ghahramani and Adams, Sandwiching the marginal likelihood
using bidirectional Monte Carlo, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator
from spectra.spectrum import SpectrumSettings
from volume.bridge.result import BridgeResult
from volume.bridge.sandwich_result import Annealing, SandwichResult
from volume.bridge.teacher import teacher_landscape
from volume.chains import (
    LEAST_OVERLAP,
    MOST_RUNGS,
    Array,
    BridgeCost,
    BridgeSettings,
    Carrier,
    Cloud,
    Evaluations,
    Gaussian,
    Passage,
    Potential,
    Progress,
    Rung,
    RungSampler,
    RungState,
    SublevelCost,
    between,
    hamiltonian_chains,
    next_passage,
    no_curvature,
    overlap,
)
from volume.priors import Prior
from volume.quadratic import QuadraticEnsemble

TEMPERATURES = 32
OnStage = Callable[[SandwichResult], None]


def schedule(result: SandwichResult) -> tuple[Array, Array]:
    """Inverse temperatures from zero to b, and the step of the moves at each.

    The ladder alone fixes both. It depends on the labels and on random numbers of its own, and not on the teacher that
    the labels came from, as the backward bound needs.
    """
    rungs = result.ladder.rungs[1:]
    # A colder ensemble is stiffer: a step that grew was found in too short a warm-up.
    least = np.minimum.accumulate([rung.step_size for rung in rungs])
    temperatures, steps = [0.0], [least[0]]
    for number, (here, there) in enumerate(zip(rungs, rungs[1:], strict=False)):
        for share in np.arange(1, result.temperatures + 1) / result.temperatures:
            temperatures.append(between(here.state, there.state, float(share)).inverse_temperature)
            steps.append(least[number] ** (1.0 - share) * least[number + 1] ** share)
    return np.array(temperatures), np.array(steps)


def sandwich_bounds(
    landscape: Landscape,
    prior: Prior,
    settings: BridgeSettings,
    *,
    temperatures: int = TEMPERATURES,
    resume: SandwichResult | None = None,
    memory: int = SpectrumSettings.memory,
    on_stage: OnStage | None = None,
    progress: Progress | None = None,
) -> SandwichResult:
    """Bounds from both sides on the log normaliser of a posterior of this architecture, data and prior.

    Args:
        landscape: model, inputs and cost; the labels are those of a teacher that is drawn from the prior.
        prior: a Gaussian one, or another that is smooth everywhere.
        settings: chains, draws, warm-up, work spread and seed, of a ladder from the prior; the rest is not used.
        temperatures: changes of temperature from one rung to the next; the gap falls as their inverse.
        resume: an earlier result of the same settings; one of other temperatures keeps its ladder.
        memory: bytes that the graphs of gradients may take.
        on_stage: called with the result so far after each rung, and each part of the way between two, to store it.
        progress: called with the work done, all work and what is being done.

    Returns:
        The bounds with all evidence.

    Raises:
        UserError: if labels cannot be drawn for the cost, the prior is not smooth, or the ladder has no end.

    >>> from spectra.costs import mean_squared_error
    >>> from volume.priors import GaussianPrior
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    >>> landscape = Landscape(model, mean_squared_error, (x, torch.zeros(2, 1)), theta=torch.zeros(2))
    >>> found = sandwich_bounds(landscape, GaussianPrior(1.0), BridgeSettings(draws=30), temperatures=16)
    >>> found.gap.value < 0.5  # of a posterior twice as narrow as the prior
    True
    """
    if temperatures < 1:
        raise UserError(f"temperatures must be at least 1, got {temperatures}")
    settings = replace(settings, origin="prior", kept=settings.draws)
    made, inverse_temperature = teacher_landscape(landscape, prior, settings.seed)
    run = _Run(SublevelCost(made, prior, memory=memory), settings, inverse_temperature, progress)
    result = SandwichResult(inverse_temperature, temperatures, run.ladder(()))
    if resume is not None:
        same = resume.temperatures == temperatures
        result = replace(resume, temperatures=temperatures) if same else replace(result, ladder=resume.ladder)
    while not result.complete:
        result = run.onward(result)
        if on_stage is not None:
            on_stage(result)
    return result


class _Run:
    """Makes a sandwich stage by stage; each has random numbers of its own, so one that goes on is the same."""

    def __init__(self, cost: BridgeCost, settings: BridgeSettings, last: float, progress: Progress | None) -> None:
        self.cost, self.settings, self.last, self.progress = cost, settings, last, progress
        self.prior = QuadraticEnsemble(no_curvature(cost.like), cost.anchor, 0.0, 0.0)
        self.sampler = RungSampler(Carrier(cost, self.prior, moves=False), settings, progress)

    def onward(self, result: SandwichResult) -> SandwichResult:
        """The result with its next stage: a rung, or the way between two rungs forward, then backward."""
        if not result.ladder.complete:
            return replace(result, ladder=self.ladder(self._climbed(list(result.ladder.passes[0]))))
        forward = result.forward or self._begun("forward")
        if forward.done < len(schedule(result)[0]) - 1:
            return replace(result, forward=self._annealed(forward, result, "forward"))
        backward = result.backward or self._begun("backward")
        return replace(result, backward=self._annealed(backward, result, "backward"))

    def ladder(self, rungs: tuple[Rung, ...]) -> BridgeResult:
        return BridgeResult(self.settings, len(self.cost.anchor), 0.0, (rungs,))

    def _climbed(self, rungs: list[Rung]) -> tuple[Rung, ...]:
        """A ladder with one more rung, or its last one nearer to the one before."""
        self.cost.spent = Evaluations()
        if len(rungs) >= MOST_RUNGS:
            raise UserError(f"the ladder has {MOST_RUNGS} rungs and no end: use more draws or a larger work_spread")
        if not rungs:
            rung = self.sampler.start(0, RungState(0.0, 0.0))
        else:
            # The way on from it is not that of a cutoff: it is taken for the last rung here, and goes on below.
            rung = self.sampler.sample(0, rungs, [replace(rungs[-1], passage=None)] * (len(rungs) + 1))
            if len(rungs) > 1 and overlap(rungs[-1].onward, rung.backward) < LEAST_OVERLAP:
                rung = self.sampler.nearer(0, rungs)
                rungs = rungs[:-1]
            elif rung.state.inverse_temperature < self.last:
                cloud = Cloud(torch.empty(0), torch.from_numpy(rung.costs.ravel()), torch.empty(0))
                end = RungState(self.last, 0.0)
                passage, works = next_passage(self.sampler.carrier, cloud, rung.state, end, self.settings.work_spread)
                rung = replace(rung, passage=passage, onward=works.reshape(-1, self.settings.chains))
        spent = self.cost.spent
        gradients, costs = rung.gradient_evaluations + spent.gradients, rung.cost_evaluations + spent.costs
        return (*rungs, replace(rung, gradient_evaluations=gradients, cost_evaluations=costs))

    def _begun(self, name: str) -> Annealing:
        """Where the chains of one way begin: at draws of the prior, or all at the teacher."""
        count, like = self.settings.chains, self.cost.like
        if name == "backward":
            points = like.new_zeros(count, len(like))
        else:
            source = generator(self.settings.seed, "sandwich start", device=like.device)
            tilt = self.cost.tilt
            points = self.prior.draws(source, count) if tilt is None else tilt.draws(source, count).to(like)
        return Annealing(np.zeros(count), points.cpu().numpy(), _host(self.cost.costs(points)))

    def _annealed(self, side: Annealing, result: SandwichResult, name: str) -> Annealing:
        """One way, on to the next rung: reweighted to each temperature, then moved at it."""
        temperatures, steps = schedule(result)
        if name == "backward":
            temperatures, steps = temperatures[::-1], steps[::-1]
        self.cost.spent = Evaluations()
        points, costs = torch.as_tensor(side.points).to(self.cost.like), torch.as_tensor(side.costs)
        log_weights, diverged, changes = side.log_weights.copy(), side.diverged, len(temperatures) - 1
        if name == "backward" and side.done == 0:
            # Moves at the posterior itself: the chains part from one another, and each still is an exact draw of it.
            last = result.ladder.rungs[-1]
            first = float(temperatures[0]), float(steps[0])
            points, costs, lost = self._moved(points, *first, self._metric(last, last.state), f"{name} start")
            diverged += lost
        number = side.done // result.temperatures
        warmer = result.ladder.rungs[1:][number if name == "forward" else -2 - number]
        assert warmer.passage is not None
        metric = self._metric(warmer, between(warmer.state, warmer.passage.there, 0.5))
        for place in range(side.done, side.done + result.temperatures):
            log_weights += (temperatures[place] - temperatures[place + 1]) * _host(costs)
            if place + 1 < changes:
                at, step = float(temperatures[place + 1]), float(steps[place + 1])
                points, costs, lost = self._moved(points, at, step, metric, f"{name} {place}", draws=1)
                diverged += lost
            if self.progress is not None:
                self.progress(place + 1, changes, f"sandwich {name} (b {temperatures[place + 1]:.3g})")
        done, gradients = side.done + result.temperatures, side.gradients + self.cost.spent.gradients
        return Annealing(log_weights, points.cpu().numpy(), _host(costs), done, gradients, diverged)

    def _metric(self, rung: Rung, there: RungState) -> Gaussian:
        """What trajectories near a rung are split around, the same for all on the way from it to the next."""
        return self.sampler.metric(rung, Passage(rung.state, there, rung.state, there))

    def _moved(
        self, points: Tensor, at: float, step: float, metric: Gaussian, name: str, draws: int | None = None
    ) -> tuple[Tensor, Tensor, int]:
        """Trajectories that leave the ensemble at an inverse temperature as it is: the step does not adapt."""
        kept: list[Tensor] = []
        moved, record = hamiltonian_chains(
            Potential(self.cost, at, 0.0),
            metric,
            points,
            generator(self.settings.seed, f"sandwich {name}", device=points.device),
            warm_up=0,
            draws=draws or self.settings.warm_up,
            step_size=step,
            on_draw=lambda _number, states: kept.append(states.costs),
        )
        return moved, kept[-1], int(record.diverged.sum())


def _host(costs: Tensor) -> Array:
    """Costs (chains,) on the host; one that is undefined is that of an impossible point."""
    return np.asarray(torch.nan_to_num(costs.double(), nan=math.inf).cpu().numpy(), dtype=np.float64)
