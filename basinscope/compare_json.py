"""A comparison as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from basinscope.summary import finite
from comparisons.agreement import Agreement
from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.extensive import incomparable
from comparisons.findings import Findings
from comparisons.registry import REGISTRY
from comparisons.standings import Standing


def comparison_json(comparison: Comparison, files: Mapping[str, str]) -> dict[str, Any]:
    """A comparison in plain values; what is infinite or unknown is None.

    Args:
        comparison: the comparison.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    known = {measure.name: measure for measure in REGISTRY}
    left_out = incomparable(comparison)
    described = {
        name: {
            "title": known[name].title,
            "family": known[name].family,
            "unit": known[name].unit,
            "source": known[name].source,
            "flatter": known[name].flatter,
            "invariances": sorted(known[name].invariances),
            "comparable": name not in left_out,
        }
        for name in comparison.measures
        if name in known
    }
    return {
        "settings": asdict(comparison.settings),
        "measures": described,
        "checkpoints": [_examined(one) for one in comparison.checkpoints],
        "cautions": list(comparison.cautions),
        "files": dict(files),
    }


def _examined(one: Examined) -> dict[str, Any]:
    return {
        "checkpoint": one.provenance.checkpoint,
        "failure": one.failure or None,
        "size": one.size,
        "samples": one.samples,
        "cost": finite(one.cost),
        "held_out_cost": finite(one.held_out_cost),
        "gap": finite(one.gap),
        "error": finite(one.error),
        "held_out_error": finite(one.held_out_error),
        "error_gap": finite(one.error_gap),
        "hyperparameters": {k: finite(v) if isinstance(v, float) else v for k, v in one.hyperparameters.items()},
        "measures": {name: _outcome(outcome) for name, outcome in one.outcomes.items()},
        "work": {**asdict(one.work), "in_gradients": one.work.in_gradients},
        "notes": list(one.notes),
        "data_sha256": one.data_sha256,
        "provenance": asdict(one.provenance),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    work = {**asdict(outcome.work), "in_gradients": outcome.work.in_gradients}
    if outcome.reading is None:
        return {"value": None, "failure": outcome.failure, "work": work}
    reading = outcome.reading
    return {
        "value": finite(reading.value),
        "half_width95": finite(reading.half_width),
        "interval95": [finite(end) for end in reading.interval],
        "standard_error": finite(reading.standard_error),
        "truncation_error": finite(reading.truncation_error),
        "trusted": reading.trusted,
        "cautions": list(reading.cautions),
        "details": {name: finite(value) for name, value in reading.details.items()},
        "work": work,
    }


def findings_json(found: Findings, files: Mapping[str, str]) -> dict[str, Any]:
    """A comparison with its rankings and what is left of them, in plain values.

    Args:
        found: the findings.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    ends = ("tau_interval", "rho_interval")
    rankings = [_with_ends(asdict(one), ends) for one in found.rankings]
    partials = [_with_ends(asdict(one), ("tau_interval",)) for _, rows in found.partials for one in rows]
    return comparison_json(found.comparison, files) | {
        "against": found.against,
        "rankings": rankings,
        "partial_rankings": partials,
        "by_hyperparameter": [_standing(one) for one in found.standings],
        "agreement": None if found.agreement is None else _agreement(found.agreement),
    }


def _with_ends(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return row | {name: [finite(end) for end in row[name]] for name in names}


def _standing(one: Standing) -> dict[str, Any]:
    shares, wrong = one.variance, one.sign_errors
    variance = None
    if shares is not None:
        names = ("between", "within", "estimator", "share_between", "share_estimator")
        variance = {name: finite(getattr(shares, name)) for name in names}
        variance |= {"configurations": shares.configurations, "checkpoints": shares.checkpoints}
    errors = None
    if wrong is not None:
        errors = asdict(wrong) | {name: finite(getattr(wrong, name)) for name in ("mean", "worst")}
        errors["by_hyperparameter"] = {name: finite(error) for name, error in wrong.by_hyperparameter.items()}
    return {
        "measure": one.measure,
        "psi": finite(one.psi),
        "granulated": {name: finite(value) for name, value in one.granulated.items()},
        "information": finite(one.information),
        "information_given": list(one.information_given),
        "variance": variance,
        "sign_errors": errors,
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "measures": list(found.names),
        "tau": found.taus.tolist(),
        "groups": [list(group) for group in found.groups],
        "left_out": list(found.left_out),
    }
