"""A slice for reading and as JSON: a row an axis and side, with how far the quadratic model holds there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from basinscope.terminal import Text, written
from basinscope.views import plain, table
from comparisons.connections import CostSlice
from spectra.files import counted

NONE = "–"
_KEY = (
    "holds up to: distance beyond which the cost is off by more than 10 % of the quadratic model's curvature term, to "
    "1 %, as seen at distances that grow by 41 %. rise: cost there less the checkpoint's. Distances are in the unit of "
    "the parameters."
)


def slice_table(found: CostSlice, files: Mapping[str, str]) -> Group:
    """A slice laid out for a terminal; ``files`` says what was written where, by kind."""
    unit = found.provenance.cost_unit
    through = f" through {' and '.join(one.name for one in found.others)}" if found.others else ""
    parts: list[RenderableType] = [
        Text(f"Slice around {found.provenance.name}{through}", style="bold"),
        Text(
            f"{counted(found.size, 'parameter')}, {found.samples:,.0f} samples, {found.provenance.cost} cost, "
            f"{found.provenance.dtype}"
        ),
        Text(f"cost at the checkpoint {found.cost:.6g} {unit}; window of {len(found.x)} × {len(found.y)} points"),
    ]
    for name, other, cost in zip(found.others, found.places, found.place_costs, strict=True):
        parts.append(Text(f"{name.name} lies at ({other[0]:.4g}, {other[1]:.4g}) and costs {cost:.6g} {unit}"))
    if found.rows_done:
        x, y, lowest = found.lowest
        parts.append(Text(f"lowest cost in the window: {lowest:.6g} {unit} at ({x:.4g}, {y:.4g})"))
    if found.departures:
        parts.append("")
        parts += [_departures(found, unit), Text(_KEY, style="dim"), *_earlier(found)]
    if not found.complete:
        rows = f"{found.rows_done} of {counted(len(found.y), 'row')}"
        parts.append(Text(f"! not complete: {rows} are done; go on with --resume", style="yellow"))
    parts += [Text(f"note: {note}", style="dim") for note in found.notes]
    return Group(*parts, *written(files))


def _departures(found: CostSlice, unit: str) -> RenderableType:
    titles = ("axis", f"curvature ({unit} / parameter²)", f"slope ({unit} / parameter)", "side", "holds up to")
    drawn = table((*titles, f"rise ({unit})"), of="how far the quadratic model holds", justify="right")
    for one in found.departures:
        bend, slope = float(found.curvature[one.axis, one.axis]), float(found.slope[one.axis])
        broken = math.isfinite(one.radius)
        drawn.add_row(
            found.axis_names[one.axis],
            f"{bend:.4g}",
            f"{slope:.3g}",
            "+" if one.sign > 0 else "-",
            f"{one.radius:.3g}" if broken else f"beyond {one.looked:.3g}",
            f"{one.cost:.3g}" if broken else NONE,
        )
    return drawn


def _earlier(found: CostSlice) -> list[RenderableType]:
    """Where the cost is off the model before it comes back to it."""
    rays = [
        f"{one.first:.2g} on the {'+' if one.sign > 0 else '-'} side of {found.axis_names[one.axis]}"
        for one in found.departures
        if one.first < one.radius
    ]
    if not rays:
        return []
    words = "the cost is off so much nearer by too, as with kinks such as those of ReLU, and comes back: first at"
    return [Text(f"! {words} {', '.join(rays)}", style="yellow")]


def slice_rows(found: CostSlice) -> list[dict[str, Any]]:
    """The rows of ``to_dataframe`` with the unit of the costs."""
    return [{**row, "unit": found.provenance.cost_unit} for row in found.records()]


def slice_json(found: CostSlice, files: Mapping[str, str]) -> dict[str, Any]:
    """A slice in plain values, its directions left out; ``files`` says what was written where, by kind."""
    arrays = ("x", "y", "costs", "slope", "curvature", "eigenvalues", "residuals", "places", "place_costs")
    return {
        "checkpoint": found.provenance.checkpoint,
        "others": [one.checkpoint for one in found.others],
        "size": found.size,
        "samples": found.samples,
        "cost": found.cost,
        "cost_unit": found.provenance.cost_unit,
        "settings": plain(found.settings.as_dict()),
        "complete": found.complete,
        **{name: plain(np.asarray(getattr(found, name))) for name in arrays},
        "models": plain(found.models) if found.has_model else None,
        "departures": [plain(asdict(one)) for one in found.departures],
        "notes": list(found.notes),
        "data_sha256": found.data_sha256,
        "provenance": plain(asdict(found.provenance)),
        "files": dict(files),
    }
