"""An invariance check for reading: what each change of the parameters does to each measure, as a ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text
from basinscope.views.layout import NONE, finite, table
from comparisons.flatness import Measure
from comparisons.invariance import MOVED, SAME, Change, InvarianceTable
from comparisons.tables import cell

_KEY = (
    "after each change: the value over the value before (nat: the difference), = where that is within the errors; in "
    "brackets what the registry expects to stay and did; – where there is no value"
)


def invariance_table(checkpoint: Path, check: InvarianceTable) -> Group:
    """A check of a checkpoint's file laid out for a terminal."""
    parts: list[RenderableType] = [Text(f"Invariance of flatness measures at {checkpoint.name}", style="bold")]
    for change in check.changes:
        what = change.failure or f"the outputs changed by {change.difference:.1g} of the largest"
        parts.append(Text(f"{change.name}: {what}", style="yellow" if change.failure else ""))
    made = [change for change in check.changes if not change.failure]
    titles = ("measure", "before", *(change.name for change in made))
    rows = table(titles, of=f"invariance at {checkpoint.name}", justify="right")
    for measure in check.measures:
        cells = [_cell(check, measure, change) for change in made]
        rows.add_row(measure.title, cell(check.before[measure.name]), *cells)
    parts += [Padding(rows, (1, 0, 0, 0)), Text(_KEY, style="dim")]
    found = check.contradictions
    parts += [Text(f"! {text}", style="yellow") for text in found]
    if not found:
        parts.append(Text("nothing that the registry declares invariant moved", style="green"))
    return Group(*parts)


def _cell(check: InvarianceTable, measure: Measure, change: Change) -> str:
    verdict = check.verdict(measure.name, change)
    if verdict == SAME:
        return "[=]" if change.name in measure.invariances else "="
    if verdict != MOVED:
        return NONE
    first, second = check.before[measure.name].reading, change.outcomes[measure.name].reading
    assert first is not None
    assert second is not None
    if measure.unit == "nat" or first.value == 0.0:
        return f"{second.value - first.value:+.3g}"
    return f"x{second.value / first.value:.3g}"


def invariance_json(checkpoint: Path, check: InvarianceTable) -> dict[str, Any]:
    """A check of a checkpoint's file in plain values."""
    return {
        "checkpoint": str(checkpoint),
        "changes": {
            change.name: {
                "failure": change.failure or None,
                "output_difference": finite(change.difference),
                "measures": {measure.name: _moved(check, measure, change) for measure in check.measures},
            }
            for change in check.changes
        },
        "contradictions": list(check.contradictions),
    }


def _moved(check: InvarianceTable, measure: Measure, change: Change) -> Mapping[str, Any]:
    readings = [check.before[measure.name].reading]
    readings.append(change.outcomes[measure.name].reading if change.outcomes else None)
    before, after = (math.nan if reading is None else reading.value for reading in readings)
    return {
        "before": finite(before),
        "after": finite(after),
        "verdict": check.verdict(measure.name, change),
        "declared_invariant": change.name in measure.invariances,
    }
