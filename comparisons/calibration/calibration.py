"""A calibration: what was run, what was predicted, and what it comes to; its evidence is kept raw."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from comparisons.calibration.axes import Axes, usual_temperature
from comparisons.calibration.cell import Cell
from comparisons.calibration.ground import Ground
from comparisons.calibration.outlook import Metric, Outlook, Slope, outlook_of, with_penalty
from comparisons.calibration.plateau import Verdict, judge
from comparisons.calibration.settings import SweepSettings
from comparisons.langevin import Chains
from spectra.files import Provenance, Result, counted
from spectra.interval import with_ends
from spectra.spectrum import Spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Underway:
    """Where the chains of the present block stand.

    Attributes:
        first: number of its first cell.
        step: steps that are done.
        moved: (cells, members, n) displacements from the checkpoint of the members that are run together; no member
            where they are at their beginning.
        alive: (cells, members) which have not failed.
        member: number of the first of these members; those before it are done.
    """

    first: int
    step: int
    moved: NDArray[Any]
    alive: NDArray[np.bool_]
    member: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Result):
    """The local learning coefficient over a grid of settings.

    Attributes:
        settings: what decides the numbers.
        provenance: checkpoint, task and cost.
        spectrum: the Hessian's, under the task's own cost.
        slope: gradient of the sampled cost as a measure on the eigenvalues of its own Hessian.
        ground: the cost that is sampled.
        task_penalty: l2 of the task's own cost.
        axes: the grid.
        rows: rows of the data.
        at_once: cells whose chains are run together.
        members_at_once: chains of a cell that are run together, of one cell where they are not all; 0 for all.
        rises: (cells, members, steps) cost above the checkpoint's at each step; nan where a chain failed, and where it
            has not been yet.
        acceptance: (cells, members, checks) Metropolis acceptance probabilities.
        done: cells whose chains have come to their end.
        gradients: gradients over all data that the chains took, minibatches counted as their share.
        seconds: wall time of the chains.
        underway: where the next cells stand; None where they are at their beginning.
        metric: the spectrum in the metric of the preconditioner; None without one.
    """

    settings: SweepSettings
    provenance: Provenance
    spectrum: Spectrum
    slope: Slope
    ground: Ground
    task_penalty: float
    axes: Axes
    rows: int
    at_once: int
    rises: NDArray[np.float32]
    acceptance: Array
    done: int = 0
    gradients: float = 0.0
    seconds: float = 0.0
    underway: Underway | None = field(default=None)
    metric: Metric | None = None
    members_at_once: int = 0
    _drawn_by: ClassVar[str] = "comparisons.calibration.plots:draw_calibration"
    _written_by: ClassVar[str] = "comparisons.calibration.store:write_calibration"

    @property
    def complete(self) -> bool:
        """Whether all chains have come to their end."""
        return self.done == len(self.rises)

    @cached_property
    def outlook(self) -> Outlook:
        """What the spectrum predicts for the cost that is sampled."""
        density = with_penalty(self.spectrum.density, self.ground.penalty - self.task_penalty)
        return outlook_of(self.settings.sampler, density, self.slope, self.metric)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that are done, step size after step size, localisation after localisation."""
        return tuple(self._cell(number, place) for number, place in zip(range(self.done), self.axes.places))  # noqa: B905

    def _cell(self, number: int, place: tuple[int, int, int]) -> Cell:
        nb, pull, step = self.axes.at(place)
        ahead = self.outlook.at(nb, pull, step)
        needed = ahead.burn_in
        chains = Chains(
            rises=self.rises[number].astype(np.float64),
            burn_in=int(min(needed, self.settings.longest_burn_in)),
            step_size=step,
            inverse_temperature=nb,
            localisation=pull,
            acceptance=self.acceptance[number],
            gradient_evaluations=self.gradients / max(self.done, 1),
            sampler=self.settings.sampler,
        )
        return Cell(place, chains, self.settings.calls, ahead)

    @property
    def usual(self) -> float:
        """The usual inverse temperature, n / log n; the lowest of the grid where there are too few samples for it."""
        if self.spectrum.samples > 2.0:
            return usual_temperature(self.spectrum.samples)
        return float(self.axes.inverse_temperatures[0])

    @cached_property
    def verdict(self) -> Verdict:
        """The plateau, or why there is none; of a complete calibration."""
        return judge(self.cells, self.axes, usual=self.usual, tolerance=self.settings.tolerance)

    @property
    def headline(self) -> str:
        """The value with its interval and the settings that it is of, or why there is none."""
        if not self.complete:
            return f"not complete: {self.done} of {counted(len(self.rises), 'cell')} are done"
        cell = self.verdict.cell
        if cell is None:
            return f"no value: no plateau, for {self.verdict.reason}"
        nb, pull, step = self.axes.at(cell.place)
        found = cell.estimate
        return (
            f"{with_ends(found.value, found.interval())} at inverse temperature {nb:.4g} (times samples), localisation "
            f"{pull:.4g}, step size {step:.3g}"
        )

    def _title(self) -> str:
        return f"local learning coefficient of {self.provenance.name}, {counted(len(self.rises), 'cell')}"

    def _facts(self) -> dict[str, str]:
        found = {"coefficient": self.headline}
        if self.complete and (cell := self.verdict.cell) is not None:
            found["by the spectrum"] = f"{cell.outlook.value:.3g}"
        return found

    def _cautions(self) -> tuple[str, ...]:
        return self.cautions

    @property
    def cautions(self) -> tuple[str, ...]:
        """What the value still depends on, and what of it is not sure."""
        if not self.complete:
            return ()
        verdict, found = self.verdict, []
        if self.ground.source in ("metadata", "fitted", "given") and self.ground.penalty:
            found.append(
                f"the cost that was sampled has the penalty l2 = {self.ground.penalty:.3g}, the task's has not"
            )
        cell = verdict.cell
        if cell is not None:
            apart = cell.estimate.value / cell.outlook.value - 1.0 if cell.outlook.value > 0.0 else math.nan
            low, high = cell.estimate.interval()
            if math.isfinite(apart) and not low <= cell.outlook.value <= high and abs(apart) > self.settings.tolerance:
                found.append(
                    f"the chains lie {apart:+.0%} off what the spectrum predicts: the cost is not quadratic as far as "
                    "they go"
                )
        return (*verdict.cautions, *found)

    def records(self) -> list[dict[str, Any]]:
        """A row for each cell: its settings, what was sampled, what was predicted, and why it is not sound."""
        chosen = self.verdict.cell if self.complete else None
        return [self._record(cell, cell is chosen) for cell in self.cells]

    def _record(self, cell: Cell, chosen: bool) -> dict[str, Any]:
        nb, pull, step = self.axes.at(cell.place)
        found, chains, ahead = cell.estimate, cell.chains, cell.outlook
        low, high = found.interval()
        drift, drift_error = (nb * one for one in chains.drift)
        return {
            "inverse_temperature": nb,
            "localisation": pull,
            "step_size": step,
            "coefficient": found.value,
            "standard_error": found.standard_error,
            "low95": low,
            "high95": high,
            "error_of_one_call": cell.error_of_one_call,
            "burn_in": chains.burn_in,
            "acceptance": chains.mean_acceptance,
            "drift": drift,
            "drift_error": drift_error,
            "rhat": chains.scale_reduction,
            "failed_share": cell.failed_share,
            "negative_share": chains.negative_share,
            "predicted": ahead.value,
            "predicted_without_step": ahead.plain,
            "predicted_bias": ahead.bias,
            "predicted_slope": ahead.fall,
            "predicted_acceptance": ahead.acceptance,
            "step_limit": ahead.prediction.step_limit,
            "burn_in_needed": ahead.burn_in,
            "sound": cell.sound,
            "chosen": chosen,
            "reasons": "; ".join(cell.reasons),
        }
