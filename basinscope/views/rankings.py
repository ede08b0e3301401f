"""Rank correlations for reading: a row a measure, the strongest first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text
from comparisons.measures import REGISTRY
from comparisons.statistics import Ranking

_KEY = (
    "tau: Kendall's, rho: Spearman's; positive: flatter checkpoints have the smaller target; intervals of 95 % by "
    "bootstrap over configurations (seeds drawn together; over checkpoints where configurations are few), no shorter "
    "than so few pairs allow; p by permutation of the same, corrected for the number of measures by Holm's method"
)


def ranking_table(rankings: Sequence[Ranking], against: str) -> Group:
    """Rankings laid out for a terminal.

    Args:
        rankings: of measures.
        against: the target.

    Returns:
        Something that a rich console prints.
    """
    titles = {measure.name: measure.title for measure in REGISTRY}
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    # Numbers stay whole on a narrow page; names give way.
    table.add_column("measure")
    for title in ("tau", "95 %", "rho", "95 %", "p (Holm)", "count"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in sorted(rankings, key=lambda one: -abs(one.tau)):
        table.add_row(
            titles.get(row.measure, row.measure),
            f"{row.tau:+.2f}",
            ends(row.tau_interval),
            f"{row.rho:+.2f}",
            ends(row.rho_interval),
            f"{row.p_holm:.2g}",
            str(row.checkpoints),
        )
    heading = Text(f"Rank correlation with {against}", style="bold")
    return Group(Padding(heading, (1, 0, 0, 0)), table, Text(_KEY, style="dim"))


def ends(interval: tuple[float, float]) -> str:
    """An interval of a correlation.

    Args:
        interval: its ends.

    Returns:
        The text.
    """
    return "unknown" if math.isnan(interval[0]) else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
