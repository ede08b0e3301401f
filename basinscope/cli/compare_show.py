"""A comparison, or the list of measures, on stdout: for reading, as one JSON object, or for another program."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from basinscope.terminal import Text, emit, emit_text, say, show, written
from comparisons.words import FEWEST
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.comparison import Comparison
    from comparisons.findings import Findings
    from comparisons.flatness import Measure
    from comparisons.options import Option
    from comparisons.statistics import Ranking

    Rankings = tuple[str, tuple[Ranking, ...]]

_KEY = (
    "* in the default set, {default:,.0f} gradients together, as items are shared; all measures {all:,.0f}. Cost: "
    "gradients that a measure needs alone on a network of {size:,} parameters and {rows:,} samples. A family's name "
    "stands for all of its measures; llc for learning-coefficient alone. Options are set by --set measure.option=value "
    "or --settings file.toml."
)


def rankings_of(comparison: Comparison, against: str | None) -> Rankings:
    """The rank correlations with the target asked for, or with the gap where there are enough checkpoints for any."""
    from comparisons.measures import measures_of
    from comparisons.statistics import rank_measures

    gaps = sum(math.isfinite(one.gap) for one in comparison.done)
    if against is None and gaps < FEWEST:
        return "gap", ()
    target = against or "gap"
    measures = measures_of(comparison.measures)
    return target, rank_measures(comparison, measures, target, seed=comparison.settings.seed)


def show_findings(found: Findings, files: dict[str, str], form: str) -> None:
    """Print all that a comparison tells; for other programs its table of measures alone."""
    if form == "json":
        from basinscope.views import findings_json

        emit(findings_json(found, files))
    elif form:
        from comparisons.tables import plain_table

        emit_text(plain_table(found.comparison, form))
        _speak(found.comparison, form)
        for line in written(files):
            say(line)
    else:
        _print(found, files)


def _speak(comparison: Comparison, table: str) -> None:
    """What a table for another program has no room for, on stderr; CSV has the cautions in a column."""
    from basinscope.views import spoken

    for line in spoken(comparison, marked=table != "csv"):
        say(line)


def _print(found: Findings, files: dict[str, str]) -> None:
    from basinscope.views import comparison_table, ranking_parts

    show(comparison_table(found.comparison, files))
    for part in ranking_parts(found):
        show(part)


def list_measures(table: str | None, as_json: bool) -> None:
    """Print the measures, as lines for reading or as one JSON object."""
    if table is not None:
        raise UserError("--measures list has no --table: leave it out, or use --json")
    from comparisons.evidence import Extent
    from comparisons.measures import DEFAULT, REGISTRY
    from spectra.files import counted

    extent = Extent()
    costs = {measure.name: measure.expected(extent) for measure in REGISTRY}
    if as_json:
        emit({one.name: _described(one, sum(costs[one.name].values()), one.name in DEFAULT) for one in REGISTRY})
        return
    family = ""
    for one in REGISTRY:
        if one.family != family:
            show("", Text(one.family, style="bold")) if family else show(Text(one.family, style="bold"))
            family = one.family
        mark = "*" if one.name in DEFAULT else " "
        cost = counted(round(sum(costs[one.name].values())), "gradient")
        show(Text(f"{mark} {one.name}: {one.title} ({one.source}; unit {one.unit}; {cost})"))
        for option in one.options:
            show(Text(f"    {option.name} = {option.shown_default}: {option.meaning}", style="dim"))
    shared = {kind: sum(_joined(costs, names).values()) for kind, names in (("default", DEFAULT), ("all", costs))}
    show("", Text(_KEY.format(**shared, size=extent.size, rows=extent.rows), style="dim"))


def _joined(costs: dict[str, Any], names: Any) -> dict[str, float]:
    return {item: gradients for name in names for item, gradients in costs[name].items()}


def _described(measure: Measure, gradients: float, by_default: bool) -> dict[str, Any]:
    names = ("title", "family", "source", "unit", "flatter")
    return {
        **{name: getattr(measure, name) for name in names},
        "gradients": round(gradients, 1),
        "default": by_default,
        "options": {option.name: _option(option) for option in measure.options},
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "default": option.default,
        "meaning": option.meaning,
        "allowed": option.allowed,
        "usual": option.shown_default,
    }
