"""What hyperparameters and other measures explain, for reading: standings by row, groups of like measures beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text
from comparisons.measures import REGISTRY
from comparisons.statistics import ALIKE, Agreement, Standing

_KEY = (
    "Psi: mean rank correlation over changes of one hyperparameter alone; information: the share of the target's order "
    "that the measure tells beyond any two hyperparameters, at the least; variance: shares between configurations and "
    "of the estimator's error, the rest is between seeds (negative: seeds alone scatter means more)"
)


def standings_table(standings: Sequence[Standing], against: str) -> Group:
    """Standings laid out for a terminal.

    Args:
        standings: of measures.
        against: the target.

    Returns:
        Something that a rich console prints.
    """
    titles = {measure.name: measure.title for measure in REGISTRY}
    names = list(standings[0].granulated)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("measure", "Psi", *names, "information", "variance", "error"):
        if title == "measure":
            table.add_column(title, no_wrap=True)
        else:
            table.add_column(title, justify="right", min_width=6, overflow="fold")
    for row in sorted(standings, key=lambda one: -abs(one.psi) if math.isfinite(one.psi) else 1.0):
        shares = row.variance
        table.add_row(
            titles.get(row.measure, row.measure),
            *(_text(value, "+.2f") for value in (row.psi, *(row.granulated[name] for name in names))),
            _text(row.information, ".3f"),
            _text(math.nan if shares is None else shares.share_between, ".2f"),
            _text(math.nan if shares is None else shares.share_estimator, ".1g"),
        )
    heading = Text(f"By hyperparameter, against {against}", style="bold")
    return Group(Padding(heading, (1, 0, 0, 0)), table, Text(_KEY, style="dim"))


def agreement_table(found: Agreement) -> Group:
    """Groups of measures that order the checkpoints alike.

    Args:
        found: the agreement.

    Returns:
        Something that a rich console prints.
    """
    titles = {measure.name: measure.title for measure in REGISTRY}
    heading = Text(f"Measures that agree (mean Kendall tau of a group at least {ALIKE:g})", style="bold")
    parts: list[RenderableType] = [Padding(heading, (1, 0, 0, 0))]
    parts += [Text("- " + "; ".join(titles.get(name, name) for name in group)) for group in found.groups]
    if found.left_out:
        parts.append(Text(f"without rank: {'; '.join(titles.get(name, name) for name in found.left_out)}", style="dim"))
    return Group(*parts)


def _text(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"
