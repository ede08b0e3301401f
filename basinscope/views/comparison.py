"""A comparison for reading and as JSON: rows of measures, a column a checkpoint, what speaks against it beneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text, written
from basinscope.views.summary import finite
from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.findings import Findings
from comparisons.measures import REGISTRY
from comparisons.statistics import Agreement, Standing, incomparable
from comparisons.tables import Row, remarks, rows, short_names
from spectra.interval import RULE


def comparison_json(comparison: Comparison, files: Mapping[str, str]) -> dict[str, Any]:
    """A comparison in plain values; what is infinite or unknown is None.

    Args:
        comparison: the comparison.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    known = {measure.name: measure for measure in REGISTRY}
    left_out = incomparable(comparison)
    described = {
        name: {
            "title": known[name].title,
            "family": known[name].family,
            "unit": known[name].unit,
            "source": known[name].source,
            "flatter": known[name].flatter,
            "invariances": sorted(known[name].invariances),
            "comparable": name not in left_out,
        }
        for name in comparison.measures
        if name in known
    }
    return {
        "settings": asdict(comparison.settings),
        "measures": described,
        "checkpoints": [_examined(one) for one in comparison.checkpoints],
        "cautions": list(comparison.cautions),
        "files": dict(files),
    }


def _examined(one: Examined) -> dict[str, Any]:
    return {
        "checkpoint": one.provenance.checkpoint,
        "failure": one.failure or None,
        "size": one.size,
        "samples": one.samples,
        "cost": finite(one.cost),
        "held_out_cost": finite(one.held_out_cost),
        "gap": finite(one.gap),
        "error": finite(one.error),
        "held_out_error": finite(one.held_out_error),
        "error_gap": finite(one.error_gap),
        "hyperparameters": {k: finite(v) if isinstance(v, float) else v for k, v in one.hyperparameters.items()},
        "measures": {name: _outcome(outcome) for name, outcome in one.outcomes.items()},
        "work": {**asdict(one.work), "in_gradients": one.work.in_gradients},
        "notes": list(one.notes),
        "data_sha256": one.data_sha256,
        "provenance": asdict(one.provenance),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    work = {**asdict(outcome.work), "in_gradients": outcome.work.in_gradients}
    if outcome.reading is None:
        return {"value": None, "failure": outcome.failure, "work": work}
    reading = outcome.reading
    return {
        "value": finite(reading.value),
        "half_width95": finite(reading.half_width),
        "interval95": [finite(end) for end in reading.interval],
        "standard_error": finite(reading.standard_error),
        "truncation_error": finite(reading.truncation_error),
        "trusted": reading.trusted,
        "cautions": list(reading.cautions),
        "details": {name: finite(value) for name, value in reading.details.items()},
        "work": work,
    }


def findings_json(found: Findings, files: Mapping[str, str]) -> dict[str, Any]:
    """A comparison with its rankings and what is left of them, in plain values.

    Args:
        found: the findings.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    ends = ("tau_interval", "rho_interval")
    rankings = [_with_ends(asdict(one), ends) for one in found.rankings]
    partials = [_with_ends(asdict(one), ("tau_interval",)) for _, rows in found.partials for one in rows]
    return comparison_json(found.comparison, files) | {
        "against": found.against,
        "rankings": rankings,
        "partial_rankings": partials,
        "by_hyperparameter": [_standing(one) for one in found.standings],
        "agreement": None if found.agreement is None else _agreement(found.agreement),
    }


def _with_ends(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return row | {name: [finite(end) for end in row[name]] for name in names}


def _standing(one: Standing) -> dict[str, Any]:
    shares, wrong = one.variance, one.sign_errors
    variance = None
    if shares is not None:
        names = ("between", "within", "estimator", "share_between", "share_estimator")
        variance = {name: finite(getattr(shares, name)) for name in names}
        variance |= {"configurations": shares.configurations, "checkpoints": shares.checkpoints}
    errors = None
    if wrong is not None:
        errors = asdict(wrong) | {name: finite(getattr(wrong, name)) for name in ("mean", "worst")}
        errors["by_hyperparameter"] = {name: finite(error) for name, error in wrong.by_hyperparameter.items()}
    return {
        "measure": one.measure,
        "psi": finite(one.psi),
        "granulated": {name: finite(value) for name, value in one.granulated.items()},
        "information": finite(one.information),
        "information_given": list(one.information_given),
        "variance": variance,
        "sign_errors": errors,
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "measures": list(found.names),
        "tau": found.taus.tolist(),
        "groups": [list(group) for group in found.groups],
        "left_out": list(found.left_out),
    }


# Characters of the columns that every part has, and the least of one checkpoint's.
_FIXED, _LEAST = 48, 19
_KEY = (
    f"{RULE}; ! marks a number with a caution beneath; flat: the direction that counts as flatter; inv.: unchanged "
    "under rescaling of layers (L) or nodes (N) of a ReLU network, permutation of hidden units (P), the parameters' "
    "scale (S); cost: gradients that the measure needs alone (measures share most of them)"
)


def comparison_table(comparison: Comparison, files: Mapping[str, str], width: int) -> Group:
    """A comparison laid out for a terminal.

    Args:
        comparison: at least one checkpoint done.
        files: where results were written, by kind.
        width: of the page, in characters.

    Returns:
        Something that a rich console prints.
    """
    parts: list[RenderableType] = [_heading(comparison)]
    found, (names, _) = rows(comparison), short_names(comparison)
    each = max(1, (width - _FIXED) // _LEAST)
    for start in range(0, len(names), each):
        chosen = range(start, min(start + each, len(names)))
        parts.append(Padding(_part(found, names, chosen), (1, 0, 0, 0)))
    parts.append(Padding(Text(_KEY, style="dim"), (0, 0, 1, 0)))
    parts += spoken(comparison)
    parts += [Text(f"note: {note}", style="dim") for note in _notes(comparison)]
    parts += written(files)
    return Group(*parts)


def spoken(comparison: Comparison, *, marked: bool = True) -> list[Text]:
    """What speaks against the numbers: what does not compare, cautions, checkpoints that failed.

    Args:
        comparison: at least one checkpoint done.
        marked: with the sentences behind each ``!`` and each dash of the table.

    Returns:
        A line each.
    """
    lines = [Text(f"! {caution}", style="yellow") for caution in comparison.cautions]
    if left_out := incomparable(comparison):
        lines.append(Text(f"! not comparable, and not ranked: {', '.join(sorted(left_out))}", style="yellow"))
    if marked:
        told = remarks(comparison).items()
        lines += [Text(f"! {', '.join(places)}: {text}", style="yellow") for text, places in told]
    for one in comparison.checkpoints:
        if one.failure:
            lines.append(Text(f"{Path(one.provenance.checkpoint).name} failed: {one.failure}", style="red"))
    return lines


def _heading(comparison: Comparison) -> RenderableType:
    done, (names, shared) = comparison.done, short_names(comparison)
    many = len(comparison.measures)
    title = f"{many} flatness measure{'s' * (many != 1)} of {len(done)} checkpoint{'s' * (len(done) != 1)}"
    first, settings = done[0], comparison.settings
    lines = [
        f"{first.size:,} parameters, {first.samples:,.0f} samples, {first.provenance.cost} cost, "
        f"{first.provenance.dtype}; {settings.probes} probes of {settings.steps} steps, cutoff {settings.cutoff:g}, "
        f"seed {settings.seed}"
    ]
    if shared:
        lines.append(f"all of {shared}: {', '.join(names)}")
    total = sum(one.work.seconds for one in done)
    spent = sum(one.work.in_gradients for one in done)
    lines.append(f"{spent:,.0f} gradients in all, {total:.1f} s")
    return Group(Text(title, style="bold"), *(Text(line) for line in lines))


def _part(found: Sequence[Row], names: Sequence[str], chosen: range) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title, justify in (("measure", "left"), ("flat", "center"), ("inv.", "left"), ("cost", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for place in chosen:
        words = [word for row in found for word in row.cells[place].split()]
        longest = max(map(len, words), default=1)
        table.add_column(names[place], justify="right", overflow="fold", min_width=longest)
    family = ""
    for row in found:
        if row.measure.family != family:
            family = row.measure.family
            table.add_row(Text(family, style="bold dim"))
        cells = [row.cells[place] for place in chosen]
        table.add_row(row.measure.title, row.flat, row.invariances, row.gradients, *cells)
    return table


def _notes(comparison: Comparison) -> list[str]:
    """Notes with the checkpoints that they are of, where not all have them."""
    told: dict[str, list[str]] = {}
    names, _ = short_names(comparison)
    for name, one in zip(names, comparison.done, strict=True):
        for note in one.notes:
            told.setdefault(note, []).append(name)
    return [text if len(where) == len(names) else f"{', '.join(where)}: {text}" for text, where in told.items()]
