"""A calibration from the landscape to its last step: the spectrum first, what it says, then the chains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparisons.calibration.axes import axes_of, localisations, temperatures
from comparisons.calibration.calibration import Calibration, Underway
from comparisons.calibration.ensemble import Ensemble, Members
from comparisons.calibration.ground import Ground
from comparisons.calibration.outlook import Outlook, Slope, outlook_of
from comparisons.calibration.preconditioner import PILOTS, factors_of, metric_of, metric_products, pilot_steps
from comparisons.calibration.settings import SweepSettings
from comparisons.calibration.stationarity import find_ground
from comparisons.langevin import row_count
from spectra.compute import compute_spectrum
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.landscape import Landscape
from spectra.operators import Curvature, SymmetricOperator
from spectra.plan import PROBE_VECTORS, PROBES_AT_ONCE, PRODUCT_VECTORS, make_operator, plan_route
from spectra.spectrum import SpectrumSettings
from volume.quadratic import anchor_measure

Progress = Callable[[int, int, str], None]
# Vectors that a chain takes while it steps: displacement, place, leaf, gradient, and what the sum of two takes; with
# steps that are accepted or rejected the gradients and places of both ends.
_VECTORS, _ACCEPTED_VECTORS = 6, 10
# Graphs of a minibatch for one chain, against what is saved of it for the backward pass.
_GRAPHS = 3
# Inverse temperature times samples below which chains say nothing of the data.
_WARMEST = 1.0
# Seconds between two savings of chains that are underway, for each 64 MiB of them begun, and bytes of them from which
# only whole blocks are saved.
SAVE_EVERY, SAVED_AT_ONCE, MOST_SAVED = 15.0, 2**26, 2**30
# Seconds that a report of progress is apart from the next at the least.
_REPORT_EVERY = 0.5


@dataclass(frozen=True)
class SweepWork:
    """What a calibration takes, known before it starts.

    Attributes:
        cells: number of cells.
        chain_gradients: gradients over all data of the chains, and of those that make a preconditioner, minibatches
            counted as their share.
        check_gradients: those of the acceptance checks.
        products: products with the Hessian.
        rows: rows of the data.
        batch_size: rows of a minibatch.
        at_once: cells whose chains are run together.
        members_at_once: chains of a cell that are run together; all, unless those of one cell pass the memory.
        chain_bytes: what a chain takes in memory.
    """

    cells: int
    chain_gradients: float
    check_gradients: float
    products: int
    rows: int
    batch_size: int
    at_once: int
    members_at_once: int
    chain_bytes: float

    @property
    def chains_at_once(self) -> int:
        """Chains that are run together."""
        return self.at_once * self.members_at_once

    @property
    def gradients(self) -> float:
        """Of all chains."""
        return self.chain_gradients + self.check_gradients


def sweep_work(
    landscape: Landscape, settings: SweepSettings, operator: SymmetricOperator, memory: int = SpectrumSettings.memory
) -> SweepWork:
    """What a calibration takes; costs a forward pass at most.

    Args:
        landscape: the task's cost, on data kept in memory.
        settings: settings of the sweep.
        operator: its Hessian, as ``sweep_operator`` makes it.
        memory: bytes that the chains may take; one is run whatever it takes.
    """
    rows = row_count(landscape)
    size = rows if settings.batch_size is None else min(settings.batch_size, rows)
    cells = math.prod(settings.shape)
    chains = cells * settings.members
    accepted = settings.sampler == "mala"
    checks = 0 if accepted else min(settings.checks, settings.steps)
    products = plan_route(operator, _spectrum_settings(settings, operator, memory)).products
    products += 2 * min(settings.lanczos_steps, operator.size)
    each = _chain_bytes(operator, size, rows, accepted)
    at_once = int(max(1, min(cells, memory / (settings.members * each))))
    together = int(max(1, min(settings.members, memory / each)))
    steps = chains * (settings.steps + accepted) * size / rows
    if settings.sampler == "rmsprop":
        places = math.prod(settings.shape[:2])
        products += places * metric_products(operator.size, settings)
        # Once before the chains, for what the spectrum says of them, and once as they begin.
        steps += 2.0 * places * PILOTS * pilot_steps() * size / rows
    return SweepWork(cells, steps, 2.0 * chains * checks, products, rows, size, at_once, together, each)


def sweep_operator(landscape: Landscape, settings: SweepSettings, memory: int) -> SymmetricOperator:
    """The Hessian of the task's cost."""
    made = SpectrumSettings(probes=settings.probes, steps=settings.lanczos_steps, seed=settings.seed, memory=memory)
    return make_operator(landscape, made)


def _spectrum_settings(settings: SweepSettings, operator: SymmetricOperator, memory: int) -> SpectrumSettings:
    """Settings of the spectrum; probes go one at a time where the vectors of more would pass the memory."""
    several = (PRODUCT_VECTORS + PROBES_AT_ONCE * PROBE_VECTORS) * operator.size * operator.dtype.itemsize
    return SpectrumSettings(
        probes=settings.probes,
        steps=settings.lanczos_steps,
        seed=settings.seed,
        memory=memory,
        block=1 if several > memory else 0,
    )


def prepare(
    landscape: Landscape,
    settings: SweepSettings,
    provenance: Provenance,
    *,
    operator: SymmetricOperator | None = None,
    metadata: Mapping[str, Any] | None = None,
    memory: int = SpectrumSettings.memory,
    progress: Progress | None = None,
) -> Calibration:
    """What is known before any chain is run: the spectrum, which cost to sample, and the grid.

    Args:
        landscape: the task's cost, on data kept in memory, in one process.
        settings: settings of the sweep.
        provenance: where the result comes from.
        operator: the Hessian; made if not given.
        metadata: of the checkpoint, which may say the penalty that it was trained with.
        memory: bytes that the chains may take.
        progress: called with products done, all of them, and what is being done.

    Returns:
        A calibration without any chain.

    Raises:
        UserError: if no localisation binds the chains, or the data is not kept in memory.
    """
    if not landscape.ranks.alone:
        raise UserError("a calibration runs in one process")
    operator = operator or sweep_operator(landscape, settings, memory)
    spectrum = compute_spectrum(
        landscape, _spectrum_settings(settings, operator, memory), operator=operator, progress=progress
    )
    measured = _measured(operator, min(settings.lanczos_steps, landscape.size), memory, progress)
    ground, outlook = find_ground(landscape, spectrum.density, settings, measured, metadata=metadata or {})
    warm = temperatures(settings, landscape.samples)
    pull = localisations(settings, warm, outlook)
    # As the localisation grows, the slope's share tends to 2 nb |b|^2 / tr H: only warmer chains bring that down.
    while not settings.inverse_temperatures and not np.isfinite(pull).all() and warm[-1] > _WARMEST:
        warm = warm / 2.0
        pull = localisations(settings, warm, outlook)
    if not np.isfinite(pull).all():
        raise UserError(
            f"no localisation makes this checkpoint a minimum at the inverse temperatures up to {warm[-1]:.4g}: its "
            "slope takes more than a tenth of every value; give a smaller --inverse-temperature, --penalty, the l2 of "
            "its training, or --localisation to run it all the same"
        )
    work = sweep_work(landscape, settings, operator, memory)
    metric = None
    if settings.sampler == "rmsprop":
        chosen = _sampled(landscape, ground)
        factors = factors_of(chosen, settings, warm, pull, outlook, work.chains_at_once)
        more = ground.penalty - landscape.l2
        metric = metric_of(operator, factors, warm, pull, settings, penalty=more, memory=memory, progress=progress)
    axes = axes_of(settings, warm, pull, outlook_of(settings.sampler, outlook.density, outlook.slope, metric))
    shape = (work.cells, settings.members)
    return Calibration(
        settings=settings,
        provenance=provenance,
        spectrum=spectrum,
        slope=outlook.slope,
        ground=ground,
        task_penalty=landscape.l2,
        axes=axes,
        rows=work.rows,
        at_once=work.at_once,
        rises=np.full((*shape, settings.steps), np.nan, dtype=np.float32),
        acceptance=np.full((*shape, len(_members(settings).checked)), np.nan),
        metric=metric,
        members_at_once=work.members_at_once,
    )


def _measured(
    operator: SymmetricOperator, steps: int, memory: int, progress: Progress | None
) -> Callable[[Tensor], Slope]:
    """What makes a gradient a measure on the eigenvalues of the Hessian."""

    def measured(slope: Tensor) -> Slope:
        done = 0

        def tell(products: int) -> None:
            nonlocal done
            done += products
            if progress is not None:
                progress(done, steps, "spectrum of the gradient at the checkpoint")

        found = anchor_measure(operator, slope.to(operator.dtype), steps, memory=memory, progress=tell)
        return Slope(found.nodes, found.masses)

    return measured


def _chain_bytes(operator: SymmetricOperator, size: int, rows: int, accepted: bool) -> float:
    """What a chain takes: its vectors, and the graph of its minibatch."""
    vectors = (_ACCEPTED_VECTORS if accepted else _VECTORS) * operator.size * operator.dtype.itemsize
    if not isinstance(operator, Curvature):
        return float(vectors)
    graph = operator.graph_memory
    return vectors + _GRAPHS * graph.saved * size / max(rows / graph.batches, 1.0)


def _sampled(landscape: Landscape, ground: Ground) -> Landscape:
    same = ground.penalty == landscape.l2
    return landscape if same else landscape.with_penalty(ground.penalty)


def _members(settings: SweepSettings) -> Members:
    return Members(settings.members, settings.steps, settings.seed, settings.sampler, settings.checks)


def run_chains(
    landscape: Landscape,
    found: Calibration,
    *,
    on_save: Callable[[Calibration], None] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Runs the chains of a calibration, or those that are left of it, to the same numbers however often it is left.

    Args:
        landscape: the task's cost, the same that the calibration was prepared on.
        found: the calibration so far.
        on_save: called with what is done after each block of cells, and now and then within one.
        progress: called with gradients done, all of them, and what is being done.

    Returns:
        The complete calibration.
    """
    return _Chains(landscape, found, on_save, progress).run()


class _Chains:
    """The chains of a calibration on their way."""

    def __init__(
        self,
        landscape: Landscape,
        found: Calibration,
        on_save: Callable[[Calibration], None] | None,
        progress: Progress | None,
    ) -> None:
        self.landscape = _sampled(landscape, found.ground)
        self.found, self.on_save, self.progress = found, on_save, progress
        settings = found.settings
        self.members = _members(settings)
        full = settings.batch_size is None or settings.batch_size >= found.rows
        self.size = None if full else settings.batch_size
        self.share = (self.size or found.rows) / found.rows
        self.cells = [found.axes.at(place) for place in found.axes.places]
        self.rises, self.acceptance = found.rises.copy(), found.acceptance.copy()
        self.begun = self.saved = self.told = time.monotonic()

    def _gradients(self, steps: int) -> float:
        """Of one chain, with the checks that lie before a step, or the first place of steps that may be rejected."""
        if self.members.sampler == "mala":
            return steps + 1.0
        checks = sum(step < steps for step in self.members.checked)
        return steps * self.share + 2.0 * checks

    def run(self) -> Calibration:
        found, factors = self.found, None
        if found.settings.sampler == "rmsprop" and not found.complete:
            plain, axes = Outlook(found.outlook.density, found.slope), found.axes
            chains = found.at_once * (found.members_at_once or self.members.count)
            warm, pull = axes.inverse_temperatures, axes.localisations
            factors = factors_of(self.landscape, found.settings, warm, pull, plain, chains)
        while found.done < len(self.cells):
            last = min(found.done + found.at_once, len(self.cells))
            each = (
                None if factors is None else factors[torch.arange(found.done, last) // found.axes.step_sizes.shape[2]]
            )
            for part in self._parts(found):
                ensemble = Ensemble(self.landscape, part, self.cells[found.done : last], self.size, each)
                if found.underway is not None and found.underway.moved.size:
                    ensemble.go_on_from(found.underway.moved, found.underway.alive, found.underway.step)
                self._block(found, ensemble, part, last)
                after = part.first + part.count
                none = ensemble.moved[:, :0].cpu().numpy(), ensemble.alive[:, :0].cpu().numpy()
                whole = after == self.members.count
                found = (
                    self._state(found, last, None)
                    if whole
                    else self._state(found, found.done, Underway(found.done, 0, *none, after))
                )
                self._save(found)
        return found

    def _parts(self, found: Calibration) -> Iterator[Members]:
        """The members that are run together, one such block after the other, from where the calibration stands."""
        start = 0 if found.underway is None else found.underway.member
        width = found.members_at_once or self.members.count
        for first in range(start, self.members.count, width):
            yield replace(self.members, first=first, count=min(width, self.members.count - first))

    def _block(self, found: Calibration, ensemble: Ensemble, part: Members, last: int) -> None:
        """Steps to the end of a block, in parts long enough to be worth a report; the numbers do not depend on them."""
        first, checked, count = found.done, self.members.checked, 1
        chains = slice(part.first, part.first + part.count)
        size = ensemble.moved.numel() * ensemble.moved.element_size()
        every = SAVE_EVERY * max(1.0, size / SAVED_AT_ONCE)
        while ensemble.step < self.members.steps:
            start = ensemble.step
            count = min(count, self.members.steps - start)
            rises, acceptances = ensemble.advance(count)
            self.rises[first:last, chains, start : start + count] = rises
            for number, one in zip(
                [n for n, at in enumerate(checked) if start <= at < start + count], acceptances, strict=True
            ):
                self.acceptance[first:last, chains, number] = one
            now = time.monotonic()
            if now - self.told < _REPORT_EVERY:
                count *= 2
            elif count > 1 and now - self.told > 4.0 * _REPORT_EVERY:
                count //= 2
            self.told = now
            if self.progress is not None:
                whole, here = self._gradients(self.members.steps), self._gradients(ensemble.step)
                ended = first * self.members.count + (last - first) * part.first
                done = ended * whole + (last - first) * part.count * here
                total = len(self.cells) * self.members.count * whole
                what = f"chains of cells {first + 1} to {last} of {len(self.cells)}"
                self.progress(round(done), round(total), what)
            if size <= MOST_SAVED and now - self.saved > every and ensemble.step < self.members.steps:
                moved, alive = ensemble.moved.cpu().numpy(), ensemble.alive.cpu().numpy()
                self._save(self._state(found, first, Underway(first, ensemble.step, moved, alive, part.first)))

    def _state(self, found: Calibration, done: int, underway: Underway | None) -> Calibration:
        gradients = done * self.members.count * self._gradients(self.members.steps)
        return replace(
            found,
            rises=self.rises,
            acceptance=self.acceptance,
            done=done,
            gradients=gradients,
            seconds=self.found.seconds + time.monotonic() - self.begun,
            underway=underway,
        )

    def _save(self, state: Calibration) -> None:
        if self.on_save is not None:
            self.on_save(state)
        self.saved = time.monotonic()
