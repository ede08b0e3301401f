"""The store of a tracked training run: an HDF5 file that xarray opens, replaced whole so that a kill loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from basinscope.training.curves import TrainingCurves
from basinscope.training.reading import COLUMNS, CurvatureReading
from basinscope.training.settings import TrackerSettings
from spectra.files import PROVENANCE, Array, Dimension, Record, ResultFile, add_scale, settings

CURVATURE_UNIT = "cost / parameter^2"
_STEP = Dimension("step", "number of optimizer steps taken")
_PAIR = Dimension("eigenpair", "eigenpair, largest first")
_COLUMNS = {name: Array((_STEP,), *words) for name, words in COLUMNS.items()}
_PAIRS = {
    "eigenvalues": Array((_STEP, _PAIR), "largest eigenvalues of the Hessian", CURVATURE_UNIT),
    "residuals": Array((_STEP, _PAIR), "norm of H q - l q", CURVATURE_UNIT),
}
_NOTES = Array((_STEP,), "what is missing or not to be trusted", "", kind=str)
_SKIPPED = Array((Dimension("turn", "turn that was passed over for time"),), "step of the turn", "1")
_SEPARATOR = "\n"
_CURVES = Record(
    TrainingCurves, {"settings": settings(TrackerSettings), "provenance": PROVENANCE, "readings": None, "skipped": None}
)


def _fill(file: h5py.File, curves: TrainingCurves) -> None:
    file.attrs["title"] = curves._title()
    _CURVES.write(file, curves)
    add_scale(file, _STEP.name, curves.steps, _STEP.long_name, "1")
    for name, column in _COLUMNS.items():
        column.write(file, curves.column(name), name)
    for name, pairs in _PAIRS.items():
        pairs.write(file, getattr(curves, name), name)
    _NOTES.write(file, [_SEPARATOR.join(one.notes) for one in curves.readings], "step_notes")
    _SKIPPED.write(file, np.array(curves.skipped, dtype=np.int64), "skipped")


def _build(file: h5py.File) -> TrainingCurves:
    columns = {name: column.read(file, name).tolist() for name, column in _COLUMNS.items()}
    pairs = {name: [tuple(row) for row in part.read(file, name).tolist()] for name, part in _PAIRS.items()}
    notes = [tuple(text.split(_SEPARATOR)) if text else () for text in _NOTES.read(file, "step_notes")]
    every: dict[str, list[Any]] = {"step": file[_STEP.name][()].tolist(), **columns, **pairs, "notes": notes}
    readings = tuple(
        CurvatureReading(**dict(zip(every, row, strict=True))) for row in zip(*every.values(), strict=True)
    )
    skipped = tuple(_SKIPPED.read(file, "skipped").tolist())
    return _CURVES.read(file, readings=readings, skipped=skipped)


_FILE = ResultFile("basinscope training", 1, _fill, _build)
read_curves = _FILE.read


def write_curves(path: str | Path, curves: TrainingCurves) -> None:
    """Write a tracked training run to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        curves: what is recorded so far.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """
    _FILE.write(path, curves)
