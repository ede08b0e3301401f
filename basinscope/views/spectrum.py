"""A spectrum for reading and as JSON: the numbers that are read first, computed once from the stored evidence.

The table has units and errors, with cautions beneath in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text, written
from basinscope.views.eigenpairs import eigenpairs, eigenpairs_json, eigenpairs_table
from basinscope.views.layout import cell, estimate_columns, finite, json_estimate, plain, table
from basinscope.views.sheet import Column, Sheet
from spectra.density import SpectralDensity, negative_rule
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.files import counted
from spectra.interval import RULE, short
from spectra.store import StoredSpectrum
from spectra.words import curvature_unit, operator_title

# Shifts by default, as parts of the largest eigenvalue: the smallest three above what is negative.
PARTS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
SHIFTS = 3

# What rounding may add to an eigenvalue, in units of machine epsilon times the largest one: a few operations
# on vectors of norm one, each rounded once.
ROUNDINGS = 10.0


@dataclass(frozen=True)
class AtShift:
    """Spectral sums at one shift.

    Attributes:
        shift: c, unit of the eigenvalues.
        logdet: ``log det(H + c I)`` in nats, or None where it does not exist.
        relative_logdet: ``log det(I + H / c)`` in nats, or None where it is undefined.
        undefined: why it does not exist; empty if it does.
        effective_dimension: ``sum_i l_i / (l_i + c)``, or None where its pole is inside the spectrum.
        effective_undefined: why it does not exist; empty if it does.
    """

    shift: float
    logdet: Estimate | None
    relative_logdet: Estimate | None
    undefined: str
    effective_dimension: Estimate | None
    effective_undefined: str = ""

    @property
    def defined(self) -> bool:
        """Whether all of them exist."""
        return self.logdet is not None and self.effective_dimension is not None


@dataclass(frozen=True)
class Negative:
    """The part of a spectrum below zero.

    Attributes:
        count: number of eigenvalues below zero.
        floor: distance from zero below which a sign cannot be told: resolution or rounding.
        resolved: number of eigenvalues below ``-floor``.
        lowest: smallest node, unit of the eigenvalues.
        meaning: what it says about the checkpoint, a sentence.
    """

    count: Estimate
    floor: float
    resolved: Estimate
    lowest: float
    meaning: str


@dataclass(frozen=True)
class Summary:
    """What is read off a spectrum.

    Attributes:
        stored: the spectrum and where it comes from.
        rule: the rule for negative eigenvalues in log-determinants.
        trace: ``tr H``.
        frobenius_norm: ``|H|_F``.
        shifts: sums at each shift, in the order given.
        negative: the part below zero.
        resolution: distance between neighbouring quadrature nodes around zero; 0 for an exact spectrum.
        traces: trace of each layer's diagonal block.
    """

    stored: StoredSpectrum
    rule: str
    trace: Estimate
    frobenius_norm: Estimate
    shifts: tuple[AtShift, ...]
    negative: Negative
    resolution: float
    traces: dict[str, Estimate]

    @property
    def undefined(self) -> list[str]:
        """Why numbers do not exist: one sentence for all shifts at which a sum does not, that of the largest shift."""
        found = []
        for name, reasons in (
            ("", [(at.shift, at.undefined) for at in self.shifts]),
            (
                "effective dimension ",
                [(at.shift, "" if at.undefined else at.effective_undefined) for at in self.shifts],
            ),
        ):
            without = sorted((one for one in reasons if one[1]), reverse=True)
            if without:
                shifts = ", ".join(f"{shift:.3g}" for shift, _ in without)
                found.append(f"{name}undefined at {shifts}: {without[0][1]}")
        return found

    @property
    def cautions(self) -> dict[str, list[str]]:
        """Why numbers are not to be trusted: each sentence with the names of the numbers it concerns."""
        named = {"trace": self.trace, "Frobenius norm": self.frobenius_norm}
        for at in self.shifts:
            if at.effective_dimension is not None:
                named[f"effective dimension at {at.shift:.3g}"] = at.effective_dimension
            if at.logdet is not None:
                named[f"log det at {at.shift:.3g}"] = at.logdet
        found: dict[str, list[str]] = {}
        for name, estimate in named.items():
            for caution in estimate.cautions:
                found.setdefault(caution, []).append(name)
        return found


def summarise(stored: StoredSpectrum, *, shifts: Sequence[float] = (), rule: str = "raise") -> Summary:
    """Read the usual numbers off a spectrum.

    Args:
        stored: the spectrum and where it comes from.
        shifts: c of log-determinants and effective dimensions, unit of the eigenvalues; default three of ten's powers
            times the largest eigenvalue, from a thousandth of it on, at which both are defined.
        rule: rule for negative eigenvalues: ``raise`` (sums are undefined where these reach beyond the shift), ``clip``
            or ``abs``; what is refused is refused as by ``at_shift``.

    Returns:
        The summary.
    """
    density = stored.spectrum.density
    # Of the deflated part alone a log-determinant says nothing.
    asked = tuple(shifts) or (() if density.unsampled else default_shifts(density, rule))
    return Summary(
        stored=stored,
        rule=rule,
        trace=density.trace(),
        frobenius_norm=density.frobenius_norm(),
        shifts=tuple(at_shift(density, shift, rule) for shift in asked),
        negative=_negative(stored),
        resolution=density.resolution(0.0),
        traces={name: layer.trace() for name, layer in stored.spectrum.layers.items()},
    )


def default_shifts(density: SpectralDensity, rule: str) -> tuple[float, ...]:
    """Shifts at which log-determinants and effective dimensions exist, the largest first; none of a zero matrix.

    They have two digits, as they are printed, so that the sums can be had again by ``--shift``.

    >>> default_shifts(SpectralDensity.from_eigenvalues(np.array([-0.005, 1.0])), "raise")
    (10.0, 1.0, 0.1)
    """
    negative_rule(rule)
    shifts = (float(f"{part * density.magnitude:.2g}") for part in PARTS)
    possible = [shift for shift in shifts if shift > 0.0 and at_shift(density, shift, rule).defined]
    return tuple(sorted(possible[:SHIFTS], reverse=True))


def at_shift(density: SpectralDensity, shift: float, rule: str) -> AtShift:
    """The sums at one positive shift; one that does not exist is said to be undefined, and why.

    Raises:
        UserError: if the shift is not positive and finite, or the rule is unknown.

    >>> at_shift(SpectralDensity.from_eigenvalues(np.array([-1.0, 3.0])), 0.5, "raise").logdet is None
    True
    """
    negative_rule(rule)
    if not 0.0 < shift < math.inf:
        raise UserError(f"shift must be positive and finite, got {shift}")
    effective, pole = _unless_undefined(lambda: density.effective_dimension(shift, negative=rule))
    logdet, reason = _unless_undefined(lambda: density.logdet(shift, negative=rule))
    relative = None if logdet is None else density.logdet(shift, negative=rule, relative=True)
    return AtShift(shift, logdet, relative, reason, effective, pole)


def _unless_undefined(compute: Callable[[], Estimate]) -> tuple[Estimate | None, str]:
    """An estimate, or why it does not exist."""
    try:
        return compute(), ""
    except UserError as error:
        return None, str(error)


def _negative(stored: StoredSpectrum) -> Negative:
    density = stored.spectrum.density
    lowest, highest = density.support
    largest = max(abs(lowest), abs(highest))
    epsilon = float(np.finfo(np.float64 if stored.provenance.dtype == "float64" else np.float32).eps)
    floor = max(density.resolution(0.0), ROUNDINGS * epsilon * largest)
    count, resolved = density.mass_below(0.0), density.mass_below(-floor)
    spectrum = stored.spectrum
    # A Ritz value has an eigenvalue within its residual, and rounding moves it too.
    surely = spectrum.eigenvalues < -np.maximum(spectrum.residuals, ROUNDINGS * epsilon * largest)
    meaning = _meaning(density, resolved, floor, bool(surely.any()))
    top, rounding = spectrum.top, ROUNDINGS * epsilon * largest
    if top is not None and lowest >= -floor and density.operator == "hessian" and min(top.values) < -rounding:
        meaning = f"{min(top.values):.3g} was found one by one: this is not a minimum; probes resolve {floor:.2g} only"
    return Negative(count, floor, resolved, lowest, meaning)


def _meaning(density: SpectralDensity, resolved: Estimate, floor: float, converged: bool) -> str:
    """What the negative part says; ``converged`` if some eigenvalue is known to be below zero."""
    lowest, highest = density.support
    if density.unsampled:
        seen = f"down to {lowest:.3g}" if lowest < 0.0 else "none"
        return f"{seen} in the deflated part; no probes yet"
    if lowest >= 0.0:
        return "no eigenvalue below zero was seen"
    if density.operator != "hessian":
        far = lowest < -max(floor, 1e-3 * highest)
        what = "are more than rounding explains: try --dtype float64" if far else "are rounding"
        seen = f"those seen, down to {lowest:.3g}, {what}"
        return f"a {operator_title(density.operator)} matrix has no negative eigenvalue: {seen}"
    if math.isinf(floor):
        return "one Lanczos step tells no signs: more steps"
    if lowest >= -floor:
        return f"no eigenvalue is resolvably below zero: those seen are within {floor:.2g} of it"
    low, high = resolved.interval()
    count, of = short(resolved.value), f"{density.size:,} eigenvalues ({100.0 * resolved.value / density.size:.2g} %)"
    if not resolved.exact:
        count = f"about {count} (95 % interval {short(low)} to {short(high)})"
    count = f"{count} of {of} lie"
    against = f", {100.0 * abs(lowest) / highest:.2g} % of the largest" if highest > 0.0 else ""
    seen = f"{count} below {-floor:.2g}, the lowest node at {lowest:.3g}{against}: "
    if low > 0.0 or converged:
        return seen + "directions in which the cost falls, so this is not a minimum"
    return seen + "no count above zero is established, so whether this is a minimum stays open (more probes, or steps)"


def summary_json(summary: Summary, files: Mapping[str, str]) -> dict[str, Any]:
    """A summary in plain values; ``files`` says what was written where, by kind."""
    spectrum, provenance = summary.stored.spectrum, summary.stored.provenance
    negative, pairs = summary.negative, zip(spectrum.eigenvalues, spectrum.residuals, strict=True)
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
        "cost_unit": summary.stored.provenance.cost_unit,
        "curvature_unit": _unit(summary),
        "trace": json_estimate(summary.trace),
        "frobenius_norm": json_estimate(summary.frobenius_norm),
        "negative_rule": summary.rule,
        "logdets": [_logdet(at) for at in summary.shifts],
        "effective_dimensions": [
            _at_shift(at.shift, at.effective_dimension, at.effective_undefined) for at in summary.shifts
        ],
        "eigenvalues": [{"value": finite(value), "residual": finite(error)} for value, error in pairs],
        "top": eigenpairs_json(spectrum),
        "support": plain(spectrum.density.support),
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


def _at_shift(shift: float, found: Estimate | None, undefined: str, **more: float | None) -> dict[str, Any]:
    if found is None:
        names = ("value", "standard_error", "truncation_error", "interval95")
        return {"shift": shift, **dict.fromkeys(names), "cautions": [], **more, "undefined": undefined}
    return {"shift": shift, **json_estimate(found), **more, "undefined": None}


def _logdet(at: AtShift) -> dict[str, Any]:
    relative = None if at.relative_logdet is None else finite(at.relative_logdet.value)
    return _at_shift(at.shift, at.logdet, at.undefined, relative_value=relative)


def _layer(layer: SpectralDensity, trace: Estimate) -> dict[str, Any]:
    return {
        "size": layer.size,
        "trace": json_estimate(trace),
        "frobenius_norm": json_estimate(layer.frobenius_norm()),
        "support": plain(layer.support),
    }


def summary_rows(summary: Summary) -> list[dict[str, Any]]:
    """A row for each number, at full precision: of the whole matrix, at each shift, and of each layer's block.

    The truncation error of an eigenvalue is its residual: so far, at the most, is it from one of the matrix.
    """
    spectrum, provenance = summary.stored.spectrum, summary.stored.provenance
    unit, curvature = provenance.cost_unit, _unit(summary)
    found: list[tuple[str, str, float | None, Estimate | float | None, str]] = [
        ("", "cost", None, spectrum.cost, unit),
        ("", "gradient norm", None, spectrum.gradient_norm, f"{unit} / parameter"),
        ("", "trace", None, summary.trace, curvature),
        ("", "Frobenius norm", None, summary.frobenius_norm, curvature),
    ]
    for number, (value, error) in enumerate(zip(spectrum.eigenvalues, spectrum.residuals, strict=True), 1):
        pair = Estimate(float(value), truncation_error=float(error))
        found.append(("", f"eigenvalue {number}", None, pair, curvature))
    found += [("", f"{name} {place}", None, pair, curvature) for name, place, pair in eigenpairs(spectrum)]
    found.append(("", "eigenvalues below zero", None, summary.negative.count, "1"))
    for at in summary.shifts:
        found.append(("", "log det(H + cI)", at.shift, at.logdet, "nat"))
        found.append(("", "log det(I + H/c)", at.shift, at.relative_logdet, "nat"))
        found.append(("", "effective dimension", at.shift, at.effective_dimension, "1"))
    for name, layer in spectrum.layers.items():
        found.append((name or "(root)", "trace", None, summary.traces[name], curvature))
        found.append((name or "(root)", "Frobenius norm", None, layer.frobenius_norm(), curvature))
    return [
        {"layer": layer, "quantity": name, "shift": shift, **estimate_columns(value, unit)}
        for layer, name, shift, value, unit in found
    ]


SHOWN_EIGENVALUES = 6


def summary_table(summary: Summary, files: Mapping[str, str], said: Collection[str] = ()) -> Group:
    """A summary laid out for a terminal, without notes that were said already."""
    parts: list[RenderableType] = [_heading(summary), _figures(summary)]
    parts += eigenpairs_table(summary.stored.spectrum, _unit(summary))
    if summary.shifts or not summary.stored.spectrum.density.unsampled:
        parts += [Text(f"below zero: {summary.negative.meaning}"), _sums(summary)]
    if summary.traces:
        parts.append(_layers(summary))
    parts += [Text(reason, style="yellow") for reason in summary.undefined]
    for caution, names in summary.cautions.items():
        parts.append(Text(f"! {', '.join(names)}: {caution}", style="yellow"))
    parts += [Text(f"note: {note}", style="dim") for note in summary.stored.spectrum.notes if note not in said]
    parts += written(files)
    return Group(*parts)


def _heading(summary: Summary) -> RenderableType:
    spectrum, provenance = summary.stored.spectrum, summary.stored.provenance
    operator = operator_title(spectrum.settings.operator, first=True)
    title = Text(f"{operator} spectrum of {provenance.name}", style="bold")
    data = f"{counted(round(spectrum.samples), 'sample')}, {provenance.cost} cost, {provenance.dtype}"
    return Group(title, Text(f"{counted(spectrum.density.size, 'parameter')}, {data}"), Text(_how(summary)))


def _how(summary: Summary) -> str:
    spectrum = summary.stored.spectrum
    if spectrum.density.exact:
        coarse = spectrum.density.coarseness
        right = f"all eigenvalues, right to {100.0 * coarse:.2g} %" if coarse else "exact"
        return f"{right}, by the {spectrum.route} route, {counted(spectrum.products, 'product')}"
    done, asked = spectrum.density.runs.probes, spectrum.settings.probes
    probes = counted(done, "probe") if done >= asked else f"{done} of {counted(asked, 'probe')} so far"
    captured = spectrum.density.deflation.captured
    deflated = f"{counted(captured, 'dimension')} without sampling, then " if captured else ""
    return (
        f"{spectrum.route}: {deflated}{probes} of {counted(spectrum.density.runs.steps, 'step')}"
        f"{' (rough)' if spectrum.settings.rough else ''}, "
        f"{counted(spectrum.products, 'product')} by {spectrum.strategy}, seed {spectrum.settings.seed}"
    )


def _figures(summary: Summary) -> Sheet:
    columns = [Column("quantity"), Column("value", words=True), Column("unit")]
    found = Sheet("numbers that are read first", columns, header=False)
    for row in _figure_rows(summary):
        found.add_row(*row)
    return found


def _figure_rows(summary: Summary) -> Iterator[tuple[str, str, str]]:
    spectrum, unit = summary.stored.spectrum, summary.stored.provenance.cost_unit
    curvature = _unit(summary)
    yield "cost at the checkpoint", f"{spectrum.cost:.6g}", unit
    yield "gradient norm", f"{spectrum.gradient_norm:.4g}", f"{unit} / parameter"
    yield "trace", cell(summary.trace), curvature
    yield "Frobenius norm", cell(summary.frobenius_norm), curvature
    if len(spectrum.eigenvalues):
        shown = spectrum.eigenvalues[:SHOWN_EIGENVALUES]
        more = ", …" if len(spectrum.eigenvalues) > len(shown) else ""
        yield "largest eigenvalues", ", ".join(f"{value:.4g}" for value in shown) + more, curvature
        if not spectrum.density.exact:
            yield "their residuals", f"at most {max(spectrum.residuals[: len(shown)]):.1g}", curvature
    lowest, highest = spectrum.density.support
    yield "support of the nodes", f"from {lowest:.4g} to {highest:.4g}", curvature
    if summary.resolution > 0.0 and not spectrum.density.unsampled:
        known = math.isfinite(summary.resolution)
        yield "resolution near zero", f"{summary.resolution:.2g}" if known else "none: one step", curvature


def _unit(summary: Summary) -> str:
    return curvature_unit(summary.stored.spectrum.settings.operator, summary.stored.provenance.cost_unit)


def _sums(summary: Summary) -> Padding:
    curvature = _unit(summary)
    sums = ("log det(H + cI) (nat)", "log det(I + H/c) (nat)", "effective dimension")
    found = table((f"shift c ({curvature})", *sums), of="sums at each shift", padding=3)
    for at in summary.shifts:
        found.add_row(f"{at.shift:.4g}", cell(at.logdet), cell(at.relative_logdet), cell(at.effective_dimension))
    exact = summary.stored.spectrum.density.exact
    about = "" if exact else RULE
    rule = "" if summary.rule == "raise" else f"; negative eigenvalues by the rule '{summary.rule}'"
    caption = Text((about + rule).lstrip("; "), style="dim")
    return Padding(Group(found, caption) if caption else found, (1, 0, 1, 0))


def _layers(summary: Summary) -> Padding:
    curvature = _unit(summary)
    nodes = (f"largest node ({curvature})", f"smallest node ({curvature})")
    titles = ("layer", "parameters", f"trace ({curvature})", *nodes)
    found = table(titles, of="layers", padding=3)
    for name, layer in summary.stored.spectrum.layers.items():
        lowest, highest = layer.support
        trace = cell(summary.traces[name])
        found.add_row(name or "(root)", f"{layer.size:,}", trace, f"{highest:.4g}", f"{lowest:.4g}")
    return Padding(found, (0, 0, 1, 0))
