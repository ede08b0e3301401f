"""A training run as it was tracked: what each recorded step said, and which steps were passed over for time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from basinscope.training.reading import COLUMNS, CurvatureReading
from basinscope.training.settings import TrackerSettings
from spectra.files import Provenance, Result, counted
from spectra.interval import short

Array = NDArray[np.float64]
_NUMBERS = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")


@dataclass(frozen=True, eq=False, repr=False)
class TrainingCurves(Result):
    """The curvature of a model over the steps of its training.

    Attributes:
        settings: what decides the numbers of a recorded step.
        provenance: what it was made from and with; its checkpoint is the name of the model.
        size: number n of the tracked parameters.
        samples: number of samples of the tracked data whose weight is not zero.
        data_sha256: digest of the tracked data.
        standard_deviation: of the prior of the quadratic mass, unit of the parameters.
        every: number of optimizer steps from one turn to the next.
        share: share of the time that measuring may take; inf for all that it takes.
        readings: what each recorded step said, in their order.
        skipped: steps whose turn was passed over, because the share would have been exceeded.
        notes: sentences on the data and the model.
    """

    settings: TrackerSettings
    provenance: Provenance
    size: int
    samples: float
    data_sha256: str
    standard_deviation: float
    every: int = 1
    share: float = math.inf
    readings: tuple[CurvatureReading, ...] = ()
    skipped: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    _drawn_by: ClassVar[str] = "basinscope.training.plots:draw_curves"
    _written_by: ClassVar[str] = "basinscope.training.store:write_curves"
    _tabled_by: ClassVar[str] = "basinscope.views.training:notebook_table"

    @property
    def steps(self) -> NDArray[np.int64]:
        """(steps,) the recorded steps."""
        return np.array([one.step for one in self.readings], dtype=np.int64)

    @property
    def eigenvalues(self) -> Array:
        """(steps, k) the largest eigenvalues of the Hessian, descending; nan where they are not known."""
        return self._pairs("eigenvalues")

    @property
    def residuals(self) -> Array:
        """(steps, k) norms of ``H q - l q``."""
        return self._pairs("residuals")

    def column(self, name: str) -> Array:
        """One of the numbers of ``CurvatureReading`` at each recorded step.

        Args:
            name: name of its field, such as ``trace``.

        Returns:
            (steps,) in its unit; nan where it is not known.
        """
        return np.array([getattr(one, name) for one in self.readings], dtype=np.float64)

    def _pairs(self, name: str) -> Array:
        rows = [getattr(one, name) or (math.nan,) * self.settings.eigenvalues for one in self.readings]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.settings.eigenvalues)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on what is missing or not to be trusted, each once, with the steps that it is about."""
        steps: dict[str, list[int]] = {}
        words: dict[str, str] = {}
        for one in self.readings:
            for note in one.notes:
                form = _NUMBERS.sub("#", note)
                words.setdefault(form, note)
                steps.setdefault(form, []).append(one.step)
        return tuple(f"{words[form]} ({_places(found, form != words[form])})" for form, found in steps.items())

    @property
    def skipped_in_words(self) -> str:
        """How many turns were passed over; empty if none was."""
        if not self.skipped:
            return ""
        turns = counted(len(self.readings) + len(self.skipped), "turn")
        return (
            f"{len(self.skipped):,} of {turns} passed over, because measuring would have taken more than "
            f"{100.0 * self.share:g} % of the time"
        )

    def _title(self) -> str:
        origin = self.provenance
        return f"training run of {origin.checkpoint}, {counted(self.size, 'parameter')}, {origin.cost} cost"

    def _facts(self) -> dict[str, str]:
        found = {"recorded": counted(len(self.readings), "step")}
        if self.readings:
            last = self.readings[-1]
            found |= {"last step": f"{last.step:,}", "cost": f"{last.cost:.4g}"}
            if last.eigenvalues:
                found["largest eigenvalue"] = f"{last.eigenvalues[0]:.4g}"
            if math.isfinite(last.stability_limit):
                found["stability limit"] = short(last.stability_limit)
        return found | ({"passed over": counted(len(self.skipped), "turn")} if self.skipped else {})

    def _cautions(self) -> tuple[str, ...]:
        return self.remarks

    def records(self) -> list[dict[str, Any]]:
        """One row a recorded step: the fields of ``CurvatureReading``, eigenvalues numbered from 1, notes joined."""
        count = self.settings.eigenvalues if "eigenvalues" in self.settings.quantities else 0
        rows = []
        for one, values, residuals in zip(self.readings, self.eigenvalues, self.residuals, strict=True):
            row: dict[str, Any] = {"step": one.step} | {name: getattr(one, name) for name in COLUMNS}
            for number in range(count):
                row[f"eigenvalue_{number + 1}"] = float(values[number])
                row[f"residual_{number + 1}"] = float(residuals[number])
            rows.append(row | {"notes": "; ".join(one.notes)})
        return rows


def _places(steps: list[int], numbers: bool) -> str:
    """Where a note stands, which may have other numbers at each of the steps."""
    if len(steps) == 1:
        return f"step {steps[0]:,}"
    first = f"; numbers of step {steps[0]:,}" if numbers else ""
    return f"{len(steps)} steps, {min(steps):,} to {max(steps):,}{first}"
