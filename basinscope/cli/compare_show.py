"""A comparison on stdout: tables for reading, one JSON object, or the text of another program."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from basinscope.terminal import emit, emit_text, say, show, written
from comparisons.words import FEWEST

if TYPE_CHECKING:
    from comparisons.comparison import Comparison
    from comparisons.findings import Findings
    from comparisons.statistics import Ranking

    Rankings = tuple[str, tuple[Ranking, ...]]


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
