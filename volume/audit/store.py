"""The store of an audit: an HDF5 file that xarray opens, a group a row, replaced whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import h5py
import numpy as np

from spectra.files import TEXTS, Array, Attribute, Dimension, Numbered, Record, ResultFile
from volume.audit.reading import AuditReading, Truth
from volume.audit.report import AuditReport, Fact
from volume.audit.table import AuditRow, AuditTable

_REPEAT = Dimension("repeat", "repeat, one seed each")
_UNIT = "unit of the quantity"
_COLUMNS = {
    "value": Array((_REPEAT,), "what the estimator says", _UNIT),
    "standard_error": Array((_REPEAT,), "standard error that it says of itself", _UNIT),
    "low": Array((_REPEAT,), "lower end of its 95 % interval", _UNIT),
    "high": Array((_REPEAT,), "upper end of its 95 % interval", _UNIT),
    "gradients": Array((_REPEAT,), "gradient evaluations spent", "1"),
    "evaluations": Array((_REPEAT,), "cost evaluations spent", "1"),
    "effective_samples": Array((_REPEAT,), "directions that carry the estimate", "1"),
}
_TERMS = Array(
    (_REPEAT, Dimension("direction", "direction")), "what each direction alone says of the log-volume", "nat"
)


class _Readings:
    """Readings by repeat; log terms where all readings have as many."""

    def write(self, group: h5py.Group, readings: Any, _: str) -> None:
        if not readings:
            return
        for name, column in _COLUMNS.items():
            column.write(group, np.array([getattr(one, name) for one in readings], dtype=np.float64), name)
        lengths = {len(one.log_terms) for one in readings}
        if lengths != {0} and len(lengths) == 1:
            _TERMS.write(group, [one.log_terms for one in readings], "log_terms")
            group.attrs["consistent"] = all(one.consistent for one in readings)

    def read(self, group: h5py.Group, _: str) -> tuple[AuditReading, ...]:
        if _REPEAT.name not in group:
            return ()
        columns = {name: column.read(group, name) for name, column in _COLUMNS.items()}
        terms = _TERMS.read(group, "log_terms") if "log_terms" in group else np.empty((len(columns["value"]), 0))
        kept: dict[str, Any] = {
            "quantity": str(group.attrs["quantity"]),
            "claims": str(group.attrs.get("claims", "")),
            "consistent": bool(group.attrs.get("consistent", True)),
        }
        found = []
        for repeat, own in enumerate(terms):
            numbers: dict[str, Any] = {name: float(column[repeat]) for name, column in columns.items()}
            found.append(AuditReading(**numbers, **kept, log_terms=own))
        return tuple(found)


_TRUTH, _BOUND = (
    Record(Truth, later=("freedom", "of"), prefix=f"{name}_", optional=f"{name}_value") for name in ("truth", "bound")
)
_TOLD = {"quantity": Attribute(str), "claims": Attribute(str)}
_ROW = Record(AuditRow, {"truth": _TRUTH, "bound": _BOUND, "readings": _Readings(), **_TOLD})
_REPORT = Record(
    AuditReport,
    {
        "table": Record(AuditTable, {"rows": Numbered("row%04d", _ROW)}),
        "facts": Attribute(
            lambda texts: tuple(Fact(**json.loads(text)) for text in TEXTS.decode(texts)),
            lambda facts: TEXTS.encode(tuple(json.dumps(asdict(fact)) for fact in facts)),
        ),
    },
    later=("strategy",),
)
_FILE = ResultFile("basinscope audit", 1, _REPORT.write, _REPORT.read)
write_report, read_report, is_audit_file = _FILE.write, _FILE.read, _FILE.holds
