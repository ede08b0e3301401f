"""The store of a comparison: an HDF5 file that xarray opens, values by checkpoint and measure, replaced whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.flatness import Reading
from comparisons.measures import measures_of
from comparisons.options import Values
from spectra.files import Array, Dimension, Provenance, ResultFile, counted

_CHECKPOINT, _MEASURE = (
    Dimension("checkpoint", "number of the checkpoint"),
    Dimension("measure", "number of the measure"),
)
_CELLS, _UNIT = (_CHECKPOINT, _MEASURE), "see measure_unit"
_READING = {
    "value": Array(_CELLS, "value in the measure's unit, nan where there is none", _UNIT),
    "standard_error": Array(_CELLS, "standard error over samples", _UNIT),
    "truncation_error": Array(_CELLS, "error that more samples do not reduce", _UNIT),
    "samples": Array(_CELLS, "independent samples behind the standard error, 0 if many", "1"),
    "lowest": Array(_CELLS, "least value that the measure can have", _UNIT),
    "highest": Array(_CELLS, "largest value that the measure can have", _UNIT),
}
_DERIVED = {"half_width": Array(_CELLS, "half of the 95 % interval", _UNIT)}
_WORK = {
    "evaluations": Array(_CELLS, "forward passes that the measure needs alone", "1"),
    "gradients": Array(_CELLS, "gradients that the measure needs alone", "1"),
    "products": Array(_CELLS, "curvature products that the measure needs alone", "1"),
    "seconds": Array(_CELLS, "wall time that the measure needs alone", "s"),
}
_SCORES = {
    name: Array((_CHECKPOINT,), name, unit)
    for name, unit in {"cost": "cost", "held_out_cost": "cost", "error": "1", "held_out_error": "1"}.items()
}
_TEXTS = {
    "measure_name": Array((_MEASURE,), "name of the measure", "", kind=str),
    "command_line": Array(
        (Dimension("command", "number of the command"),), "command that a checkpoint was examined by", "", kind=str
    ),
    "description": Array((_CHECKPOINT,), "the checkpoint and its data, JSON", "", kind=str),
    "remarks": Array(_CELLS, "cautions or the failure", "", kind=str),
    "details": Array(_CELLS, "further numbers, JSON", "", kind=str),
}
_DESCRIBED: tuple[str, ...] = ("provenance", "size", "samples", "held_out_samples", "data_sha256", "hyperparameters")
_DESCRIBED += ("work", "strategies", "notes", "failure")
# What files from before it was recorded lack.
_LATER = ("held_out_samples", "strategies", "lowest", "highest", "error", "held_out_error")


def _fill(file: h5py.File, comparison: Comparison) -> None:
    checkpoints, measures = comparison.checkpoints, comparison.measures
    file.attrs["title"] = f"{counted(len(measures), 'flatness measure')} of {counted(len(checkpoints), 'checkpoint')}"
    # With defaults: they may be others in another version.
    options = {measure.name: measure.values(comparison.settings.options) for measure in measures_of(measures)}
    file.attrs["settings"] = json.dumps(
        asdict(comparison.settings) | {"options": {name: dict(values) for name, values in options.items() if values}}
    )
    cells = [[one.outcomes.get(name) for name in measures] for one in checkpoints]
    shape = len(checkpoints), len(measures)
    for name, array in (_READING | _DERIVED | _WORK).items():
        numbers = [[_number(cell, name) for cell in row] for row in cells]
        array.write(file, np.array(numbers, dtype=np.float64).reshape(shape), name)
    # One command names every checkpoint of a run: beside each of them it would be most of the file.
    commands = list(dict.fromkeys(one.provenance.command for one in checkpoints))
    texts = {
        "measure_name": list(measures),
        "command_line": commands,
        "description": [_described(one, commands) for one in checkpoints],
        "remarks": np.array([list(map(_remarks, row)) for row in cells], dtype=object).reshape(shape),
        "details": np.array([list(map(_details, row)) for row in cells], dtype=object).reshape(shape),
    }
    for name, values in texts.items():
        _TEXTS[name].write(file, values, name)
    for name, array in _SCORES.items():
        array.write(file, [getattr(one, name) for one in checkpoints], name)


def _build(file: h5py.File) -> Comparison:
    measures, remarks, details = (_TEXTS[name].read(file, name) for name in ("measure_name", "remarks", "details"))
    # Files from before each command was kept once do not have them.
    commands = _TEXTS["command_line"].read(file, "command_line") if "command_line" in file else ()
    readings, work, scores = (
        {name: array.read(file, name) for name, array in arrays.items() if name in file or name not in _LATER}
        for arrays in (_READING, _WORK, _SCORES)
    )
    checkpoints = []
    for row, description in enumerate(_TEXTS["description"].read(file, "description")):
        cells = {}
        for column, name in enumerate(measures):
            said = json.loads(remarks[row, column])
            if said is None:
                continue
            spent = ComputeCost(**{key: float(values[row, column]) for key, values in work.items()})
            reading = None
            if not said["failure"]:
                reading = Reading(
                    **{key: float(values[row, column]) for key, values in readings.items()},
                    cautions=tuple(said["cautions"]),
                    details=json.loads(details[row, column]),
                    traces=_read_traces(file, row, name),
                )
            cells[str(name)] = Outcome(reading, spent, said["failure"])
        own: dict[str, Any] = {key: float(values[row]) for key, values in scores.items()}
        checkpoints.append(Examined(**_undescribed(description, commands), **own, outcomes=cells))
    known = {entry.name for entry in fields(EvidenceSettings)}
    settings = {name: value for name, value in json.loads(str(file.attrs["settings"])).items() if name in known}
    # Files from before there were options were made with the defaults.
    settings["options"] = _not_usual(settings.get("options", {}))
    return Comparison(EvidenceSettings(**settings), tuple(map(str, measures)), tuple(checkpoints))


def _not_usual(stored: Mapping[str, Values]) -> dict[str, Values]:
    """The options that are not the defaults of this version."""
    usual = {measure.name: measure.values({}) for measure in measures_of(tuple(stored))}
    found: dict[str, Values] = {}
    for name, values in stored.items():
        known = usual.get(name, {})
        other = {word: value for word, value in values.items() if word not in known or value != known[word]}
        if other:
            found[name] = other
    return found


def _number(outcome: Outcome | None, name: str) -> float:
    source = None if outcome is None else outcome.work if name in _WORK else outcome.reading
    return math.nan if source is None else float(getattr(source, name))


def _remarks(outcome: Outcome | None) -> str:
    if outcome is None:
        return json.dumps(None)
    cautions = () if outcome.reading is None else outcome.reading.cautions
    return json.dumps({"failure": outcome.failure, "cautions": cautions})


def _details(outcome: Outcome | None) -> str:
    return json.dumps(None if outcome is None else {} if outcome.reading is None else dict(outcome.reading.details))


def _described(one: Examined, commands: list[str]) -> str:
    found = {name: getattr(one, name) for name in _DESCRIBED} | {"work": asdict(one.work)}
    found["provenance"] = asdict(one.provenance) | {"command": commands.index(one.provenance.command)}
    return json.dumps(found, default=dict)


def _undescribed(description: str, commands: Any) -> dict[str, Any]:
    found = json.loads(description)
    found = {name: found[name] for name in _DESCRIBED if name in found or name not in _LATER}
    origin = found["provenance"]
    # Older files hold the command itself.
    if isinstance(origin["command"], int):
        origin = {**origin, "command": str(commands[origin["command"]])}
    return {
        **found,
        "provenance": Provenance(**origin),
        "work": ComputeCost(**found["work"]),
        "notes": tuple(found["notes"]),
    }


def _write_traces(file: h5py.File, comparison: Comparison) -> None:
    """``/traces/CHECKPOINT/MEASURE/NAME``: series differ in length from checkpoint to checkpoint."""
    for row, one in enumerate(comparison.checkpoints):
        for measure, outcome in one.outcomes.items():
            traces = {} if outcome.reading is None else outcome.reading.traces
            for name, values in traces.items():
                path = f"traces/{row}/{measure}/{name}"
                data = np.asarray(values, dtype=np.float32)
                file.create_dataset(path, data=data, compression="gzip", track_times=False)


def _read_traces(file: h5py.File, row: int, measure: str) -> dict[str, Any]:
    place = f"traces/{row}/{measure}"
    return {name: values[()].astype(np.float64) for name, values in file[place].items()} if place in file else {}


_FILE = ResultFile("basinscope comparison", 1, _fill, _build)
read_comparison = _FILE.read


def write_comparison(path: str | Path, comparison: Comparison, *, traces: bool = True) -> None:
    """Write a comparison to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        comparison: with the checkpoints done so far.
        traces: whether the chains' whole series are kept: most of a file of many checkpoints.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """

    def fill(file: h5py.File, whole: Comparison) -> None:
        _fill(file, whole)
        if traces:
            _write_traces(file, whole)

    replace(_FILE, fill=fill).write(path, comparison)
