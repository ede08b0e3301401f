"""A volume study as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from basinscope.summary import finite
from basinscope.sweep_table import sweep_json
from volume.method_result import MethodResult
from volume.study import VolumeStudy


def study_json(study: VolumeStudy, files: Mapping[str, str]) -> dict[str, Any]:
    """A study in plain values; what is infinite or unknown is None.

    Args:
        study: the study.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    return {
        "checkpoint": study.provenance.checkpoint,
        "size": study.size,
        "samples": study.samples,
        "settings": {**study.settings.as_dict(), "methods": list(study.settings.methods)},
        "cost": finite(study.cost),
        "gradient_norm": finite(study.gradient_norm),
        "operator": study.operator,
        "complete": study.complete,
        "notes": list(study.notes),
        "cautions": list(study.cautions),
        "methods": [_result(result) for result in study.results.values()],
        "failures": study.failures,
        "sweep": None if study.sweep is None else sweep_json(study.sweep),
        "cost_noise": finite(study.cost_noise),
        "data_sha256": study.data_sha256,
        "provenance": asdict(study.provenance),
        "files": dict(files),
    }


def _result(result: MethodResult) -> dict[str, Any]:
    bound = result.lower_bound
    found: dict[str, Any] = {
        "method": result.method,
        "kind": result.kind,
        "measure": result.measure,
        "failure": result.failure or None,
        "log_volume": finite(result.log_volume),
        "log10_volume": finite(result.log10_volume),
        "bits": None if result.bits is None else finite(result.bits),
        "half_width95": finite(result.half_width),
        "interval95": [finite(end) for end in result.known.interval()],
        "lower_bound95": None if bound is None else finite(bound),
        "infinite": result.log_volume == float("inf"),
        "trusted": result.trusted,
        "verdict": result.verdict,
        "figures": {name: finite(value) for name, value in result.figures.items()},
    }
    sampled = result.sampled
    if sampled is not None:
        found |= {
            "preconditioner": result.preconditioner,
            "eps": finite(result.eps),
            "directions": len(sampled.log_terms),
            "standard_error": finite(sampled.standard_error),
            "largest_share": sampled.largest_share,
            "effective_samples": sampled.effective_samples,
            "evaluations_per_direction": float(sampled.evaluations.mean()),
            "unbounded": int(sampled.unbounded.sum()),
            "non_monotone": int((~sampled.monotone).sum()),
        }
    elif result.estimate is not None:
        found |= {
            "standard_error": finite(result.estimate.standard_error),
            "truncation_error": finite(result.estimate.truncation_error),
        }
    return found
