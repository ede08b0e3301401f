"""A comparison on stdout: tables for reading, one JSON object, or the text of another program."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from basinscope.terminal import emit, page, say, show
from comparisons.words import FEWEST

if TYPE_CHECKING:
    from comparisons.comparison import Comparison
    from comparisons.findings import Findings
    from comparisons.statistics import Ranking

    Rankings = tuple[str, tuple[Ranking, ...]]


def rankings_of(comparison: Comparison, against: str | None) -> Rankings:
    """The rank correlations with a target: those asked for, or with the gap where that can be.

    Args:
        comparison: the comparison.
        against: the target as typed, or None.

    Returns:
        The target and the rankings; none where nothing was asked for and there are too few checkpoints.

    Raises:
        UserError: if what was asked for is not to be had.
    """
    from comparisons.measures import measures_of
    from comparisons.statistics import rank_measures

    gaps = sum(math.isfinite(one.gap) for one in comparison.done)
    if against is None and gaps < FEWEST:
        return "gap", ()
    target = against or "gap"
    measures = measures_of(comparison.measures)
    return target, rank_measures(comparison, measures, target, seed=comparison.settings.seed)


def show_comparison(
    comparison: Comparison, files: dict[str, str], table: str | None, as_json: bool, rankings: Rankings
) -> None:
    """Print a comparison as ``show_findings`` does, with what hyperparameters leave of its rankings."""
    from comparisons.findings import findings_of

    show_findings(findings_of(comparison, *rankings), files, table, as_json)


def show_findings(found: Findings, files: dict[str, str], table: str | None, as_json: bool) -> None:
    """Print all that a comparison tells.

    Args:
        found: the findings.
        files: where results were written, by kind.
        table: ``md``, ``csv`` or ``latex`` in place of the table for terminals; or None.
        as_json: print one JSON object instead.
    """
    if as_json:
        from basinscope.views import findings_json

        emit(findings_json(found, files))
    elif table is not None:
        from comparisons.tables import plain_table

        print(plain_table(found.comparison, table))
        _speak(found.comparison, table)
    else:
        _print(found, files)


def _speak(comparison: Comparison, table: str) -> None:
    """What a table for another program has no room for, on stderr; CSV has the cautions in a column."""
    from basinscope.views import spoken

    for line in spoken(comparison, marked=table != "csv"):
        say(line)


def _print(found: Findings, files: dict[str, str]) -> None:
    from basinscope.views import comparison_table, ranking_parts

    show(comparison_table(found.comparison, files, page().width))
    for part in ranking_parts(found):
        show(part)
