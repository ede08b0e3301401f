"""Makes the rungs of a bridge: independent draws of the start, then chains begun where the last rung's ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.model import generator
from volume.chains.hamiltonian import ChainStates, Potential, hamiltonian_chains, squares
from volume.chains.ladder import (
    Carrier,
    Cloud,
    finite,
    first_localisation,
    goal,
    next_passage,
    pending_cutoff,
    shortened,
)
from volume.chains.metric import (
    MOST_SCORES,
    NUMBERS,
    Gaussian,
    Metric,
    curvature_metric,
    curvature_pays,
    learned_correction,
    with_points,
)
from volume.chains.rung import Array, Correction, Passage, Rung, RungState
from volume.chains.settings import BridgeSettings
from volume.chunks import at_once
from volume.quadratic import QuadraticEnsemble

Progress = Callable[[int, int, str], None]
# The sampler's Gaussian keeps eigenpairs whose precision is this many times that of the flattest, or more.
METRIC_RATIO = 1.5
# A ladder longer than this goes nowhere.
MOST_RUNGS = 400
# Points that the search for the start looks at.
SEARCHED = 100
_FIRST_STEP = 0.3


class RungSampler:
    """Makes rungs from the ones before; every rung has random numbers of its own, so a resumed bridge is the same.

    Attributes:
        carrier: carrier of the cost.
        settings: how many chains and draws.
    """

    def __init__(self, carrier: Carrier, settings: BridgeSettings, progress: Progress | None = None) -> None:
        """Takes the carrier, the settings and what to call with work done, all work and what is being done."""
        self.carrier, self.settings, self.progress = carrier, settings, progress
        self._before: Cloud | None = None
        self._recent: Cloud | None = None

    def start(self, number: int, state: RungState | None) -> Rung:
        """Independent draws of the quadratic ensemble, the exactly known start.

        Args:
            number: number of the pass.
            state: the ensemble; None finds it.

        Returns:
            The rung, its works those of replacing the quadratic model by the cost.

        Raises:
            UserError: if the cost is finite at fewer points than there are chains.
        """
        draws, chains = self.settings.draws, self.settings.chains
        tilt = self.carrier.cost.tilt

        def draw(at: RungState, count: int, source: torch.Generator) -> Tensor:
            if tilt is not None and not self.carrier.moves:
                return tilt.draws(source, count).to(self.carrier.cost.like)
            return self.carrier.ensemble(at).draws(source, count)

        if state is None:
            state = first_localisation(
                self.carrier,
                lambda at: draw(at, SEARCHED, self._generator(number, 0)),
                self.carrier.reference.inverse_temperature,
            )
        # Levels of the start tell whose cost a stored ladder climbs.
        watch = _Watch(self, state, "bridge: the quadratic start", every=1, points=False, levels=True)
        works, last = [], self.carrier.cost.like.new_empty(0, len(self.carrier.cost.like))
        source, block = self._generator(number, 0), max(1, at_once(last.shape[1], draws * chains) // chains)
        for first in range(0, draws, block):
            several = torch.split(draw(state, min(block, draws - first) * chains, source), chains)
            for row, points in enumerate(several, first):
                costs = self.carrier.cost.costs(points)
                watch(row, ChainStates(points, costs, points[:0]))
                works.append(state.inverse_temperature * (costs - watch.quadratics[-1]) + self.carrier.tilted(points))
                last = torch.cat([last, points[costs.isfinite()]])[-chains:]
        if len(last) < chains:
            raise UserError(
                f"the cost is finite at {len(last)} of {draws * chains} points near the anchor: no bridge begins"
            )
        return Rung(
            state=state,
            passage=Passage(state, state, state, state),
            onward=finite(torch.stack(works)),
            backward=np.empty((0, chains)),
            last=last.cpu().numpy(),
            diverged=np.zeros(chains, dtype=np.int64),
            **watch.arrays,
        )

    def sample(self, number: int, rungs: Sequence[Rung], first: Sequence[Rung] | None) -> Rung:
        """Chains at the ensemble that the last rung named, begun where its chains ended.

        Args:
            number: number of the pass.
            rungs: rungs of this pass so far.
            first: rungs of the first pass, whose ladder later ones take; None in the first.

        Returns:
            The next rung.
        """
        before, position = rungs[-1], len(rungs)
        passage = before.passage
        assert passage is not None
        state = passage.there
        points = torch.as_tensor(before.last).to(self.carrier.cost.like)
        if position > 1:
            moved = self.carrier.carried(points, self.carrier.reference.components(points), passage)
            # Where carrying leads beyond a fence, the chain begins where it stood.
            finite_there = self.carrier.cost.costs(moved).isfinite().unsqueeze(1)
            points = torch.where(finite_there, moved, points)
        what = f"bridge rung {position} (b {state.inverse_temperature:.3g}, g {state.localisation:.3g})"
        potential = Potential(self.carrier.cost, state.inverse_temperature, state.localisation)
        watch = _Watch(self, state, what, every=self._every, points=self.carrier.moves, levels=state.free)
        metric, step_size = self._motion(before, position, passage)
        last, record = hamiltonian_chains(
            potential,
            metric,
            points,
            self._generator(number, position),
            warm_up=self.settings.warm_up,
            draws=self.settings.draws,
            step_size=step_size,
            on_draw=watch,
        )
        onward_passage, onward = self._onward(rungs, state, watch, first)
        self._before, self._recent = self._recent, watch.cloud
        return Rung(
            state=state,
            passage=onward_passage,
            onward=onward,
            backward=self._backward(None if position == 1 else passage, state, watch),
            last=last.cpu().numpy(),
            diverged=record.diverged.numpy(),
            step_size=record.step_size,
            acceptance=record.acceptance,
            leaps=record.leaps,
            seen=watch.seen(potential, self._model(state)),
            **watch.arrays,
        )

    def nearer(self, number: int, rungs: Sequence[Rung]) -> Rung:
        """A rung with the next one half as far, for where that was sampled and shares too little with it.

        Args:
            number: number of the pass.
            rungs: rungs of this pass, the one in question last.

        Returns:
            The rung with another passage and the works of it.

        Raises:
            UserError: if the next one is next to this already.
        """
        rung = rungs[-1]
        assert rung.passage is not None
        cloud = self._before
        if not self.carrier.moves:
            every = self._every
            costs = torch.from_numpy(rung.costs[every - 1 :: every].ravel())
            cloud = Cloud(torch.empty(0), costs, torch.empty(0))
        elif cloud is None:
            cloud = self._again(number, rungs)
        self._before = self._recent = cloud
        passage, works = shortened(self.carrier, cloud, rung.passage)
        if passage.there == rung.passage.there:
            raise UserError("neighbouring rungs of the bridge do not overlap: use more draws or a smaller work_spread")
        return replace(rung, passage=passage, onward=works.reshape(-1, self.settings.chains))

    def _again(self, number: int, rungs: Sequence[Rung]) -> Cloud:
        """The points of the last rung, which a resumed bridge does not have: sampled again, the same to the bit."""
        cost = self.carrier.cost
        if len(rungs[-2].last) == 0:
            # A file from before two rungs' last points were kept.
            points = torch.as_tensor(rungs[-1].last).to(cost.like)
            return self.carrier.cloud(points, cost.costs(points))
        spent = replace(cost.spent)
        self.sample(number, rungs[:-1], None)
        # They were counted when they were sampled first.
        cost.spent = spent
        assert self._recent is not None
        return self._recent

    @property
    def _every(self) -> int:
        """Of the draws of a rung, one in so many is carried."""
        return -(-self.settings.draws // self.settings.kept)

    def _motion(self, before: Rung, position: int, passage: Passage) -> tuple[Gaussian, float]:
        """The Gaussian to split around, and a first guess of the step."""
        if position == 1:
            return self._model(passage.arrival), _FIRST_STEP
        if before.seen is None:  # a file from before it was kept
            return self._model(passage.arrival), before.step_size
        return self.metric(before, passage), before.step_size

    def metric(self, rung: Rung, passage: Passage) -> Gaussian:
        """The Gaussian to split around not far from a rung, by what was seen at that.

        Args:
            rung: what was seen.
            passage: way from the rung to where chains go.
        """
        here, there = passage.departure, passage.arrival
        if rung.seen is None:
            return self._model(there)
        if curvature_pays(rung.seen, spent := rung.gradient_evaluations):
            return curvature_metric(self.carrier.cost, rung.seen, passage.there, spent=spent)
        # What the model lacks is curvature of the cost, which counts b times beside g + 1.
        factor = (here.localisation + 1.0) / (there.localisation + 1.0)
        factor *= there.inverse_temperature / here.inverse_temperature if here.inverse_temperature else 1.0
        return Metric(self._model(there), rung.seen.stiffer(factor))

    def _backward(self, passage: Passage | None, state: RungState, watch: _Watch) -> Array:
        cloud = watch.cloud
        if passage is None:
            excess = cloud.costs - torch.cat(watch.quadratics)
            works = finite(-(state.inverse_temperature * excess + self.carrier.tilted(cloud.points)))
        else:
            works = self.carrier.works(cloud, Passage(passage.there, passage.here, passage.arrival, passage.departure))
        return works.reshape(-1, self.settings.chains)

    def _onward(
        self, rungs: Sequence[Rung], state: RungState, watch: _Watch, first: Sequence[Rung] | None
    ) -> tuple[Passage | None, Array]:
        """The passage to the next rung, or None, and the works of it."""
        cloud = watch.cloud
        chains, arrays = self.settings.chains, watch.arrays
        levels_here = arrays.get("levels", arrays["costs"])
        if first is not None:
            passage = first[len(rungs)].passage
            works = np.empty(0) if passage is None else self.carrier.works(cloud, passage)
            return passage, works.reshape(-1, chains)
        free = [(rung.state, rung.deciding) for rung in rungs[1:] if rung.state.free]
        free += [(state, levels_here)] if state.free else []
        cutoff = pending_cutoff(self.settings.cutoffs, free)
        if cutoff is None:
            return None, np.empty((0, chains))
        towards = goal(state, levels_here, cutoff)
        passage, works = next_passage(self.carrier, cloud, state, towards, self.settings.work_spread)
        return passage, works.reshape(-1, chains)

    def _model(self, state: RungState) -> QuadraticEnsemble:
        """The quadratic ensemble with as many eigenpairs as make a difference to the sampler."""
        whole = self.carrier.ensemble(state)
        flat = state.localisation + 1.0
        steep = state.inverse_temperature * whole.curvature.values > (METRIC_RATIO - 1.0) * flat
        return QuadraticEnsemble(
            whole.curvature.truncated(int(steep.sum())), whole.anchor, state.inverse_temperature, state.localisation
        )

    def _generator(self, number: int, position: int) -> torch.Generator:
        device = self.carrier.cost.like.device
        stream = f"bridge {self.settings.target}"
        return generator(self.settings.seed, stream, number * MOST_RUNGS + position, device=device)


class _Watch:
    """Takes the numbers of every draw, and every few draws the points, where they are carried."""

    def __init__(
        self, sampler: RungSampler, state: RungState, what: str, *, every: int, points: bool, levels: bool
    ) -> None:
        self._carrier, self._ensemble, self._points = sampler.carrier, sampler.carrier.ensemble(state), points
        self._settings, self._progress, self._what, self._every = sampler.settings, sampler.progress, what, every
        self._cost, self._deciding = sampler.carrier.cost, levels
        self._rows: list[tuple[Tensor, ...]] = []
        self._levels: list[Tensor] = []
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._early_draws: list[tuple[Tensor, Tensor]] = []
        count, size = self._settings.chains, len(self._cost.like)
        most = max(min(MOST_SCORES, NUMBERS // size) // count, 1)
        # What is learned has to know nothing of where the chains end: it spans the forces of the draws that it is
        # learned from, so chains that went on from these would begin at rest in all other directions, and heat up.
        self._early = max(self._settings.draws // 2, 1)
        self._stride = -(-self._early // most)
        self.quadratics: list[Tensor] = []

    def __call__(self, number: int, states: ChainStates) -> None:
        points, costs = states.points, states.costs
        self._rows.append((costs, *squares(points, self._ensemble.anchor)))
        if self._deciding and (levels := self._cost.levels(points, costs)) is not None:
            self._levels.append(levels)
        # The last of each few draws, the farthest from the warm-up.
        if (number + 1) % self._every == 0:
            self._kept.append((points if self._points else points[:0], costs))
            self.quadratics.append(self._ensemble.costs(points))
        if number < self._early and number % self._stride == 0 and len(states.forces):
            self._early_draws.append((points, states.forces))
        if self._progress is not None:
            self._progress(number + 1, self._settings.draws, self._what)

    @property
    def arrays(self) -> dict[str, Any]:
        """The numbers by name: of each draw (draws, chains), the quadratic model's cost of those kept."""
        names = ("costs", "squares", "prior_squares")
        columns = zip(*self._rows, strict=True)
        arrays = {
            name: np.asarray(torch.stack(column).double().cpu().numpy())
            for name, column in zip(names, columns, strict=True)
        }
        arrays["quadratics"] = np.asarray(torch.stack(self.quadratics).cpu().numpy())
        if self._levels:
            arrays["levels"] = np.asarray(torch.stack(self._levels).double().cpu().numpy())
        return arrays

    def seen(self, potential: Potential, model: QuadraticEnsemble) -> Correction:
        """What the next rung's quadratic model is mended by."""
        points, forces = map(torch.cat, zip(*self._early_draws, strict=True))
        return with_points(learned_correction(points, potential.slope(forces, points), model), points, self._cost)

    @cached_property
    def cloud(self) -> Cloud:
        """What was kept, once all draws are done: points (kept * chains, n), or none, and their costs."""
        points, costs = map(torch.cat, zip(*self._kept, strict=True))
        return self._carrier.cloud(points, costs)
