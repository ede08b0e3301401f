"""A comparison as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from basinscope.summary import finite
from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.extensive import incomparable
from comparisons.rankings import Ranking
from comparisons.registry import REGISTRY


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
        "standard_error": finite(reading.standard_error),
        "truncation_error": finite(reading.truncation_error),
        "trusted": reading.trusted,
        "cautions": list(reading.cautions),
        "details": {name: finite(value) for name, value in reading.details.items()},
        "work": work,
    }


def rankings_json(against: str, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Rank correlations in plain values.

    Args:
        against: the target.
        rankings: of measures.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    ends = ("tau_interval", "rho_interval")
    rows = [asdict(one) | {name: [finite(end) for end in getattr(one, name)] for name in ends} for one in rankings]
    return {"against": against, "rankings": rows}
