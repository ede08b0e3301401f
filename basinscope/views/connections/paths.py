"""A connection for reading and as JSON: a row a path, with its barrier and what is above the worse end, and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType

from basinscope.terminal import Text, written
from basinscope.views import plain, table
from comparisons.connections import Connection, CostPath, Peak, height_in_words
from spectra.files import counted

_KEY = (
    "barrier: highest cost above the line between the costs of both ends. above the worse end: none where the way is "
    "downhill. ± covers what may lie between the points, if the cost bends there at most twice as much as around them. "
    "place: share of the way, with where else the highest point may be."
)


def connection_table(connection: Connection, files: Mapping[str, str]) -> Group:
    """A connection laid out for a terminal; ``files`` says what was written where, by kind."""
    unit = connection.provenance.cost_unit
    one, other = connection.own_costs
    parts: list[RenderableType] = [
        Text(f"Connection of {connection.provenance.name} to {connection.other.name}", style="bold"),
        Text(
            f"{counted(connection.size, 'parameter')}, {connection.samples:,.0f} samples, "
            f"{connection.provenance.cost} cost, {connection.provenance.dtype}"
        ),
        Text(f"costs of the checkpoints as they are: {one:.6g} and {other:.6g} {unit}"),
        "",
    ]
    begun = [path for path in connection.paths if connection.begun(path)]
    if begun:
        titles = ("path", f"barrier ({unit})", "place", f"above the worse end ({unit})", "distance", "points")
        found = table(titles, of="paths between two checkpoints", justify="right")
        for path in begun:
            found.add_row(path.name, *_cells(path), f"{path.distance:.4g}", f"{len(path.places):,}")
        parts += [found, Text(_KEY, style="dim")]
    if connection.layers:
        parts.append(Text(f"matched by {connection.settings.matching}: {'; '.join(connection.layers)}", style="dim"))
    if not connection.complete:
        done = ", ".join(f"{counted(len(path.places), 'point')} of the {path.name} path" for path in connection.paths)
        parts.append(Text(f"! not complete: {done or 'no points'} so far; go on with --resume", style="yellow"))
    else:
        parts += [Text(f"! {caution}", style="yellow") for caution in connection._cautions()]
    parts += [Text(f"note: {note}", style="dim") for note in connection.notes]
    return Group(*parts, *written(files))


def _cells(path: CostPath) -> tuple[str, str, str]:
    found, rise = path.barrier, path.rise
    place = "–" if found.height <= 2.0 * path.noise else f"{found.place:.3f} ({found.low:.3f} to {found.high:.3f})"
    return _height(path, found), place, _height(path, rise)


def _height(path: CostPath, found: Peak) -> str:
    if found.height <= 2.0 * path.noise:
        return f"none above {max(found.height, 0.0) + found.error + path.noise:.2g}"
    return height_in_words(found)


def connection_rows(connection: Connection) -> list[dict[str, Any]]:
    """The rows of ``to_dataframe`` with the unit of the costs."""
    return [{**row, "unit": connection.provenance.cost_unit} for row in connection.records()]


def connection_json(connection: Connection, files: Mapping[str, str]) -> dict[str, Any]:
    """A connection in plain values; ``files`` says what was written where, by kind."""
    return {
        "first": connection.provenance.checkpoint,
        "second": connection.other.checkpoint,
        "size": connection.size,
        "samples": connection.samples,
        "cost_unit": connection.provenance.cost_unit,
        "own_costs": plain(connection.own_costs),
        "settings": plain(connection.settings.as_dict()),
        "complete": connection.complete,
        "paths": [_path_json(connection, path) for path in connection.paths],
        "layers": list(connection.layers),
        "notes": list(connection.notes),
        "cautions": list(connection._cautions()),
        "data_sha256": connection.data_sha256,
        "provenance": plain(asdict(connection.provenance)),
        "other": plain(asdict(connection.other)),
        "files": dict(files),
    }


def _path_json(connection: Connection, path: CostPath) -> dict[str, Any]:
    found: dict[str, Any] = {"path": path.name, "distance": path.distance, "noise": path.noise}
    if connection.begun(path):
        for name, one in (("barrier", path.barrier), ("above_worse_end", path.rise)):
            found[name] = plain(asdict(one))
        found["known_to_tolerance"] = path.known(connection.settings)
    return {**found, "places": plain(path.places), "costs": plain(path.costs)}
