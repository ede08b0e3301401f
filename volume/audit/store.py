"""The store of an audit: an HDF5 file that xarray opens, a group a row, replaced whole."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spectra.files import add_array, add_dimension, has_format, hdf5_image, opened, read_texts, replace_file, texts
from volume.audit.reading import AuditReading, Truth
from volume.audit.report import AuditReport, Fact
from volume.audit.table import AuditRow, AuditTable

FORMAT = "basinscope audit"
FORMAT_VERSION = 1
_ARRAYS = (
    ("value", "what the estimator says"),
    ("standard_error", "standard error that it says of itself"),
    ("low", "lower end of its 95 % interval"),
    ("high", "upper end of its 95 % interval"),
    ("gradients", "gradient evaluations spent"),
    ("evaluations", "cost evaluations spent"),
    ("effective_samples", "directions that carry the estimate"),
)


def is_audit_file(path: str | Path) -> bool:
    """Whether a file is an HDF5 file that says it holds an audit.

    Args:
        path: the file.

    Returns:
        True if ``read_report`` is the reader for it.
    """
    return has_format(path, FORMAT)


def write_report(path: str | Path, report: AuditReport) -> None:
    """Write an audit to an HDF5 file, replacing what is there in one step.

    Args:
        path: the file.
        report: the audit, with the rows so far.

    Raises:
        OSError: if the file cannot be written; what was there before is intact.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file.attrs["title"], file.attrs["command"] = report.title, report.command
        file.attrs["notes"], file.attrs["strategy"] = texts(report.notes), report.strategy
        file.attrs["repeats"], file.attrs["seed"] = report.table.repeats, report.table.seed
        file.attrs["facts"] = texts(tuple(json.dumps(asdict(fact)) for fact in report.facts))
        for number, row in enumerate(report.table.rows):
            _write_row(file.create_group(f"row{number:04d}"), row)

    replace_file(path, hdf5_image(fill))


def read_report(path: str | Path) -> AuditReport:
    """Read an audit from an HDF5 file.

    Args:
        path: the file.

    Returns:
        The audit.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, foreign, newer than this code, or damaged; the sentence says which.
    """
    with opened(path, FORMAT, FORMAT_VERSION) as file:
        rows = tuple(_read_row(file[name]) for name in sorted(file) if name.startswith("row"))
        return AuditReport(
            AuditTable(rows, int(file.attrs["repeats"]), int(file.attrs["seed"])),
            tuple(Fact(**json.loads(text)) for text in read_texts(file.attrs["facts"])),
            str(file.attrs["title"]),
            str(file.attrs["command"]),
            read_texts(file.attrs["notes"]),
            # Files from before it was recorded do not have it.
            str(file.attrs.get("strategy", "")),
        )


def _write_row(group: h5py.Group, row: AuditRow) -> None:
    for name in ("case", "size", "estimator", "skipped", "quantity"):
        group.attrs[name] = getattr(row, name)
    if row.truth is not None:
        for name, value in asdict(row.truth).items():
            group.attrs[f"truth_{name}"] = value
    if not row.readings:
        return
    add_dimension(group, "repeat", len(row.readings), "repeat, one seed each")
    for name, long_name in _ARRAYS:
        data = np.array([getattr(reading, name) for reading in row.readings], dtype=np.float64)
        unit = "1" if name in ("gradients", "evaluations", "effective_samples") else "unit of the quantity"
        add_array(group, name, data, ("repeat",), long_name, unit)
    lengths = {len(reading.log_terms) for reading in row.readings}
    if lengths != {0} and len(lengths) == 1:
        add_dimension(group, "direction", lengths.pop(), "direction")
        group.attrs["consistent"] = row.consistent
        terms = np.stack([reading.log_terms for reading in row.readings])
        long_name = "what each direction alone says of the log-volume"
        add_array(group, "log_terms", terms, ("repeat", "direction"), long_name, "nat")


def _read_row(group: h5py.Group) -> AuditRow:
    attributes = dict(group.attrs)
    truth = None
    if "truth_value" in attributes:
        error = float(attributes["truth_error"])
        # Files from before it was recorded do not have it.
        freedom = float(attributes.get("truth_freedom", math.inf))
        truth = Truth(float(attributes["truth_value"]), error, str(attributes["truth_how"]), freedom)
    readings = []
    if "repeat" in group:
        columns = {name: group[name][()] for name, _ in _ARRAYS}
        count = len(columns["value"])
        terms = group["log_terms"][()] if "log_terms" in group else np.empty((count, 0))
        kept: dict[str, Any] = {
            "quantity": str(attributes["quantity"]),
            "consistent": bool(attributes.get("consistent", True)),
        }
        for repeat in range(count):
            numbers: dict[str, Any] = {name: float(column[repeat]) for name, column in columns.items()}
            readings.append(AuditReading(**numbers, **kept, log_terms=terms[repeat]))
    names = {name: str(attributes[name]) for name in ("case", "estimator", "skipped")}
    return AuditRow(**names, size=int(attributes["size"]), readings=tuple(readings), truth=truth)
