"""A summary as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from basinscope.summary import AtShift, Summary, finite, json_estimate
from spectra.density import SpectralDensity
from spectra.estimate import Estimate


def summary_json(summary: Summary, files: Mapping[str, str]) -> dict[str, Any]:
    """A summary in plain values.

    Args:
        summary: the summary.
        files: where results were written, by kind.

    Returns:
        An object that ``json.dumps(..., allow_nan=False)`` takes.
    """
    spectrum, provenance = summary.stored.spectrum, summary.stored.provenance
    negative = summary.negative
    return {
        "checkpoint": provenance.checkpoint,
        "operator": spectrum.settings.operator,
        "size": spectrum.density.size,
        "samples": spectrum.samples,
        "settings": spectrum.settings.as_dict(),
        "route": spectrum.route,
        "strategy": spectrum.strategy,
        "notes": list(spectrum.notes),
        "complete": spectrum.complete,
        "probes_done": spectrum.density.runs.probes,
        "products": spectrum.products,
        "cost": finite(spectrum.cost),
        "gradient_norm": finite(spectrum.gradient_norm),
        "trace": json_estimate(summary.trace),
        "frobenius_norm": json_estimate(summary.frobenius_norm),
        "negative_rule": summary.rule,
        "logdets": [_logdet(at) for at in summary.shifts],
        "effective_dimensions": [_effective(at) for at in summary.shifts],
        "eigenvalues": [
            {"value": finite(value), "residual": finite(residual)}
            for value, residual in zip(spectrum.eigenvalues, spectrum.residuals, strict=True)
        ],
        "support": [finite(end) for end in spectrum.density.support],
        "resolution": finite(summary.resolution),
        "negative": {
            "count": json_estimate(negative.count),
            "floor": finite(negative.floor),
            "count_below_floor": json_estimate(negative.resolved),
            "lowest": negative.lowest,
            "meaning": negative.meaning,
        },
        "layers": {name: _layer(layer, summary.traces[name]) for name, layer in spectrum.layers.items()},
        "parameters": [{"name": name, "shape": list(shape)} for name, shape in spectrum.parameters],
        "data_sha256": spectrum.data_sha256,
        "provenance": asdict(provenance),
        "files": dict(files),
    }


_EMPTY = {"value": None, "standard_error": None, "truncation_error": None, "interval95": None}


def _effective(at: AtShift) -> dict[str, Any]:
    if at.effective_dimension is None:
        return {"shift": at.shift, **_EMPTY, "cautions": [], "undefined": at.effective_undefined}
    return {"shift": at.shift, **json_estimate(at.effective_dimension), "undefined": None}


def _logdet(at: AtShift) -> dict[str, Any]:
    if at.logdet is None or at.relative_logdet is None:
        return {"shift": at.shift, **_EMPTY, "cautions": [], "relative_value": None, "undefined": at.undefined}
    relative = finite(at.relative_logdet.value)
    return {"shift": at.shift, **json_estimate(at.logdet), "relative_value": relative, "undefined": None}


def _layer(layer: SpectralDensity, trace: Estimate) -> dict[str, Any]:
    return {
        "size": layer.size,
        "trace": json_estimate(trace),
        "frobenius_norm": json_estimate(layer.frobenius_norm()),
        "support": [finite(end) for end in layer.support],
    }
