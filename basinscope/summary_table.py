"""A summary for reading: a compact table with units and errors, cautions beneath in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.summary import Summary
from basinscope.terminal import Text, written
from spectra.estimate import Estimate
from spectra.interval import RULE, with_ends
from spectra.operator_title import operator_title

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
