"""The store of a comparison: an HDF5 file that xarray opens, values by checkpoint and measure, replaced whole."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import EvidenceSettings, Work
from comparisons.flatness import Reading
from spectra.files import Provenance, add_array, add_dimension, has_format, hdf5_image, opened, replace_file

FORMAT = "basinscope comparison"
FORMAT_VERSION = 1

_WORK = ("evaluations", "gradients", "products", "seconds")
# Of checkpoints; files from before the error rates have costs alone.
_SCORES = {"cost": "cost", "held_out_cost": "cost", "error": "1", "held_out_error": "1"}
_NUMBERS = (
    ("value", "value in the measure's unit, nan where there is none", "see measure_unit"),
    ("half_width", "half of the 95 % interval", "see measure_unit"),
    ("standard_error", "standard error over samples", "see measure_unit"),
    ("truncation_error", "error that more samples do not reduce", "see measure_unit"),
    ("samples", "independent samples behind the standard error, 0 if many", "1"),
    ("lowest", "least value that the measure can have", "see measure_unit"),
    ("highest", "largest value that the measure can have", "see measure_unit"),
    ("evaluations", "forward passes that the measure needs alone", "1"),
    ("gradients", "gradients that the measure needs alone", "1"),
    ("products", "curvature products that the measure needs alone", "1"),
    ("seconds", "wall time that the measure needs alone", "s"),
)


def is_comparison_file(path: str | Path) -> bool:
    """Whether a file is an HDF5 file that says it holds a comparison.

    Args:
        path: the file.

    Returns:
        True if ``read_comparison`` is the reader for it.
    """
    return has_format(path, FORMAT)


def write_comparison(path: str | Path, comparison: Comparison, *, traces: bool = True) -> None:
    """Write a comparison to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        comparison: with the checkpoints done so far.
        traces: whether the chains' whole series are kept: most of a file of many checkpoints.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["title"] = (
            f"{len(comparison.measures)} flatness measures of {len(comparison.checkpoints)} checkpoints"
        )
        file.attrs["settings"] = json.dumps(asdict(comparison.settings))
        add_dimension(file, "checkpoint", len(comparison.checkpoints), "number of the checkpoint")
        add_dimension(file, "measure", len(comparison.measures), "number of the measure")
        _add_texts(file, "measure_name", ("measure",), list(comparison.measures), "name of the measure")
        rows = [[one.outcomes.get(name) for name in comparison.measures] for one in comparison.checkpoints]
        shape = (len(comparison.checkpoints), len(comparison.measures))
        for name, words, unit in _NUMBERS:
            data = np.array([[_number(cell, name) for cell in row] for row in rows], dtype=np.float64).reshape(shape)
            add_array(file, name, data, ("checkpoint", "measure"), words, unit)
        for name, words in (("remarks", "cautions or the failure"), ("details", "further numbers, JSON")):
            told = np.array([[_told(cell, name) for cell in row] for row in rows], dtype=object).reshape(shape)
            _add_texts(file, name, ("checkpoint", "measure"), told, words)
        # One command names every checkpoint of a run: beside each of them it would be most of the file.
        commands = list(dict.fromkeys(one.provenance.command for one in comparison.checkpoints))
        add_dimension(file, "command", len(commands), "number of the command")
        _add_texts(file, "command_line", ("command",), commands, "command that a checkpoint was examined by")
        described = [json.dumps(_described(one, commands)) for one in comparison.checkpoints]
        _add_texts(file, "description", ("checkpoint",), described, "the checkpoint and its data, JSON")
        for name, unit in _SCORES.items():
            add_array(file, name, [getattr(one, name) for one in comparison.checkpoints], ("checkpoint",), name, unit)
        if traces:
            _add_traces(file, comparison)

    replace_file(path, hdf5_image(fill))


def read_comparison(path: str | Path) -> Comparison:
    """Read a comparison from an HDF5 file.

    Args:
        path: the file.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, foreign, newer than this code, or damaged; the sentence says which.
    """
    with opened(path, FORMAT, FORMAT_VERSION) as file:
        measures = tuple(_texts(file["measure_name"]))
        # Files from before ranges were recorded do not have them.
        numbers = {name: file[name][()] for name, _, _ in _NUMBERS if name in file}
        remarks, details = (file[name].asstr()[()] for name in ("remarks", "details"))
        commands = _texts(file["command_line"]) if "command_line" in file else []
        checkpoints = []
        for row, description in enumerate(_texts(file["description"])):
            cells = {}
            for column, name in enumerate(measures):
                here = {key: float(values[row, column]) for key, values in numbers.items()}
                traces = _traces(file, row, name)
                outcome = _outcome(here, json.loads(remarks[row, column]), json.loads(details[row, column]), traces)
                if outcome is not None:
                    cells[name] = outcome
            scores = {name: float(file[name][row]) for name in _SCORES if name in file}
            checkpoints.append(_examined(json.loads(description), commands, scores, cells))
        known = {entry.name for entry in fields(EvidenceSettings)}
        stored = {name: value for name, value in json.loads(str(file.attrs["settings"])).items() if name in known}
        return Comparison(EvidenceSettings(**stored), measures, tuple(checkpoints))


def _add_texts(file: h5py.File, name: str, dimensions: tuple[str, ...], values: Any, long_name: str) -> None:
    data = np.array(values, dtype=object)
    dataset = file.create_dataset(name, data=data, shape=data.shape, dtype=h5py.string_dtype())
    for axis, dimension in enumerate(dimensions):
        dataset.dims[axis].attach_scale(file[dimension])
    dataset.attrs["long_name"] = long_name


def _texts(dataset: h5py.Dataset) -> list[str]:
    return [str(text) for text in dataset.asstr()[()]]


def _number(outcome: Outcome | None, name: str) -> float:
    if outcome is None or (outcome.reading is None and name not in _WORK):
        return math.nan
    source = outcome.work if name in _WORK else outcome.reading
    return float(getattr(source, name))


def _told(outcome: Outcome | None, name: str) -> str:
    if outcome is None:
        return json.dumps(None)
    if name == "details":
        return json.dumps({} if outcome.reading is None else dict(outcome.reading.details))
    cautions = () if outcome.reading is None else outcome.reading.cautions
    return json.dumps({"failure": outcome.failure, "cautions": list(cautions)})


def _add_traces(file: h5py.File, comparison: Comparison) -> None:
    """``/traces/CHECKPOINT/MEASURE/NAME``: series differ in length from checkpoint to checkpoint."""
    for row, one in enumerate(comparison.checkpoints):
        for measure, outcome in one.outcomes.items():
            traces = {} if outcome.reading is None else outcome.reading.traces
            for name, values in traces.items():
                path = f"traces/{row}/{measure}/{name}"
                data = np.asarray(values, dtype=np.float32)
                file.create_dataset(path, data=data, compression="gzip", track_times=False)


def _traces(file: h5py.File, row: int, measure: str) -> dict[str, Any]:
    place = f"traces/{row}/{measure}"
    return {name: values[()].astype(np.float64) for name, values in file[place].items()} if place in file else {}


def _outcome(numbers: dict[str, float], remarks: Any, details: Any, traces: dict[str, Any]) -> Outcome | None:
    if remarks is None:
        return None
    work = Work(**{name: numbers[name] for name in _WORK})
    if remarks["failure"]:
        return Outcome(None, work, remarks["failure"])
    reading = Reading(
        numbers["value"],
        numbers["standard_error"],
        tuple(remarks["cautions"]),
        details,
        numbers["truncation_error"],
        float(numbers["samples"]),
        traces,
        numbers.get("lowest", -math.inf),
        numbers.get("highest", math.inf),
    )
    return Outcome(reading, work)


def _described(one: Examined, commands: list[str]) -> dict[str, Any]:
    return {
        "provenance": asdict(one.provenance) | {"command": commands.index(one.provenance.command)},
        "size": one.size,
        "samples": one.samples,
        "held_out_samples": one.held_out_samples,
        "data_sha256": one.data_sha256,
        "hyperparameters": dict(one.hyperparameters),
        "work": asdict(one.work),
        "strategies": dict(one.strategies),
        "notes": list(one.notes),
        "failure": one.failure,
    }


def _examined(
    found: dict[str, Any], commands: list[str], scores: dict[str, float], cells: dict[str, Outcome]
) -> Examined:
    origin = dict(found["provenance"])
    # Older files hold the command itself.
    if isinstance(origin["command"], int):
        origin["command"] = commands[origin["command"]]
    return Examined(
        provenance=Provenance(**origin),
        size=found["size"],
        samples=found["samples"],
        held_out_samples=found.get("held_out_samples", 0.0),
        data_sha256=found["data_sha256"],
        hyperparameters=found["hyperparameters"],
        outcomes=cells,
        work=Work(**found["work"]),
        strategies=found.get("strategies", {}),
        notes=tuple(found["notes"]),
        failure=found["failure"],
        **scores,
    )
