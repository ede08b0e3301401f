"""The difference of two stored spectra, by common probes where they have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from basinscope.terminal import Text
from basinscope.views.summary import Summary, json_estimate, summarise
from spectra.errors import UserError
from spectra.estimate import Estimate, difference, independent
from spectra.interval import RULE, with_ends
from spectra.store import StoredSpectrum


@dataclass(frozen=True)
class Difference:
    """One spectrum minus another.

    Attributes:
        common: whether the errors are those of common probes (common random numbers); not where a side is exact.
        reason: a sentence on why they are or are not.
        rows: name of the quantity -> first, second and their difference; None where undefined.
    """

    common: bool
    reason: str
    rows: dict[str, tuple[Estimate | None, Estimate | None, Estimate | None]]


def compare(
    first: StoredSpectrum, second: StoredSpectrum, *, shifts: Sequence[float] = (), rule: str = "raise"
) -> Difference:
    """Subtract the second spectrum's trace, norm, log-determinants and effective dimensions from the first's.

    Args:
        first: one spectrum.
        second: the other, of as many parameters.
        shifts: c of log-determinants, for both; default fractions of the largest eigenvalue of the first.
        rule: for negative eigenvalues.

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
    return Difference(not obstacle, reason, rows)


def difference_table(result: Difference, first: Path, second: Path) -> Group:
    """A difference laid out for a terminal.

    Args:
        result: the difference.
        first: file of the first spectrum.
        second: file of the second.

    Returns:
        Something that a rich console prints.
    """
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for title in ("", first.name, second.name, "difference"):
        table.add_column(title)
    cautions: dict[str, list[str]] = {}
    for name, row in result.rows.items():
        table.add_row(Text(name), *(_cell(estimate) for estimate in row))
        for caution in row[2].cautions if row[2] is not None else ():
            cautions.setdefault(caution, []).append(name)
    parts: list[RenderableType] = [Text(f"{first} minus {second}", style="bold"), table]
    parts.append(Text(f"{RULE}; {result.reason}", style="dim"))
    parts += [Text(f"caution: {', '.join(names)}: {text}", style="yellow") for text, names in cautions.items()]
    return Group(*parts)


def difference_json(result: Difference, first: Path, second: Path) -> dict[str, Any]:
    """A difference in plain values.

    Args:
        result: the difference.
        first: file of the first spectrum.
        second: file of the second.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    sides = ("first", "second", "difference")
    return {
        "files": {"first": str(first), "second": str(second)},
        "common_probes": result.common,
        "reason": result.reason,
        "differences": {
            name: {side: None if e is None else json_estimate(e) for side, e in zip(sides, row, strict=True)}
            for name, row in result.rows.items()
        },
    }


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "undefined"
    return with_ends(estimate.value, estimate.interval())


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
