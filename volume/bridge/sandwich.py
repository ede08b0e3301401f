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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from spectra.errors import UserError
from spectra.estimate import Estimate, independent, jackknife
from spectra.files import Result, counted
from spectra.interval import with_ends
from spectra.landscape import Landscape
from spectra.model import generator
from volume.bridge.result import BridgeResult
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
# A gap that issues no caution, nats: each bound is then within a factor e^2 of the truth, as far as their errors say.
WIDEST_GAP = 2.0
# Share of all weight that one chain may have before the spread over chains says little of the error.
LARGEST_SHARE = 0.5
# Standard errors of their difference that the ladder's own value may lie outside of a bound.
_APART = 3.0


@dataclass(frozen=True, eq=False)
class Annealing:
    """Annealed importance sampling one way, done or on its way.

    Attributes:
        log_weights: (chains,) nats.
        points: (chains, n) where the chains stand, as displacements from the teacher in standard deviations.
        costs: (chains,) their costs above the teacher's.
        done: how many changes of temperature are behind them.
        gradients: gradient evaluations, of one parameter vector each.
        diverged: trajectories that ended at no finite energy, or far too high a one; all were rejected.
    """

    log_weights: Array
    points: np.ndarray[Any, Any]
    costs: Array
    done: int = 0
    gradients: int = 0
    diverged: int = 0

    @property
    def log_mean(self) -> Estimate:
        """Log of the mean weight over chains, with its jackknife error, nats."""
        count = len(self.log_weights)
        left = [float(logsumexp(np.delete(self.log_weights, c))) - math.log(count - 1) for c in range(count)]
        value = float(logsumexp(self.log_weights)) - math.log(count)
        finite = bool(np.isfinite(left).all())
        return Estimate(value, jackknife(np.array(left)) if finite else math.inf, freedom=count - 1.0)

    @property
    def largest_share(self) -> float:
        """Share of all weight that one chain has."""
        return float(np.exp(self.log_weights.max() - logsumexp(self.log_weights)))


@dataclass(frozen=True, eq=False, repr=False)
class SandwichResult(Result):
    """A ladder on a teacher's labels, and the bounds on its log normaliser from both sides.

    Attributes:
        inverse_temperature: b of the posterior.
        temperatures: changes of temperature from one rung to the next.
        ladder: the ladder from the prior to b, whose rungs give the temperatures and the steps.
        forward: annealing from the prior; None before it begins.
        backward: annealing from the teacher; None before it begins.
        source: what it was made from, texts by name.
    """

    inverse_temperature: float
    temperatures: int
    ladder: BridgeResult
    forward: Annealing | None = None
    backward: Annealing | None = None
    source: Mapping[str, str] = field(default_factory=dict)
    _written_by: ClassVar[str] = "volume.bridge.sandwich_store:write_sandwich"

    @property
    def schedule(self) -> tuple[Array, Array]:
        """Inverse temperatures from zero to b, and the step of the moves at each: both fixed by the ladder alone."""
        rungs = self.ladder.rungs[1:]
        # A colder ensemble is stiffer: a step that grew was found in too short a warm-up.
        least = np.minimum.accumulate([rung.step_size for rung in rungs])
        temperatures, steps = [0.0], [least[0]]
        for number, (here, there) in enumerate(zip(rungs, rungs[1:], strict=False)):
            for share in np.arange(1, self.temperatures + 1) / self.temperatures:
                temperatures.append(between(here.state, there.state, float(share)).inverse_temperature)
                steps.append(least[number] ** (1.0 - share) * least[number + 1] ** share)
        return np.array(temperatures), np.array(steps)

    @property
    def complete(self) -> bool:
        """Whether both sides are done."""
        changes = self.temperatures * (len(self.ladder.rungs) - 2) if self.ladder.complete else math.inf
        return all(side is not None and side.done == changes for side in (self.forward, self.backward))

    @property
    def lower(self) -> Estimate:
        """Stochastic lower bound of log Z(b): its exponential is right on average, nats."""
        return self._sides[0].log_mean

    @property
    def upper(self) -> Estimate:
        """Stochastic upper bound of log Z(b): the exponential of its negative is right on average, nats."""
        found = self._sides[1].log_mean
        return replace(found, value=-found.value)

    @property
    def gap(self) -> Estimate:
        """The upper bound less the lower one, nats."""
        return independent(self.upper, self.lower)

    @property
    def by_ladder(self) -> Estimate:
        """The ladder's own log Z(b), by the acceptance ratios of neighbouring rungs, nats."""
        value = float(self.ladder.log_normalisers[0][-1])
        return Estimate(value, self.ladder.links_error, freedom=self.ladder.freedom)

    def proven(self, level: float = 0.95) -> tuple[float, float]:
        """An interval that misses log Z(b) with at most a chance ``1 - level`` over teacher, labels and chains, nats.

        Markov's inequality on the mean weights, ``Pr[log Z^ - log Z >= log k] <= 1 / k``, half of the chance a side; it
        asks nothing of the chains' mixing, and does not rest on the standard errors.
        """
        slack = math.log(2.0 / (1.0 - level))
        return self.lower.value - slack, self.upper.value + slack

    @property
    def gradient_evaluations(self) -> int:
        """All that were spent, of one parameter vector each."""
        sides = [side.gradients for side in (self.forward, self.backward) if side is not None]
        return self.ladder.gradient_evaluations + sum(sides)

    @property
    def _sides(self) -> tuple[Annealing, Annealing]:
        if not self.complete or self.forward is None or self.backward is None:
            raise UserError("the sandwich is not complete: go on with it")
        return self.forward, self.backward

    def _title(self) -> str:
        name = Path(self.source.get("checkpoint", "a checkpoint")).name
        return f"sandwich for {name}, {counted(self.ladder.size, 'parameter')}, b = {self.inverse_temperature:g}"

    def _facts(self) -> dict[str, str]:
        if not self.complete:
            sides = [side.done for side in (self.forward, self.backward) if side is not None]
            done = f"{counted(self.ladder.rung_count, 'rung')} and {counted(sum(sides), 'change')} of temperature"
            return {"not complete": f"{done} so far; go on with --resume"}
        values = {"lower bound": self.lower, "by the ladder": self.by_ladder, "upper bound": self.upper}
        found = {f"log Z, {name}": f"{with_ends(one.value, one.interval())} nat" for name, one in values.items()}
        low, high = self.proven()
        found["gap"] = f"{with_ends(self.gap.value, self.gap.interval())} nat"
        return found | {"proven with probability 95 %": f"{low:.2f} to {high:.2f} nat (Markov's inequality)"}

    def _cautions(self) -> tuple[str, ...]:
        if not self.complete:
            return ()
        found = []
        for name, excess in (
            ("below the lower", (self.lower, self.by_ladder)),
            ("above the upper", (self.by_ladder, self.upper)),
        ):
            outside = independent(*excess)
            if outside.value > _APART * outside.standard_error:
                found.append(f"the ladder's own log Z is {outside.value:.2g} nat {name} bound: its chains do not mix")
        for name, side in zip(("forward", "backward"), self._sides, strict=True):
            if side.largest_share > LARGEST_SHARE:
                found.append(
                    f"one chain has {side.largest_share:.0%} of the {name} weight, so that its error is not known: use "
                    "more --temperatures or --chains"
                )
        if self.gap.value > WIDEST_GAP:
            found.append(f"the bounds are {self.gap.value:.2g} nat apart: more --temperatures bring them together")
        return tuple(found)

    def records(self) -> list[dict[str, Any]]:
        """One row a chain: the log weights of both ways."""
        return [
            {"chain": chain, "forward_log_weight": float(one), "backward_log_weight": float(other)}
            for chain, (one, other) in enumerate(zip(*(side.log_weights for side in self._sides), strict=True))
        ]

    def _stored(self) -> tuple[Any, ...]:
        return self, self.source


OnStage = Callable[[SandwichResult], None]


def sandwich_bounds(
    landscape: Landscape,
    prior: Prior,
    settings: BridgeSettings,
    *,
    temperatures: int = TEMPERATURES,
    resume: SandwichResult | None = None,
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
    run = _Run(SublevelCost(made, prior), settings, inverse_temperature, progress)
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
        if forward.done < len(result.schedule[0]) - 1:
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
        temperatures, steps = result.schedule
        if name == "backward":
            temperatures, steps = temperatures[::-1], steps[::-1]
        self.cost.spent = Evaluations()
        points, costs = torch.as_tensor(side.points).to(self.cost.like), torch.as_tensor(side.costs)
        log_weights, diverged, changes = side.log_weights.copy(), side.diverged, len(temperatures) - 1
        if name == "backward" and side.done == 0:
            # Moves at the posterior itself: the chains part from one another, and each still is an exact draw of it.
            points, costs, lost = self._moved(points, float(temperatures[0]), float(steps[0]), f"{name} start")
            diverged += lost
        for place in range(side.done, side.done + result.temperatures):
            log_weights += (temperatures[place] - temperatures[place + 1]) * _host(costs)
            if place + 1 < changes:
                at, step = float(temperatures[place + 1]), float(steps[place + 1])
                points, costs, lost = self._moved(points, at, step, f"{name} {place}", draws=1)
                diverged += lost
            if self.progress is not None:
                self.progress(place + 1, changes, f"sandwich {name} (b {temperatures[place + 1]:.3g})")
        done, gradients = side.done + result.temperatures, side.gradients + self.cost.spent.gradients
        return Annealing(log_weights, points.cpu().numpy(), _host(costs), done, gradients, diverged)

    def _moved(
        self, points: Tensor, at: float, step: float, name: str, draws: int | None = None
    ) -> tuple[Tensor, Tensor, int]:
        """Trajectories that leave the ensemble at an inverse temperature as it is: the step does not adapt."""
        kept: list[Tensor] = []
        moved, record = hamiltonian_chains(
            Potential(self.cost, at, 0.0),
            self.prior,
            points,
            generator(self.settings.seed, f"sandwich {name}", device=points.device),
            warm_up=0,
            draws=draws or self.settings.warm_up,
            step_size=step,
            on_draw=lambda _number, _points, costs: kept.append(costs),
        )
        return moved, kept[-1], int(record.diverged.sum())


def _host(costs: Tensor) -> Array:
    """Costs (chains,) on the host; one that is undefined is that of an impossible point."""
    return np.asarray(torch.nan_to_num(costs.double(), nan=math.inf).cpu().numpy(), dtype=np.float64)
