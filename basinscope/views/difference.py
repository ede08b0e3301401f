"""The difference of two results: spectra by common probes, volumes method by method by common directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from scipy.special import logsumexp

from basinscope.terminal import Text
from basinscope.views.layout import estimate_columns, finite, json_estimate, table
from basinscope.views.spectrum import Summary, summarise
from spectra.errors import UserError
from spectra.estimate import Estimate, difference, independent
from spectra.interval import RULE, with_ends
from spectra.store import StoredSpectrum
from spectra.words import curvature_unit
from volume.method_result import MethodResult
from volume.result import BOOTSTRAPS, VolumeEstimate
from volume.study import VolumeStudy


@dataclass(frozen=True)
class Difference:
    """One spectrum minus another.

    Attributes:
        common: whether the errors are those of common probes (common random numbers); not where a side is exact.
        reason: a sentence on why they are or are not.
        rows: name of the quantity -> first, second and their difference; None where undefined.
        units: name of the quantity -> its unit, ``1`` for a count.
    """

    common: bool
    reason: str
    rows: dict[str, tuple[Estimate | None, Estimate | None, Estimate | None]]
    units: dict[str, str]


def compare(
    first: StoredSpectrum, second: StoredSpectrum, *, shifts: Sequence[float] = (), rule: str = "raise"
) -> Difference:
    """Subtract the second spectrum's trace, norm, log-determinants and effective dimensions from the first's.

    Args:
        first: one spectrum.
        second: the other, of as many parameters.
        shifts: c of log-determinants, for both; default fractions of the largest eigenvalue of the first.
        rule: rule for negative eigenvalues.

    Returns:
        The differences.

    Raises:
        UserError: if the numbers of parameters or the operators differ, or a shift or the rule is wrong.
    """
    for name in ("size", "operator"):
        one, other = (getattr(stored.spectrum.density, name) for stored in (first, second))
        if one != other:
            raise UserError(f"spectra of different {name} cannot be compared: got {one} and {other}")
    left = summarise(first, shifts=shifts, rule=rule)
    right = summarise(second, shifts=[at.shift for at in left.shifts], rule=rule)
    obstacle = _obstacle(first, second)
    reason = obstacle or "both used the same probes, so what these share cancels from the error"
    rows = {}
    for name, one in _quantities(left).items():
        other = _quantities(right)[name]
        subtract = independent if obstacle else difference
        rows[name] = (one, other, None if one is None or other is None else subtract(one, other))
    return Difference(not obstacle, reason, rows, {name: _unit(name, first) for name in rows})


def _unit(quantity: str, stored: StoredSpectrum) -> str:
    if quantity.startswith("effective dimension"):
        return "1"
    curvature = curvature_unit(stored.spectrum.settings.operator, stored.provenance.cost_unit)
    return "nat" if quantity.startswith("log det") else curvature


def _quantities(summary: Summary) -> dict[str, Estimate | None]:
    found: dict[str, Estimate | None] = {"trace": summary.trace, "Frobenius norm": summary.frobenius_norm}
    for at in summary.shifts:
        found[f"log det at {at.shift:.4g}"] = at.logdet
    for at in summary.shifts:
        found[f"effective dimension at {at.shift:.4g}"] = at.effective_dimension
    return found


def _obstacle(first: StoredSpectrum, second: StoredSpectrum) -> str:
    """Why two spectra do not have common probes; empty if they do."""
    one, other = first.spectrum, second.spectrum
    if one.density.exact and other.density.exact:
        return "both are exact, so the difference is too"
    if one.density.exact or other.density.exact:
        which = "first" if one.density.exact else "second"
        return f"the {which} is exact, so the error is that of the other alone"
    if one.density.runs.probes != other.density.runs.probes:
        counts = f"{one.density.runs.probes} and {other.density.runs.probes}"
        return f"they have {counts} probes, so they are taken as independent"
    names = ("seed", "steps", "deflate", "engine", "layers")
    for name in names:
        values = tuple(getattr(side.settings, name) for side in (one, other))
        if values[0] != values[1]:
            return f"{name} is {values[0]} and {values[1]}, so they are taken as independent"
    if one.route != other.route:
        return f"the routes are {one.route} and {other.route}, so they are taken as independent"
    return ""


def difference_table(result: Difference, first: Path, second: Path) -> Group:
    """A difference of the spectra of two files laid out for a terminal."""
    found = table(
        ("quantity", first.name, second.name, "difference"), of=f"{first.name} minus {second.name}", padding=3
    )
    cautions: dict[str, list[str]] = {}
    for name, row in result.rows.items():
        cells = ("undefined" if one is None else with_ends(one.value, one.interval()) for one in row)
        unit = result.units[name]
        found.add_row(name if unit == "1" else f"{name} ({unit})", *cells)
        for caution in row[2].cautions if row[2] is not None else ():
            cautions.setdefault(caution, []).append(name)
    lines = [Text(f"{RULE}; {result.reason}", style="dim")]
    lines += [Text(f"caution: {', '.join(names)}: {text}", style="yellow") for text, names in cautions.items()]
    return Group(Text(f"{first} minus {second}", style="bold"), found, *lines)


def difference_rows(result: Difference) -> list[dict[str, Any]]:
    """A row for each quantity, at full precision: both values and the difference with its errors."""
    found = []
    for name, row in result.rows.items():
        first, second = (None if one is None else one.value for one in row[:2])
        known = estimate_columns(row[2], result.units[name], "difference")
        found.append({"quantity": name, "first": first, "second": second, **known})
    return found


def difference_json(result: Difference, first: Path, second: Path) -> dict[str, Any]:
    """A difference of the spectra of two files in plain values."""
    sides = ("first", "second", "difference")
    return {
        "files": {"first": str(first), "second": str(second)},
        "common_probes": result.common,
        "reason": result.reason,
        "differences": {
            name: {side: None if e is None else json_estimate(e) for side, e in zip(sides, row, strict=True)}
            | {"unit": result.units[name]}
            for name, row in result.rows.items()
        },
    }


@dataclass(frozen=True)
class VolumeDifference:
    """One method's log-volume of a checkpoint minus that of another.

    Attributes:
        method: its name.
        first: log-volume of the first, nats.
        second: log-volume of the second, nats.
        estimate: the difference; its cautions say why not to trust it.
        reason: what its error rests on.
    """

    method: str
    first: float
    second: float
    estimate: Estimate
    reason: str

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval, nats."""
        return self.estimate.half_width()

    @property
    def statement(self) -> str:
        """Which is larger, and how sure that is, in words."""
        value, half = self.estimate.value, self.half_width
        if not math.isfinite(value):
            return "a volume is infinite or the difference unknown: nothing can be said"
        if self.estimate.cautions:
            return f"not to be read alone: {'; '.join(self.estimate.cautions)}"
        if abs(value) <= half:
            return "no difference can be told at 95 %"
        return f"the first is {'larger' if value > 0 else 'smaller'}, by this estimator, whose bias is not in the error"


def volume_differences(first: VolumeStudy, second: VolumeStudy) -> tuple[VolumeDifference, ...]:
    """Log-volumes of the first study minus those of the second, for each method that both have.

    Args:
        first: one study.
        second: the other.

    Returns:
        One difference a method.

    Raises:
        UserError: if the cutoffs, k, sizes (Lebesgue volumes) or methods do not match.
    """
    if first.settings.cutoff != second.settings.cutoff:
        cutoffs = f"{first.settings.cutoff:g} and {second.settings.cutoff:g}"
        raise UserError(f"volumes to compare must share their cutoff, got {cutoffs}")
    methods = [[name for name, one in study.results.items() if not one.failure] for study in (first, second)]
    common = [method for method in methods[0] if method in methods[1]]
    if not common:
        raise UserError(f"volumes to compare must share a method, got {' and '.join(map(', '.join, methods))}")
    return tuple(_difference(first, second, method) for method in common)


def _difference(first: VolumeStudy, second: VolumeStudy, method: str) -> VolumeDifference:
    one, two = first.results[method], second.results[method]
    if one.kind == "volume" and first.size != second.size:
        raise UserError(f"Lebesgue volumes of {first.size} and {second.size} parameters cannot be compared ({method})")
    k = [result.figures.get("k") for result in (one, two)]
    if k[0] != k[1]:
        raise UserError(f"volumes to compare must share their k, got {k[0]} and {k[1]} ({method})")
    if one.sampled is not None and two.sampled is not None:
        estimate, reason = _of_rays(one, two, first.settings.seed == second.settings.seed)
    else:
        estimate, reason = _of_probes(first, second, method)
    found = list(estimate.cautions)
    if one.measure != two.measure:
        found.append(f"the priors differ, {one.measure} and {two.measure}: --prior init or gaussian:S makes them one")
    estimate = replace(estimate, cautions=tuple(dict.fromkeys(found)))
    return VolumeDifference(method, one.log_volume, two.log_volume, estimate, reason)


def _of_probes(first: VolumeStudy, second: VolumeStudy, method: str) -> tuple[Estimate, str]:
    one, two = (study.results[method].estimate for study in (first, second))
    assert one is not None
    assert two is not None
    if not len(one.samples) and not len(two.samples):
        return difference(one, two), "both are exact but for the quadrature"
    same = all(getattr(first.settings, name) == getattr(second.settings, name) for name in ("seed", "steps"))
    if same and first.size == second.size and len(one.samples) == len(two.samples):
        return difference(one, two), "paired by common probes"
    return independent(one, two), "taken as independent: the probes differ"


def _of_rays(one: MethodResult, two: MethodResult, seeded: bool) -> tuple[Estimate, str]:
    left, right = one.sampled, two.sampled
    assert left is not None
    assert right is not None
    cautions: tuple[str, ...] = ()
    if not (one.trusted and two.trusted):
        cautions = ("few directions carry one of the volumes or both: a difference of lower bounds is no bound",)
    value = one.log_volume - two.log_volume
    paired = seeded and left.size == right.size and len(left.log_terms) == len(right.log_terms)
    if paired and math.isfinite(value):
        freedom = min(one.known.degrees, two.known.degrees)
        found = Estimate(value, _paired_error(left, right), cautions=cautions, freedom=freedom)
        return found, "paired by common directions, by bootstrap"
    return replace(independent(one.known, two.known), cautions=cautions), "taken as independent: the directions differ"


def _paired_error(left: VolumeEstimate, right: VolumeEstimate) -> float:
    count = len(left.log_terms)
    picks = np.random.default_rng(0).integers(0, count, (BOOTSTRAPS, count))
    gaps = logsumexp(left.log_terms[picks], axis=1) - logsumexp(right.log_terms[picks], axis=1)
    return float(np.std(gaps, ddof=1))


def volume_difference_table(found: tuple[VolumeDifference, ...], first: str, second: str) -> Group:
    """Differences of the studies of two names laid out for a terminal."""
    titles = ("method", *(f"{name} (nat)" for name in (first, second, "difference")))
    rows = table(titles, of=f"log-volume of {first} minus that of {second}", padding=3, justify="right")
    for row in found:
        value, half = row.estimate.value, row.half_width
        text = with_ends(value, row.estimate.interval()) if half > 0.0 else f"{value:.2f}"
        mark = " !" if row.estimate.cautions else ""
        rows.add_row(row.method, f"{row.first:.2f}", f"{row.second:.2f}", text + mark)
    lines = [Text(f"{row.method}: {row.statement} ({row.reason})") for row in found]
    heading = Text(f"log-volume of {first} minus that of {second}", style="bold")
    return Group(heading, rows, Text(RULE, style="dim"), *lines)


def volume_difference_rows(found: tuple[VolumeDifference, ...], first: str, second: str) -> list[dict[str, Any]]:
    """A row for each method, at full precision: both log-volumes and the difference with its errors."""
    sides = {"first": first, "second": second}
    return [
        {"method": one.method, **sides, "first_log_volume": one.first, "second_log_volume": one.second}
        | estimate_columns(one.estimate, "nat", "difference")
        for one in found
    ]


def volume_difference_json(found: tuple[VolumeDifference, ...], first: str, second: str) -> dict[str, Any]:
    """Differences of the studies of two names in plain values."""
    rows = [
        {
            "method": row.method,
            "first": finite(row.first),
            "second": finite(row.second),
            "difference": finite(row.estimate.value),
            "half_width95": finite(row.half_width),
            "cautions": list(row.estimate.cautions),
            "statement": row.statement,
            "reason": row.reason,
        }
        for row in found
    ]
    return {"first": first, "second": second, "differences": rows}
