r"""Ground truth by a bridge from the quadratic model to the real cost.

Gibbs ensembles ``pi(x) ~ rho(theta* + x) exp(-b C(theta* + x) - g/2 |x|^2)`` lead from g so large that the cost is its
quadratic model, where the normaliser is known, to g = 0; and the step from canonical to microcanonical is exact,
``log V(T) = log Z(b, 0) + b T + log E[exp(b (C - T)) 1{C < T}]``.

The other end that is known exactly is b = 0, the prior: a ladder from there cools the whole prior down to the cutoff,
and measures the whole set, where the first measures what chains that begin at the anchor reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.spectrum import SpectrumSettings
from volume.bridge.result import BridgeResult
from volume.chains import (
    LEAST_OVERLAP,
    MOST_RUNGS,
    BridgeCost,
    BridgeSettings,
    Carrier,
    Evaluations,
    Progress,
    Rung,
    RungSampler,
    SublevelCost,
    WindowCost,
    inverse_temperature,
    leading_curvature,
    no_curvature,
    overlap,
    shared_cost,
    window_of,
)
from volume.curvature_density import curvature_name
from volume.priors import Prior
from volume.quadratic import LeadingCurvature, QuadraticEnsemble

OnRung = Callable[[BridgeResult], None]
# Energies of the same point, on another processor, differ by no more nats than this, or by this share.
SAME_ENERGY, SAME_SHARE = 0.1, 1e-3


def bridge_volume(
    landscape: Landscape,
    prior: Prior,
    settings: BridgeSettings | None = None,
    *,
    curvature: LeadingCurvature | None = None,
    resume: BridgeResult | None = None,
    strategy: str = "",
    memory: int = SpectrumSettings.memory,
    on_rung: OnRung | None = None,
    progress: Progress | None = None,
) -> BridgeResult:
    """The prior's mass of the basin around the anchor, with an error bar from independent chains.

    Args:
        landscape: the cost, of size n; where it is spread over ranks, the chains are shared out.
        prior: a Gaussian one, or another that is smooth everywhere.
        settings: cutoffs, target and precision.
        curvature: curvature of the quadratic model, in standard deviations of the prior; computed if not given. A
            ladder from the prior needs none.
        resume: an earlier result of the same settings; its rungs are kept, and its strategy is taken again.
        strategy: how products with the curvature are computed; empty times the candidates.
        memory: bytes that the graphs of these products, or of gradients, may take.
        on_rung: called with the result so far after each rung, to store it.
        progress: called with the work done, all work and what is being done.

    Returns:
        All evidence; ``volumes`` are the answer, ``ended`` says what ended it.

    Raises:
        UserError: if the prior is not smooth, the cost has no quadratic model at the anchor, or there are fewer
            chains than ranks.

    >>> import torch
    >>> from spectra.costs import mean_squared_error
    >>> from volume.priors import GaussianPrior
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
    >>> landscape = Landscape(model, mean_squared_error, (x, torch.zeros(2, 1)), theta=torch.zeros(2))
    >>> result = bridge_volume(landscape, GaussianPrior(1.0), BridgeSettings(cutoffs=(0.5,), draws=50))
    >>> abs(result.volumes[0].log_volume - math.log(1 - math.exp(-0.5))) < 0.2  # |x|^2 / 2 < 0.5
    True
    """
    settings = settings or BridgeSettings()
    window = window_of(settings.target)
    make = partial(WindowCost, window=window, memory=memory) if window else partial(SublevelCost, memory=memory)
    cost = shared_cost(make, landscape, prior, settings.chains)
    if settings.origin == "prior":
        curvature = no_curvature(cost.like)
    elif curvature is None:
        if progress is not None:
            progress(0, 1, "bridge: curvature at the anchor")
        name = curvature_name(landscape)
        products = SpectrumSettings(
            operator=name,
            seed=settings.seed,
            strategy=(strategy if resume is None else resume.strategy) or "auto",
            memory=memory,
        )
        curvature = leading_curvature(landscape, prior, products, settings.pairs)
    return _Bridge(cost, curvature, settings, on_rung, progress).run(resume)


class _Bridge:
    """One bridge: passes over a ladder whose rungs the first pass finds."""

    def __init__(
        self,
        cost: BridgeCost,
        curvature: LeadingCurvature,
        settings: BridgeSettings,
        on_rung: OnRung | None,
        progress: Progress | None,
    ) -> None:
        self.cost, self.settings, self.on_rung = cost, settings, on_rung
        from_prior = settings.origin == "prior"
        first = 0.0 if from_prior else inverse_temperature(curvature, cost.anchor, max(settings.cutoffs))
        carrier = Carrier(cost, QuadraticEnsemble(curvature, cost.anchor, first, 0.0), moves=not from_prior)
        self.sampler = RungSampler(carrier, settings, progress)
        self.strategy = curvature.strategy
        self.passes: list[list[Rung]] = []

    def run(self, resume: BridgeResult | None) -> BridgeResult:
        self.passes = [list(rungs) for rungs in resume.passes] if resume is not None else []
        if self.passes and len(self.passes[-1]) > 1 and len(self.passes[-1][-1].last):
            self._refuse_another_cost(self.passes[-1][-1])
        while not (ended := self._ended()):
            if not self.passes or self.passes[-1][-1].passage is None:
                self.passes.append([])
            self._climb(len(self.passes) - 1)
        return self._result(ended)

    def _refuse_another_cost(self, rung: Rung) -> None:
        """Rungs of two costs give a wrong number: the last draws must cost here what they cost there."""
        points = torch.as_tensor(rung.last).to(self.cost.like)
        here, there = self.cost.costs(points).cpu().numpy(), rung.costs[-1]
        apart = float(np.abs(here - there).max()) * rung.state.inverse_temperature
        if not apart <= max(SAME_ENERGY, SAME_SHARE * float(np.abs(there).max()) * rung.state.inverse_temperature):
            raise UserError(
                f"the earlier rungs' last points cost up to {here.max():.6g} here and {there.max():.6g} there, so "
                "they are of other data, another model or an earlier version's smooth maximum: begin this bridge anew, "
                "in another file"
            )

    def _ended(self) -> str:
        complete = [rungs for rungs in self.passes if rungs and rungs[-1].passage is None]
        if complete and len(complete) == len(self.passes):
            errors = [volume.standard_error for volume in self._result("").volumes]
            if math.isfinite(self.settings.standard_error) and max(errors) <= self.settings.standard_error:
                return "standard error"
            if len(complete) >= (self.settings.passes if math.isfinite(self.settings.standard_error) else 1):
                return "passes"
        spent = sum(rung.gradient_evaluations for rungs in self.passes for rung in rungs)
        return "budget" if spent >= self.settings.budget else ""

    def _climb(self, number: int) -> None:
        """Adds one rung to a pass, or moves the one to come nearer to the last."""
        rungs, first = self.passes[number], self.passes[0] if number else None
        if window_of(self.settings.target) and any(one and not one[0].levels.size for one in self.passes):
            raise UserError(
                "the earlier rungs climbed the highest cost of each ray itself, and new ones climb a smooth maximum: "
                "begin this bridge anew, in another file"
            )
        self.cost.spent = Evaluations()
        if not rungs:
            rung = self.sampler.start(number, None if first is None else first[0].state)
        elif len(rungs) >= MOST_RUNGS:
            raise UserError(f"the bridge has {MOST_RUNGS} rungs and no end: use more draws or a larger work_spread")
        else:
            rung = self.sampler.sample(number, rungs, first)
            if first is None and len(rungs) > 1 and overlap(rungs[-1].onward, rung.backward) < LEAST_OVERLAP:
                # It is given up, and the one half way is next.
                rung = self.sampler.nearer(number, rungs)
                rungs.pop()
        spent, gradients, costs = self.cost.spent, rung.gradient_evaluations, rung.cost_evaluations
        rungs.append(
            replace(
                rung,
                gradient_evaluations=gradients + spent.gradients,
                cost_evaluations=costs + spent.costs,
            )
        )
        # What was seen is of use to the next rung, and to one that is sampled again: older ones let it go.
        rungs[:-2] = [replace(one, seen=None) for one in rungs[:-2]]
        if self.on_rung is not None:
            self.on_rung(self._result(""))

    def _result(self, ended: str) -> BridgeResult:
        start = self.sampler.carrier.ensemble(self.passes[0][0].state)
        return BridgeResult(
            settings=self.settings,
            size=start.curvature.size,
            log_start=start.log_normaliser,
            passes=tuple(tuple(rungs) for rungs in self.passes),
            ended=ended,
            strategy=self.strategy,
        )
