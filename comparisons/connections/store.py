"""The stores of connections and slices: HDF5 files that xarray opens, replaced whole."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from comparisons.connections.connection import Connection
from comparisons.connections.cost_slice import CostSlice, Departure, SliceSettings
from comparisons.connections.path import CostPath, PathSettings
from spectra.files import PROVENANCE, Array, Attribute, Dimension, Numbered, Record, ResultFile, add_scale, settings

_POINT = Dimension("point", "point of the path, from the first checkpoint to the second")
_AXIS, _OTHER_AXIS = Dimension("axis", "axis of the plane"), Dimension("other_axis", "axis of the plane")
_CHECKPOINT = Dimension("checkpoint", "further checkpoint")
_X, _Y = "x", "y"


@lru_cache
def _connection(unit: str) -> Record[Connection]:
    path: dict[str, Array] = {
        "places": Array((_POINT,), "share of the way", "1"),
        "costs": Array((_POINT,), "cost", unit),
        "above_chord": Array((_POINT,), "cost above the line between the costs of both ends", unit),
        "above_ends": Array((_POINT,), "cost above that of the worse end", unit),
    }
    return Record(
        Connection,
        {
            "settings": settings(PathSettings),
            "provenance": PROVENANCE,
            "other": Record(PROVENANCE.kind, PROVENANCE.parts, PROVENANCE.later, prefix="other_"),
            "own_costs": Attribute(lambda values: (float(values[0]), float(values[1]))),
            "paths": Numbered("path_%03d", Record(CostPath, path)),
        },
    )


def _fill_connection(file: h5py.File, connection: Connection) -> None:
    file.attrs["title"] = connection._title()
    _connection(connection.provenance.cost_unit).write(file, connection)


_CONNECTION = ResultFile("basinscope connection", 1, _fill_connection, lambda file: _connection("").read(file))
read_connection = _CONNECTION.read


def write_connection(path: str | Path, connection: Connection) -> None:
    """Write a connection to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        connection: what is done so far.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _CONNECTION.write(path, connection)


@lru_cache
def _slice(unit: str) -> Record[CostSlice]:
    axis, window = (_AXIS,), (Dimension(_Y, ""), Dimension(_X, ""))
    bend = f"{unit} / parameter²"
    departure = Record(Departure, {})
    return Record(
        CostSlice,
        {
            "settings": settings(SliceSettings, axes=Attribute(lambda values: (int(values[0]), int(values[1])))),
            "provenance": PROVENANCE,
            "others": Numbered("through_%03d", PROVENANCE),
            "x": None,
            "y": None,
            "costs": Array(window, "cost, nan where it is not done", unit),
            "models": Array(window, "quadratic model of the cost in the origin", unit),
            "slope": Array(axis, "gradient along the axes", f"{unit} / parameter"),
            "curvature": Array((_AXIS, _OTHER_AXIS), "Hessian in the plane", bend),
            "eigenvalues": Array(axis, "eigenvalues of the axes that are eigenvectors", bend),
            "residuals": Array(axis, "norm of H q - l q", bend),
            "places": Array((_CHECKPOINT, _AXIS), "coordinates of the further checkpoints", "parameter"),
            "place_costs": Array((_CHECKPOINT,), "their costs", unit),
            "directions": Array((_AXIS, Dimension("parameter", "entry of the parameters")), "the axes", "1"),
            "departures": Numbered("departure_%03d", departure),
        },
    )


def _fill_slice(file: h5py.File, found: CostSlice) -> None:
    file.attrs["title"] = found._title()
    for name, values in ((_X, found.x), (_Y, found.y)):
        add_scale(file, name, values, f"distance from the origin along the axis {name}", "parameter")
    _slice(found.provenance.cost_unit).write(file, found)


def _build_slice(file: h5py.File) -> CostSlice:
    return _slice("").read(file, x=np.asarray(file[_X][()]), y=np.asarray(file[_Y][()]))


_SLICE = ResultFile("basinscope slice", 1, _fill_slice, _build_slice)
read_slice = _SLICE.read


def write_slice(path: str | Path, found: CostSlice) -> None:
    """Write a slice to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        found: what is done so far.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _SLICE.write(path, found)
