"""An invariance check for reading: what each change of the parameters does to each measure, as a ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text
from basinscope.views.summary import finite
from comparisons.flatness import Measure
from comparisons.invariance import MOVED, SAME, Change, InvarianceTable
from comparisons.tables import cell

_KEY = (
    "after each change: the value over the value before (nat: the difference), = where that is within the errors; in "
    "brackets what the registry expects to stay and did; – where there is no value"
)


def invariance_table(checkpoint: Path, table: InvarianceTable) -> Group:
    """A check laid out for a terminal.

    Args:
        checkpoint: its file, for the title.
        table: the check.

    Returns:
        Something that a rich console prints.
    """
    parts: list[RenderableType] = [Text(f"Invariance of flatness measures at {checkpoint.name}", style="bold")]
    for change in table.changes:
        what = change.failure or f"the outputs changed by {change.difference:.1g} of the largest"
        parts.append(Text(f"{change.name}: {what}", style="yellow" if change.failure else ""))
    made = [change for change in table.changes if not change.failure]
    rows = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    rows.add_column("measure", no_wrap=True)
    rows.add_column("before", justify="right", no_wrap=True)
    for change in made:
        rows.add_column(change.name.replace("-", "\n"), justify="right")
    for measure in table.measures:
        cells = [_cell(table, measure, change) for change in made]
        rows.add_row(measure.title, cell(table.before[measure.name]), *cells)
    parts += [Padding(rows, (1, 0, 0, 0)), Text(_KEY, style="dim")]
    found = table.contradictions
    parts += [Text(f"! {text}", style="yellow") for text in found]
    if not found:
        parts.append(Text("nothing that the registry declares invariant moved", style="green"))
    return Group(*parts)


def _cell(table: InvarianceTable, measure: Measure, change: Change) -> str:
    verdict = table.verdict(measure.name, change)
    if verdict == SAME:
        return "[=]" if change.name in measure.invariances else "="
    if verdict != MOVED:
        return "–"
    first, second = table.before[measure.name].reading, change.outcomes[measure.name].reading
    assert first is not None
    assert second is not None
    if measure.unit == "nat" or first.value == 0.0:
        return f"{second.value - first.value:+.3g}"
    return f"x{second.value / first.value:.3g}"


def invariance_json(checkpoint: Path, table: InvarianceTable) -> dict[str, Any]:
    """A check in plain values.

    Args:
        checkpoint: its file.
        table: the check.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    return {
        "checkpoint": str(checkpoint),
        "changes": {
            change.name: {
                "failure": change.failure or None,
                "output_difference": finite(change.difference),
                "measures": {measure.name: _moved(table, measure, change) for measure in table.measures},
            }
            for change in table.changes
        },
        "contradictions": list(table.contradictions),
    }


def _moved(table: InvarianceTable, measure: Measure, change: Change) -> Mapping[str, Any]:
    readings = [table.before[measure.name].reading]
    readings.append(change.outcomes[measure.name].reading if change.outcomes else None)
    before, after = (math.nan if reading is None else reading.value for reading in readings)
    return {
        "before": finite(before),
        "after": finite(after),
        "verdict": table.verdict(measure.name, change),
        "declared_invariant": change.name in measure.invariances,
    }
