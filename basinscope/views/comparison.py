"""A comparison for reading and as JSON: rows of measures, a column a checkpoint, and how the measures rank them.

Beneath stands what speaks against the numbers, and what hyperparameters and other measures leave of the rankings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text, written
from basinscope.views.layout import NONE, finite, formatted, plain, section, table
from basinscope.views.sheet import Column, Sheet
from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.findings import Findings
from comparisons.measures import REGISTRY
from comparisons.statistics import ALIKE, Agreement, GranulatedRanking, Ranking, SignErrors, incomparable
from comparisons.tables import remarks, rows, short_names
from spectra.files import counted
from spectra.interval import RULE

_DESCRIBED = ("title", "family", "unit", "source", "flatter")


def findings_json(found: Findings, files: Mapping[str, str]) -> dict[str, Any]:
    """A comparison with its rankings and what is left of them, in plain values; ``files`` says what was written."""
    comparison, left_out = found.comparison, incomparable(found.comparison)
    described = {
        measure.name: {name: getattr(measure, name) for name in _DESCRIBED}
        | {"invariances": sorted(measure.invariances), "comparable": measure.name not in left_out}
        for measure in REGISTRY
        if measure.name in comparison.measures
    }
    return {
        "settings": asdict(comparison.settings),
        "measures": {name: described[name] for name in comparison.measures if name in described},
        "checkpoints": [_examined(one) for one in comparison.checkpoints],
        "cautions": list(comparison.cautions),
        "files": dict(files),
        "against": found.against,
        "rankings": plain([asdict(one) for one in found.rankings]),
        "partial_rankings": plain([asdict(one) for _, ranked in found.partials for one in ranked]),
        "by_hyperparameter": [_standing(one) for one in found.granulated],
        "agreement": None if found.agreement is None else _agreement(found.agreement),
    }


def _examined(one: Examined) -> dict[str, Any]:
    names = ("size", "samples", "cost", "held_out_cost", "gap", "error", "held_out_error", "error_gap")
    return {
        "checkpoint": one.provenance.checkpoint,
        "failure": one.failure or None,
        **{name: plain(getattr(one, name)) for name in names},
        "hyperparameters": plain(one.hyperparameters),
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
        "interval95": plain(reading.interval),
        "standard_error": finite(reading.standard_error),
        "truncation_error": finite(reading.truncation_error),
        "trusted": reading.trusted,
        "cautions": list(reading.cautions),
        "details": plain(reading.details),
        "work": work,
    }


def _standing(one: GranulatedRanking) -> dict[str, Any]:
    shares, names = one.variance, ("between", "within", "estimator", "share_between", "share_estimator")
    variance = None
    if shares is not None:
        variance = {name: finite(getattr(shares, name)) for name in names}
        variance |= {"configurations": shares.configurations, "checkpoints": shares.checkpoints}
    return {
        "measure": one.measure,
        "psi": finite(one.psi),
        "granulated": plain(one.granulated),
        "information": finite(one.information),
        "information_given": list(one.information_given),
        "variance": variance,
        "sign_errors": None if one.sign_errors is None else plain(asdict(one.sign_errors)),
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "measures": list(found.names),
        "tau": found.taus.tolist(),
        "groups": [list(group) for group in found.groups],
        "left_out": list(found.left_out),
    }


_KEY = (
    f"{RULE}; ! marks a number with a caution beneath; flat: the direction that counts as flatter; inv.: unchanged "
    "under rescaling of layers (L) or nodes (N) of a ReLU network, permutation of hidden units (P), the parameters' "
    "scale (S); cost: gradients that the measure needs alone (measures share most of them)"
)


def comparison_table(comparison: Comparison, files: Mapping[str, str]) -> Group:
    """A comparison of at least one checkpoint laid out for a terminal; ``files`` says what was written, by kind."""
    parts: list[RenderableType] = [_heading(comparison), Padding(_measures(comparison), (1, 0, 0, 0))]
    parts.append(Padding(Text(_KEY, style="dim"), (0, 0, 1, 0)))
    parts += spoken(comparison)
    parts += [Text(f"note: {note}", style="dim") for note in _notes(comparison)]
    return Group(*parts, *written(files))


def spoken(comparison: Comparison, *, marked: bool = True) -> list[Text]:
    """What speaks against the numbers, a line each: what does not compare, cautions, checkpoints that failed.

    Args:
        comparison: a comparison with at least one checkpoint done.
        marked: whether to give the sentences behind each ``!`` and each dash of the table.

    Returns:
        The lines.
    """
    lines = [Text(f"! {caution}", style="yellow") for caution in comparison.cautions]
    if left_out := incomparable(comparison):
        lines.append(Text(f"! not comparable, and not ranked: {', '.join(sorted(left_out))}", style="yellow"))
    if marked:
        told = remarks(comparison).items()
        lines += [Text(f"! {', '.join(places)}: {text}", style="yellow") for text, places in told]
    for one in comparison.checkpoints:
        if one.failure:
            lines.append(Text(f"{one.provenance.name} failed: {one.failure}", style="red"))
    return lines


def _heading(comparison: Comparison) -> RenderableType:
    done, (names, shared) = comparison.done, short_names(comparison)
    title = f"{counted(len(comparison.measures), 'flatness measure')} of {counted(len(done), 'checkpoint')}"
    first, settings = done[0], comparison.settings
    lines = [
        f"{counted(first.size, 'parameter')}, {counted(round(first.samples), 'sample')}, {first.provenance.cost} cost, "
        f"{first.provenance.dtype}; {counted(settings.probes, 'probe')} of {counted(settings.steps, 'step')}, "
        f"cutoff {settings.cutoff:g}, seed {settings.seed}"
    ]
    if settings.chosen:
        lines.append(f"options: {', '.join(settings.chosen)}")
    if shared:
        lines.append(f"all of {shared}: {', '.join(names)}")
    total = sum(one.work.seconds for one in done)
    spent = sum(one.work.in_gradients for one in done)
    lines.append(f"{counted(round(spent), 'gradient')} in all, {total:.1f} s")
    return Group(Text(title, style="bold"), *(Text(line) for line in lines))


def _measures(comparison: Comparison) -> Sheet:
    names, _ = short_names(comparison)
    found = table(("measure", "flat", "inv.", "cost", *names), of="flatness measures", padding=1, justify="right")
    found.columns[1:3] = [Column("flat", "center"), Column("inv.")]
    family = ""
    for row in rows(comparison):
        if row.measure.family != family:
            family = row.measure.family
            found.add_row(family, style="bold dim")
        found.add_row(row.measure.title, row.flat, row.invariances, row.gradients, *row.cells)
    return found


def _notes(comparison: Comparison) -> list[str]:
    """Notes with the checkpoints that they are of, where not all have them."""
    told: dict[str, list[str]] = {}
    names, _ = short_names(comparison)
    for name, one in zip(names, comparison.done, strict=True):
        for note in one.notes:
            told.setdefault(note, []).append(name)
    return [text if len(where) == len(names) else f"{', '.join(where)}: {text}" for text, where in told.items()]


_TITLES = {measure.name: measure.title for measure in REGISTRY}
_RANKED = (
    "tau: Kendall's, rho: Spearman's; positive: flatter checkpoints have the smaller target; intervals of 95 % by "
    "bootstrap over configurations (seeds drawn together; over checkpoints where configurations are few), no shorter "
    "than so few pairs allow; p by permutation of the same, corrected for the number of measures by Holm's method"
)
_STANDING = (
    "Psi: mean rank correlation over changes of one hyperparameter alone; information: the share of the target's order "
    "that the measure tells beyond any two hyperparameters, at the least; variance: shares between configurations and "
    "of the estimator's error, the rest is between seeds (negative: seeds alone scatter means more)"
)
_GIVEN = "tau given a column: Kendall's partial tau, 95 % by bootstrap; ! where it reverses the plain tau (Simpson)"
_SIGNS = (
    "sign error: share of runs that the measure orders wrongly, over pairs of configurations that differ in one "
    "hyperparameter: mean and worst (0.5 is a coin's), and what differs in the worst (Dziugaite et al., 2020)"
)


def ranking_parts(found: Findings) -> list[Group]:
    """Tables of how the measures rank the checkpoints, and what is left of that; none with too few checkpoints."""
    parts = [_rankings(found.rankings, found.against)] if found.rankings else []
    if found.partials or any(one.sign_errors is not None for one in found.granulated):
        parts.append(_robustness(found))
    if found.granulated:
        parts.append(_standings(found.granulated, found.against))
    return parts if found.agreement is None else [*parts, _groups(found.agreement)]


def _rankings(rankings: Sequence[Ranking], against: str) -> Group:
    """Rank correlations by measure, the strongest first."""
    title = f"Rank correlation with {against}"
    titles = ("measure", "tau", "95 %", "rho", "95 %", "p (Holm)", "count")
    found = table(titles, of=title, padding=1, justify="right")
    for row in sorted(rankings, key=lambda one: -abs(one.tau)):
        tau, rho = (f"{row.tau:+.2f}", _ends(row.tau_interval)), (f"{row.rho:+.2f}", _ends(row.rho_interval))
        found.add_row(_TITLES.get(row.measure, row.measure), *tau, *rho, f"{row.p_holm:.2g}", str(row.checkpoints))
    return section(title, found, key=_RANKED)


def _ends(interval: tuple[float, float]) -> str:
    return "unknown" if math.isnan(interval[0]) else f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def _standings(standings: Sequence[GranulatedRanking], against: str) -> Group:
    """Rank correlations within and across hyperparameters."""
    title, names = f"By hyperparameter, against {against}", list(standings[0].granulated)
    found = table(("measure", "Psi", *names, "information", "variance", "error"), of=title, justify="right")
    for row in sorted(standings, key=lambda one: -abs(one.psi) if math.isfinite(one.psi) else 1.0):
        between, estimator = (
            math.nan if row.variance is None else getattr(row.variance, name)
            for name in ("share_between", "share_estimator")
        )
        found.add_row(
            _TITLES.get(row.measure, row.measure),
            *(formatted(value, "+.2f") for value in (row.psi, *(row.granulated[name] for name in names))),
            *(formatted(row.information, ".3f"), formatted(between, ".2f"), formatted(estimator, ".1g")),
        )
    return section(title, found, key=_STANDING)


def _robustness(found: Findings) -> Group:
    """What is left of rank correlations once a column is held fixed, and in the worst pair of configurations."""
    held = [(given, {one.measure: one for one in ranked}) for given, ranked in found.partials]
    errors = {one.measure: one.sign_errors for one in found.granulated}
    signs = any(one is not None for one in errors.values())
    title, heads = f"What is left of the order by {found.against}", ["measure"]
    heads += [title for given, _ in held for title in (f"given {given}", "95 %")]
    rest = table([*heads, *(("sign error", "worst") if signs else ())], of=title, padding=1, justify="right")
    if signs:
        rest.columns.append(Column("in", words=True))
    for ranking in sorted(found.rankings, key=lambda one: -abs(one.tau)):
        cells = []
        for _, ranked in held:
            row = ranked.get(ranking.measure)
            mark = " !" if row is not None and row.reversed else ""
            cells += [NONE, NONE] if row is None else [f"{row.tau:+.2f}{mark}", _ends(row.tau_interval)]
        if signs:
            cells += _wrong(errors.get(ranking.measure))
        rest.add_row(_TITLES.get(ranking.measure, ranking.measure), *cells)
    key = "; ".join(text for text, here in ((_GIVEN, held), (_SIGNS, signs)) if here) + _discarded(found)
    return section(title, rest, key=key)


def _wrong(one: SignErrors | None) -> list[str]:
    return [NONE] * 3 if one is None or math.isnan(one.worst) else [f"{one.mean:.2f}", f"{one.worst:.2f}", one.worst_in]


def _discarded(found: Findings) -> str:
    errors = [one.sign_errors for one in found.granulated if one.sign_errors is not None]
    most = max((one.discarded for one in errors), default=0)
    if most == 0:
        return ""
    left = min(one.environments for one in errors)
    return (
        f"; {most} pairs whose targets differ by no more than the held-out sample's noise are left out, {left} remain"
    )


def _groups(found: Agreement) -> Group:
    """Groups of measures that order the checkpoints alike."""
    heading = Text(f"Measures that agree (mean Kendall tau of a group at least {ALIKE:g})", style="bold")
    parts: list[RenderableType] = [Padding(heading, (1, 0, 0, 0))]
    parts += [Text("- " + "; ".join(_TITLES.get(name, name) for name in group)) for group in found.groups]
    if found.left_out:
        names = "; ".join(_TITLES.get(name, name) for name in found.left_out)
        parts.append(Text(f"without rank: {names}", style="dim"))
    return Group(*parts)
