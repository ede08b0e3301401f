"""The audit: estimators on cases over repeats, and how far each is from the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError
from spectra.files import Result, counted
from spectra.interval import half_width
from volume.audit.reading import STAR, UNITS, VOLUME, AuditReading, Truth
from volume.audit.statistics import (
    Directions,
    Figure,
    Share,
    bias_of,
    directions_needed,
    error_by_directions,
    mean_of,
    overestimates,
    rms_of,
    spread_of,
)

if TYPE_CHECKING:
    from volume.audit.case import AuditCase, Estimator

Array = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
# Level of an interval of 3 standard errors of a normal: a bias outside of it is one.
_BEYOND = math.erf(3.0 / math.sqrt(2.0))
# Of products in float32, relative to the truth.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class AuditRow:
    """One estimator on one case, over repeats.

    Attributes:
        case: name of the case.
        size: number of parameters n.
        estimator: name of the estimator.
        readings: one a repeat, in order of their seeds; empty if it does not apply.
        truth: true value of the readings' quantity, of the set that is claimed; None where none is known.
        skipped: why it does not apply; empty if it does.
        bound: where no truth is known, that of the other set, which bounds what is claimed: a star domain lies in the
            sublevel set. None where it is not known either.
    """

    case: str
    size: int
    estimator: str
    readings: tuple[AuditReading, ...] = ()
    truth: Truth | None = None
    skipped: str = ""
    bound: Truth | None = None

    def record(self) -> dict[str, Any]:
        """The row of a data frame: errors over repeats in the unit of the quantity."""
        truth, covered, figures = self.truth, self.coverage, ("mean", "bias", "spread", "rms")
        numbers = {name: getattr(self, name) for name in (*figures, "largest_share", "effective_samples")}
        return {
            "case": self.case,
            "size": self.size,
            "estimator": self.estimator,
            "quantity": self.quantity,
            "unit": UNITS[self.quantity],
            "claims": self.claims,
            "truth": None if truth is None else truth.value,
            "bound": None if self.bound is None else self.bound.value,
            **{name: number.value for name, number in numbers.items()},
            **{f"{name}_error": numbers[name].error for name in figures},
            "biased": self.biased,
            "outside": self.outside,
            "infinite": self.infinite,
            "intervals": covered.of,
            "covered": covered.hits,
            "gradients": self.gradients,
            "evaluations": self.evaluations,
            "skipped": self.skipped,
        }

    @property
    def quantity(self) -> str:
        """What is estimated."""
        return self.readings[0].quantity if self.readings else VOLUME

    @property
    def claims(self) -> str:
        """The set whose volume it claims to measure; empty for another quantity, or where that was not recorded."""
        return self.readings[0].claims if self.readings and self.quantity == VOLUME else ""

    @cached_property
    def values(self) -> Array:
        """(r,) finite estimates."""
        found = np.array([reading.value for reading in self.readings], dtype=np.float64)
        return found[np.isfinite(found)]

    @property
    def consistent(self) -> bool:
        """Whether it is a mean over directions that more of them bring to the truth."""
        return bool(self.readings) and all(len(r.log_terms) and r.consistent for r in self.readings)

    @property
    def infinite(self) -> int:
        """How many estimates were infinite; they are in no other figure but the coverage."""
        return len(self.readings) - len(self.values)

    @property
    def mean(self) -> Figure:
        """Mean of the estimates."""
        return mean_of(self.values)

    @property
    def bias(self) -> Figure:
        """Mean less the truth."""
        if self.truth is None:
            return Figure(math.nan, math.nan)
        return bias_of(self.values, self.truth)

    @property
    def excess(self) -> Figure:
        """Mean less the bound; nan where there is none."""
        return Figure(math.nan, math.nan) if self.bound is None else bias_of(self.values, self.bound)

    @property
    def outside(self) -> bool:
        """Whether it is beyond its bound, by 3 standard errors as of ``biased``: a star domain larger than its set."""
        sign = 1.0 if self.claims == STAR else -1.0
        return self.bound is not None and sign * self.excess.value > 0.0 and _differs(self.excess, self.bound)

    @property
    def spread(self) -> Figure:
        """Standard deviation over repeats."""
        return spread_of(self.values)

    @property
    def rms(self) -> Figure:
        """Root mean square error."""
        return Figure(math.nan, math.nan) if self.truth is None else rms_of(self.values, self.truth.value)

    @property
    def coverage(self) -> Share:
        """Of the repeats with an error bar, those whose 95 % interval holds the truth (to the truth's own error)."""
        truth = self.truth
        if truth is None:
            return Share(0, 0)
        told = [reading for reading in self.readings if reading.has_interval]
        # A closed form is exact to rounding, and an interval of width zero may miss it by that.
        slack = truth.error + _ROUNDING * max(1.0, abs(truth.value))
        return Share(sum(reading.covers(truth.value, slack) for reading in told), len(told))

    @property
    def overestimates(self) -> tuple[Share, ...]:
        """How often it exceeds the truth by the factors of ``volume.audit.FACTORS``; log-volumes only."""
        if self.truth is None or self.quantity != VOLUME:
            return ()
        return overestimates(self.values, self.truth.value)

    @property
    def largest_share(self) -> Figure:
        """Share of the largest term, for a mean over directions."""
        shares = [float(np.exp(r.log_terms.max() - r.value) / len(r.log_terms)) for r in self._sampled]
        return mean_of(np.array(shares))

    @property
    def effective_samples(self) -> Figure:
        """How many directions carry the estimate."""
        return mean_of(np.array([reading.effective_samples for reading in self._sampled]))

    @property
    def jensen_predicted(self) -> Figure:
        """Variance over repeats over 2: the bias of a normal logarithm of an unbiased estimate."""
        spread = self.spread
        return Figure(spread.value**2 / 2.0, spread.value * spread.error, spread.freedom)

    @property
    def jensen_seen(self) -> Figure:
        """Truth less mean: the gap itself."""
        return Figure(-self.bias.value, self.bias.error, self.bias.freedom)

    @property
    def gradients(self) -> float:
        """Mean gradient evaluations."""
        return float(np.mean([reading.gradients for reading in self.readings])) if self.readings else math.nan

    @property
    def evaluations(self) -> float:
        """Mean cost evaluations."""
        return float(np.mean([reading.evaluations for reading in self.readings])) if self.readings else math.nan

    @cached_property
    def curve(self) -> tuple[NDArray[np.int64], Array, Array]:
        """Error against the number of directions: numbers, mean errors, rms errors; empty if it has none."""
        sampled = self._sampled
        if self.truth is None or not sampled or len({len(r.log_terms) for r in sampled}) > 1:
            return np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)
        return error_by_directions([reading.log_terms for reading in sampled], self.truth.value)

    @property
    def directions_needed(self) -> Directions:
        """Directions to come within one nat, extrapolated where they were not drawn."""
        counts, _, roots = self.curve
        return directions_needed(counts, roots) if self.consistent else Directions(math.nan, False)

    @property
    def biased(self) -> bool:
        """Whether the bias is beyond 3 standard errors (by Student's t as rare as those), and beyond rounding."""
        return self.truth is not None and _differs(self.bias, self.truth)

    @property
    def _sampled(self) -> list[AuditReading]:
        return [r for r in self.readings if len(r.log_terms) and math.isfinite(r.value)]


@dataclass(frozen=True, eq=False, repr=False)
class AuditTable(Result):
    """Everything that an audit found.

    Attributes:
        rows: one an estimator and case, those that do not apply included.
        repeats: readings a row.
        seed: seed of the first repeat.
    """

    rows: tuple[AuditRow, ...]
    repeats: int
    seed: int
    _drawn_by: ClassVar[str] = "volume.audit.plots:draw_case"

    def _title(self) -> str:
        many = len(dict.fromkeys(row.case for row in self.rows))
        return f"audit of {counted(many, 'case')}, {counted(self.repeats, 'repeat')} a row"

    def _facts(self) -> dict[str, str]:
        applied = self.applied
        return {"rows": f"{len(applied)}", "biased": f"{sum(row.biased for row in applied)}"} | {
            "do not apply": f"{len(self.rows) - len(applied)}"
        }

    def records(self) -> list[dict[str, Any]]:
        """A row for each estimator and case; one that does not apply has the reason in ``skipped``."""
        return [row.record() for row in self.rows]

    @property
    def applied(self) -> tuple[AuditRow, ...]:
        """Rows with readings."""
        return tuple(row for row in self.rows if row.readings)

    def row(self, case: str, estimator: str) -> AuditRow:
        """The row of a case and an estimator.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if (row.case, row.estimator) == (case, estimator):
                return row
        raise KeyError(f"no row of {estimator!r} on {case!r}")


def audit(
    cases: Iterable[AuditCase],
    estimators: Mapping[str, Estimator],
    *,
    repeats: int = 20,
    seed: int = 0,
    earlier: AuditTable | None = None,
    progress: Progress | None = None,
    on_row: Callable[[AuditTable], None] | None = None,
) -> AuditTable:
    """Run every estimator on every case over repeats; an estimator of your own joins by one entry.

    Args:
        cases: what is estimated.
        estimators: estimators by name, functions of a case and a seed.
        repeats: seeds a row, at least 2.
        seed: seed of the first repeat; the others follow.
        earlier: a table with the same repeats and seed: its readings are kept, and held against what is known now;
            those of a log-volume of no recorded set are made anew.
        progress: called with rows done, rows to do and what is being done; those of an earlier table are not counted.
        on_row: called with the table so far after each row.

    Returns:
        The table, one row a case and estimator.

    Raises:
        UserError: if there are fewer than 2 repeats, or the earlier table has others.

    >>> from volume.audit.cases import ball_case
    >>> def mine(case: AuditCase, seed: int) -> AuditReading:
    ...     return AuditReading(case.truths["log-volume"].value + 3.0 + 1e-3 * seed, standard_error=0.1)
    >>> row = audit([ball_case(2)], {"mine": mine}, repeats=4).rows[0]
    >>> row.biased, round(row.bias.value, 1), row.coverage.value
    (True, 3.0, 0.0)
    """
    if repeats < 2:
        raise UserError(f"repeats must be at least 2, got {repeats}")
    if earlier is not None and (earlier.repeats, earlier.seed) != (repeats, seed):
        raise UserError(
            f"the earlier table has {earlier.repeats} repeats from seed {earlier.seed}, asked for {repeats} from {seed}"
        )
    known = reusable(earlier)
    work = [(case, name) for case in cases for name in estimators]
    missing = sum((case.name, name) not in known for case, name in work)
    table, done = AuditTable((), repeats, seed), 0
    for case, name in work:
        row = known.get((case.name, name))
        if row is None:
            if progress is not None:
                progress(done, missing, f"{case.name}: {name}")
            done += 1
            row = _row(case, name, estimators[name], range(seed, seed + repeats))
        found = case.known(row.quantity, row.claims) if row.readings else (None, None)
        if found not in ((None, None), (row.truth, row.bound)):
            row = replace(row, truth=found[0], bound=found[1])
        table = replace(table, rows=(*table.rows, row))
        if on_row is not None:
            on_row(table)
    return table


def _row(case: AuditCase, name: str, estimator: Estimator, seeds: range) -> AuditRow:
    try:
        readings = tuple(estimator(case, seed) for seed in seeds)
    except UserError as reason:  # it does not apply, or fails here: the others go on
        return AuditRow(case.name, case.size, name, skipped=" ".join(str(reason).split()))
    for what, kind in (("quantity", "quantity"), ("set", "claims")):
        found = {getattr(reading, kind) for reading in readings}
        if len(found) > 1:
            raise UserError(f"the estimator {name} must keep to one {what}, got {', '.join(sorted(found))}")
    return AuditRow(case.name, case.size, name, readings)


def reusable(earlier: AuditTable | None) -> dict[tuple[str, str], AuditRow]:
    """Rows of an earlier table by case and estimator, less those of a volume that does not say of which set."""
    rows = () if earlier is None else earlier.rows
    return {(row.case, row.estimator): row for row in rows if row.claims or row.skipped or row.quantity != VOLUME}


def _differs(figure: Figure, truth: Truth) -> bool:
    """Whether a difference to a truth is beyond 3 standard errors, by Student's t as rare as those, and rounding."""
    error = half_width(figure.error, figure.freedom, level=_BEYOND)
    return abs(figure.value) > error + _ROUNDING * max(1.0, abs(truth.value))
