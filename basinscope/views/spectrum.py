"""A spectrum for reading and as JSON: a compact table with units and errors, cautions beneath in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text, written
from basinscope.views.summary import AtShift, Summary, finite, json_estimate
from spectra.density import SpectralDensity
from spectra.estimate import Estimate
from spectra.interval import RULE, with_ends
from spectra.operators import operator_title


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


SHOWN_EIGENVALUES = 6


def summary_table(summary: Summary, files: Mapping[str, str], said: Collection[str] = ()) -> Group:
    """A summary laid out for a terminal.

    Args:
        summary: the summary.
        files: where results were written, by kind.
        said: notes that the reader has seen already.

    Returns:
        Something that a rich console prints.
    """
    parts: list[RenderableType] = [_heading(summary), _figures(summary), _sums(summary)]
    if summary.traces:
        parts.append(_layers(summary))
    parts += [Text(reason, style="yellow") for reason in summary.undefined]
    for caution, names in summary.cautions.items():
        parts.append(Text(f"! {', '.join(names)}: {caution}", style="yellow"))
    parts += [Text(f"note: {note}", style="dim") for note in summary.stored.spectrum.notes if note not in said]
    parts += written(files)
    return Group(*parts)


def _interval(estimate: Estimate) -> str:
    return with_ends(estimate.value, estimate.interval()) + ("" if estimate.trusted else " !")


def _heading(summary: Summary) -> RenderableType:
    spectrum, provenance = summary.stored.spectrum, summary.stored.provenance
    operator = operator_title(spectrum.settings.operator, first=True)
    title = Text(f"{operator} spectrum of {Path(provenance.checkpoint).name}", style="bold")
    data = f"{spectrum.samples:,.0f} samples, {provenance.cost} cost, {provenance.dtype}"
    return Group(title, Text(f"{spectrum.density.size:,} parameters, {data}"), Text(_how(summary)))


def _how(summary: Summary) -> str:
    spectrum = summary.stored.spectrum
    if spectrum.density.exact:
        coarse = spectrum.density.coarseness
        right = f"all eigenvalues, right to {100.0 * coarse:.2g} %" if coarse else "exact"
        return f"{right}, by the {spectrum.route} route, {spectrum.products:,} products"
    done, asked = spectrum.density.runs.probes, spectrum.settings.probes
    probes = f"{done} probes" if done >= asked else f"{done} of {asked} probes so far"
    captured = spectrum.density.deflation.captured
    deflated = f"{captured} dimensions without sampling, then " if captured else ""
    return (
        f"{spectrum.route}: {deflated}{probes} of {spectrum.density.runs.steps} steps, "
        f"{spectrum.products:,} products by {spectrum.strategy}, seed {spectrum.settings.seed}"
    )


def _figures(summary: Summary) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value, unit in _figure_rows(summary):
        table.add_row(Text(name), Text(value), Text(unit, style="dim"))
    return table


def _figure_rows(summary: Summary) -> Iterator[tuple[str, str, str]]:
    spectrum, unit = summary.stored.spectrum, summary.stored.provenance.cost_unit
    curvature = f"{unit} / parameter²"
    yield "cost at the checkpoint", f"{spectrum.cost:.6g}", unit
    yield "gradient norm", f"{spectrum.gradient_norm:.4g}", f"{unit} / parameter"
    yield "trace", _interval(summary.trace), curvature
    yield "Frobenius norm", _interval(summary.frobenius_norm), curvature
    if len(spectrum.eigenvalues):
        shown = spectrum.eigenvalues[:SHOWN_EIGENVALUES]
        more = ", …" if len(spectrum.eigenvalues) > len(shown) else ""
        yield "largest eigenvalues", ", ".join(f"{value:.4g}" for value in shown) + more, curvature
        if not spectrum.density.exact:
            yield "their residuals", f"at most {max(spectrum.residuals[: len(shown)]):.1g}", curvature
    lowest, highest = spectrum.density.support
    yield "support of the nodes", f"from {lowest:.4g} to {highest:.4g}", curvature
    if summary.resolution > 0.0:
        known = math.isfinite(summary.resolution)
        yield "resolution near zero", f"{summary.resolution:.2g}" if known else "none: one step", curvature
    yield "below zero", summary.negative.meaning, ""


def _sums(summary: Summary) -> Padding:
    curvature = f"{summary.stored.provenance.cost_unit} / parameter²"
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for title in (
        f"shift c ({curvature})",
        "log det(H + cI) (nat)",
        "log det(I + H/c) (nat)",
        "effective dimension",
    ):
        table.add_column(title)
    for at in summary.shifts:
        sums = (at.logdet, at.relative_logdet, at.effective_dimension)
        shown = ("undefined" if estimate is None else _interval(estimate) for estimate in sums)
        table.add_row(f"{at.shift:.4g}", *shown)
    exact = summary.stored.spectrum.density.exact
    about = "" if exact else RULE
    rule = "" if summary.rule == "raise" else f"; negative eigenvalues by the rule '{summary.rule}'"
    caption = Text((about + rule).lstrip("; "), style="dim")
    return Padding(Group(table, caption) if caption else table, (1, 0, 1, 0))


def _layers(summary: Summary) -> Padding:
    curvature = f"{summary.stored.provenance.cost_unit} / parameter²"
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for title in ("layer", "parameters", f"trace ({curvature})", "largest node", "smallest node"):
        table.add_column(title)
    for name, layer in summary.stored.spectrum.layers.items():
        lowest, highest = layer.support
        trace = _interval(summary.traces[name])
        table.add_row(Text(name or "(root)"), f"{layer.size:,}", trace, f"{highest:.4g}", f"{lowest:.4g}")
    return Padding(table, (0, 0, 1, 0))
