"""Which measures move when the parameters change and the function does not: measured, and held against the registry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from comparisons.comparison import Outcome
from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.examination import Progress, outcome_of
from comparisons.flatness import INVARIANCES, Measure
from comparisons.measures import SYMMETRIES
from spectra.errors import UserError
from spectra.landscape import Landscape

# Beyond the errors of both readings, a change by less than this share of the value is rounding.
ROUNDING = 1e-4
MOVED, SAME, UNKNOWN = "moved", "same", "unknown"


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the parameters, and what it did.

    Attributes:
        name: one of ``INVARIANCES``.
        difference: largest difference of the outputs over the largest output: the function did not change.
        outcomes: outcomes by measure, at the changed parameters.
        failure: why it could not be made; empty if it was.
    """

    name: str
    difference: float
    outcomes: dict[str, Outcome]
    failure: str = ""


@dataclass(frozen=True, eq=False)
class InvarianceTable:
    """Measures before and after changes that leave the function as it is.

    Attributes:
        measures: rows of the registry.
        before: outcomes at the checkpoint, by measure.
        changes: one for each of ``INVARIANCES``.
    """

    measures: tuple[Measure, ...]
    before: dict[str, Outcome]
    changes: tuple[Change, ...]

    def verdict(self, measure: str, change: Change) -> str:
        """Whether a measure moved by more than the errors of both readings.

        Args:
            measure: its name.
            change: one of the table's.

        Returns:
            ``moved``, ``same``, or ``unknown`` where a reading or its error is missing.
        """
        first = self.before[measure].reading
        second = change.outcomes[measure].reading if measure in change.outcomes else None
        if first is None or second is None:
            return UNKNOWN
        allowed = ROUNDING * max(abs(first.value), abs(second.value)) + first.half_width + second.half_width
        if not math.isfinite(allowed):
            return SAME if first.value == second.value else UNKNOWN
        return SAME if abs(first.value - second.value) <= allowed else MOVED

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Sentences on measures that the registry calls invariant and that moved."""
        found = []
        for change in self.changes:
            for measure in self.measures:
                if change.name in measure.invariances and self.verdict(measure.name, change) == MOVED:
                    found.append(f"{measure.name} is declared invariant under {change.name}, and moved")
        return tuple(found)


def check_invariance(
    landscape: Landscape,
    measures: Sequence[Measure],
    settings: EvidenceSettings | None = None,
    *,
    held_out: Landscape | None = None,
    progress: Progress | None = None,
) -> InvarianceTable:
    """Reads measures at a checkpoint and at other parameters of the same function, in float64.

    Optimizer state and initialisation are left out: they would have to be changed alike.

    Args:
        landscape: landscape of the checkpoint.
        measures: rows of the registry.
        settings: what decides the numbers.
        held_out: the same network on held-out data, or None.
        progress: called with work done, all work and what is being done.

    Returns:
        The table; a change that the model does not allow has a sentence in place of its outcomes.
    """
    plain = landscape.to(dtype=torch.float64)
    beside = None if held_out is None else held_out.to(dtype=torch.float64)
    settings = settings or EvidenceSettings()
    steps = len(INVARIANCES) + 1

    def read(at: Landscape, other: Landscape | None, number: int, what: str) -> dict[str, Outcome]:
        if progress is not None:
            progress(number, steps, what)
        evidence = Evidence(at, held_out=other, settings=settings)
        return {measure.name: outcome_of(evidence, measure) for measure in measures}

    before = read(plain, beside, 0, "as it is")
    changes = []
    for number, name in enumerate(INVARIANCES):
        try:
            moved = SYMMETRIES[name](plain)
            other = None if beside is None else SYMMETRIES[name](beside)
        except UserError as error:
            changes.append(Change(name, float("nan"), {}, str(error)))
            continue
        changes.append(Change(name, _difference(plain, moved), read(moved, other, number + 1, name)))
    return InvarianceTable(tuple(measures), before, tuple(changes))


def _difference(first: Landscape, second: Landscape) -> float:
    one, two = torch.cat([x.flatten() for x in first.outputs()]), torch.cat([x.flatten() for x in second.outputs()])
    return float((one - two).abs().max() / one.abs().max().clamp_min(torch.finfo(one.dtype).tiny))
