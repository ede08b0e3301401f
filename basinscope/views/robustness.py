"""What is left of rank correlations once a column is held fixed, and in the worst pair of configurations."""

from __future__ import annotations

import math

from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text
from basinscope.views.rankings import ends
from comparisons.findings import Findings
from comparisons.measures import REGISTRY
from comparisons.statistics import SignErrors

_GIVEN = "tau given a column: Kendall's partial tau, 95 % by bootstrap; ! where it reverses the plain tau (Simpson)"
_SIGNS = (
    "sign error: share of runs that the measure orders wrongly, over pairs of configurations that differ in one "
    "hyperparameter: mean and worst (0.5 is a coin's), and what differs in the worst (Dziugaite et al., 2020)"
)


def robustness_table(found: Findings) -> Group:
    """Partial rank correlations and sign errors laid out for a terminal.

    Args:
        found: with partial rankings or sign errors.

    Returns:
        Something that a rich console prints.
    """
    titles = {measure.name: measure.title for measure in REGISTRY}
    held = [(given, {one.measure: one for one in rows}) for given, rows in found.partials]
    errors = {one.measure: one.sign_errors for one in found.standings}
    signs = any(one is not None for one in errors.values())
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("measure")
    heads = [title for given, _ in held for title in (f"given {given}", "95 %")]
    for title in [*heads, *(("sign error", "worst") if signs else ())]:
        least = len("+0.00 to +0.00") if title == "95 %" else min(len(title), 12)
        table.add_column(title, justify="right", min_width=least, overflow="fold")
    if signs:
        table.add_column("in", overflow="fold")
    for ranking in sorted(found.rankings, key=lambda one: -abs(one.tau)):
        cells = []
        for _, rows in held:
            row = rows.get(ranking.measure)
            mark = " !" if row is not None and row.reversed else ""
            cells.append("–" if row is None else f"{row.tau:+.2f}{mark}")
            cells.append("–" if row is None else ends(row.tau_interval))
        if signs:
            cells += _wrong(errors.get(ranking.measure))
        table.add_row(titles.get(ranking.measure, ranking.measure), *cells)
    heading = Text(f"What is left of the order by {found.against}", style="bold")
    key = "; ".join(text for text, here in ((_GIVEN, held), (_SIGNS, signs)) if here)
    return Group(Padding(heading, (1, 0, 0, 0)), table, Text(key + _discarded(found), style="dim"))


def _wrong(one: SignErrors | None) -> list[str]:
    if one is None or math.isnan(one.worst):
        return ["–", "–", "–"]
    return [f"{one.mean:.2f}", f"{one.worst:.2f}", one.worst_in]


def _discarded(found: Findings) -> str:
    errors = [one.sign_errors for one in found.standings if one.sign_errors is not None]
    most = max((one.discarded for one in errors), default=0)
    if most == 0:
        return ""
    left = min(one.environments for one in errors)
    return (
        f"; {most} pairs whose targets differ by no more than the held-out sample's noise are left out, {left} remain"
    )
