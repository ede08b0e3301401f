"""A comparison: what each measure said of each checkpoint, at what cost, and what it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.flatness import Reading
from spectra.files import Provenance, Result, counted

Plain = str | int | float | bool


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one measure came to at one checkpoint.

    Attributes:
        reading: the reading; None if there is none.
        work: what it would have cost alone, its share of the evidence included.
        failure: why there is no reading; empty if there is one.
    """

    reading: Reading | None
    work: ComputeCost
    failure: str = ""

    def record(self) -> dict[str, Any]:
        """The value with its errors and its price, as columns of a data frame; None where there is none."""
        reading = self.reading
        low, high = (None, None) if reading is None else reading.interval
        names = ("value", "standard_error", "truncation_error", "half_width", "trusted")
        return {
            **{name: None if reading is None else getattr(reading, name) for name in names},
            "low95": low,
            "high95": high,
            "gradients": self.work.in_gradients,
            "seconds": self.work.seconds,
            "remark": self.failure if reading is None else "; ".join(reading.cautions),
        }


@dataclass(frozen=True, eq=False)
class Examined:
    """One checkpoint with its outcomes.

    Attributes:
        provenance: file, task and cost.
        size: number of parameters n.
        samples: samples of the training data whose weight is not zero.
        data_sha256: digest of that data as iterated.
        cost: cost on it, in its unit.
        held_out_cost: cost on held-out data; nan if there is none.
        error: share of the training data that is misclassified; nan where there are no classes.
        held_out_error: the same share of the held-out data.
        held_out_samples: samples of the held-out data whose weight is not zero; 0 if there is none.
        hyperparameters: plain values of the checkpoint's metadata.
        outcomes: outcomes by measure.
        work: all that was spent, each item of evidence counted once.
        strategies: how products of each curvature were computed, by its name; kept on resuming.
        notes: sentences on what was reused or given up.
        failure: why the checkpoint could not be examined at all; empty if it was.
    """

    provenance: Provenance
    size: int = 0
    samples: float = 0.0
    data_sha256: str = ""
    cost: float = math.nan
    held_out_cost: float = math.nan
    error: float = math.nan
    held_out_error: float = math.nan
    held_out_samples: float = 0.0
    hyperparameters: Mapping[str, Plain] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    work: ComputeCost = field(default_factory=ComputeCost)
    strategies: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failure: str = ""

    @property
    def gap(self) -> float:
        """Held-out cost less the training cost, in the cost's unit."""
        return self.held_out_cost - self.cost

    @property
    def error_gap(self) -> float:
        """Held-out error rate less that on the training data."""
        return self.held_out_error - self.error

    def value(self, measure: str) -> float:
        """A measure's value; nan if there is none."""
        outcome = self.outcomes.get(measure)
        return math.nan if outcome is None or outcome.reading is None else outcome.reading.value


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Checkpoints side by side.

    Attributes:
        settings: what decides the numbers.
        measures: names, in the order of the registry.
        checkpoints: those done, in the order asked for.
    """

    settings: EvidenceSettings
    measures: tuple[str, ...]
    checkpoints: tuple[Examined, ...] = ()
    _drawn_by: ClassVar[str] = "comparisons.plots:draw_measure"
    _written_by: ClassVar[str] = "comparisons.store:write_comparison"
    _tabled_by: ClassVar[str] = "comparisons.tables:notebook_table"

    def _title(self) -> str:
        return f"{counted(len(self.measures), 'measure')} of {counted(len(self.checkpoints), 'checkpoint')}"

    def _facts(self) -> dict[str, str]:
        readings = [one.reading for each in self.done for one in each.outcomes.values()]
        values = [reading for reading in readings if reading is not None]
        with_caution = sum(not reading.trusted for reading in values)
        failed = len(self.checkpoints) - len(self.done)
        found = {"values": f"{len(values):,}, {with_caution:,} of them with a caution"}
        return {**found, "failed": counted(failed, "checkpoint")} if failed else found

    def _cautions(self) -> tuple[str, ...]:
        return self.cautions

    def records(self) -> list[dict[str, Any]]:
        """A row for each checkpoint and measure: pivot from ``checkpoint`` and ``measure``."""
        from comparisons.measures import REGISTRY

        known = {measure.name: measure for measure in REGISTRY}
        return [
            {
                "checkpoint": one.provenance.checkpoint,
                "measure": name,
                **{word: getattr(known.get(name), word, None) for word in ("family", "unit", "flatter")},
                **one.outcomes[name].record(),
                "size": one.size,
                "cost": one.cost,
                "held_out_cost": one.held_out_cost,
                **{f"hyperparameter_{key}": value for key, value in one.hyperparameters.items()},
            }
            for one in self.done
            for name in self.measures
            if name in one.outcomes
        ]

    @property
    def done(self) -> tuple[Examined, ...]:
        """The checkpoints that could be examined."""
        return tuple(one for one in self.checkpoints if not one.failure)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Sentences on what does not compare."""
        done, found = self.done, []
        sizes = sorted({one.size for one in done})
        if len(sizes) > 1:
            many = ", ".join(f"{size:,}" for size in sizes)
            found.append(
                f"the checkpoints have different numbers of parameters ({many}): volumes, determinants and other sums "
                "over all directions are not comparable between them"
            )
        if len({one.data_sha256 for one in done}) > 1:
            found.append("the checkpoints were measured on different data")
        if len({one.provenance.cost for one in done}) > 1:
            found.append("the checkpoints were measured under different costs")
        return tuple(found)
