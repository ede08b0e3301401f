"""An audit as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from basinscope.summary import finite
from volume.audit import AuditRow
from volume.audit_case import Truth
from volume.audit_report import AuditReport
from volume.audit_statistics import FACTORS, Figure, Share


def report_json(report: AuditReport, files: Mapping[str, str]) -> dict[str, Any]:
    """An audit in plain values; what is infinite or unknown is None.

    Args:
        report: the audit.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    return {
        "title": report.title,
        "command": report.command,
        "repeats": report.table.repeats,
        "seed": report.table.seed,
        "rows": [_row(row) for row in report.table.applied],
        "skipped": [
            {"case": row.case, "estimator": row.estimator, "reason": row.skipped}
            for row in report.table.rows
            if row.skipped
        ],
        "facts": [{**asdict(fact), "value": finite(fact.value), "error": finite(fact.error)} for fact in report.facts],
        "notes": list(report.notes),
        "files": dict(files),
    }


def _row(row: AuditRow) -> dict[str, Any]:
    counts, means, roots = row.curve
    needed = row.directions_needed
    return {
        "case": row.case,
        "size": row.size,
        "estimator": row.estimator,
        "quantity": row.quantity,
        "truth": None if row.truth is None else _truth(row.truth),
        "values": [finite(reading.value) for reading in row.readings],
        "infinite": row.infinite,
        "biased": row.biased,
        **{
            name: _number(getattr(row, name))
            for name in (
                "mean",
                "bias",
                "spread",
                "rms",
                "largest_share",
                "effective_samples",
                "jensen_predicted",
                "jensen_seen",
            )
        },
        "coverage95": _share(row.coverage),
        "overestimates": [
            {"factor": factor, "allowed": 1.0 / factor, **_share(share)}
            for factor, share in zip(FACTORS, row.overestimates, strict=False)
        ],
        "gradients": row.gradients,
        "evaluations": row.evaluations,
        "error_by_directions": [
            {"directions": int(count), "mean_error": finite(float(mean)), "rms_error": finite(float(root))}
            for count, mean, root in zip(counts, means, roots, strict=True)
        ],
        "log10_directions_within_1_nat": {"value": finite(needed.log10), "extrapolated": needed.extrapolated},
    }


def _truth(truth: Truth) -> dict[str, Any]:
    found = {"value": truth.value, "error": truth.error, "how": truth.how}
    return {**found, "half_width95": finite(truth.half_width)}


def _number(figure: Figure) -> dict[str, float | None]:
    names = {"value": figure.value, "standard_error": figure.error, "half_width95": figure.half_width}
    return {name: finite(value) for name, value in names.items()}


def _share(share: Share) -> dict[str, Any]:
    return {"hits": share.hits, "of": share.of, "value": finite(share.value), "interval95": list(share.interval)}
