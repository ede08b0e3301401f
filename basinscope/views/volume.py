"""A volume study for reading and as JSON: a row a method, the verdicts beneath in words, and its sweep over cutoffs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text, written
from basinscope.views.layout import NONE, finite, formatted, plain, table
from basinscope.views.sheet import Column, Sheet
from spectra.files import counted
from spectra.interval import RULE, half_width, with_error
from volume.method_result import MethodResult
from volume.preconditioners import EXPONENT
from volume.study import VolumeStudy
from volume.sweep import CutoffSweep


def study_json(study: VolumeStudy, files: Mapping[str, str]) -> dict[str, Any]:
    """A study in plain values; ``files`` says what was written where, by kind."""
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
        "sweep": None if study.sweep is None else _sweep_json(study.sweep),
        "cost_noise": finite(study.cost_noise),
        "data_sha256": study.data_sha256,
        "provenance": asdict(study.provenance),
        "files": dict(files),
    }


def study_rows(study: VolumeStudy) -> list[dict[str, Any]]:
    """The rows of ``to_dataframe`` with the units of the log-volumes, ``unit``, and of the cutoffs."""
    units = {"unit": "nat", "cutoff_unit": study.provenance.cost_unit}
    return [{**row, **units} for row in study.records()]


def _result(result: MethodResult) -> dict[str, Any]:
    row = result.record()
    found = {
        **{name: row[name] for name in ("method", "kind", "measure")},
        "failure": result.failure or None,
        "log_volume": row["log_volume"],
        "log10_volume": result.log10_volume,
        "bits": result.bits,
        "half_width95": result.half_width,
        "interval95": (row["low95"], row["high95"]),
        "lower_bound95": row["lower_bound95"],
        "infinite": result.log_volume == math.inf,
        "trusted": row["trusted"],
        "verdict": row["verdict"],
        "figures": result.figures,
    }
    sampled = result.sampled
    if sampled is not None:
        found |= {
            "preconditioner": result.preconditioner,
            "eps": result.eps,
            "directions": row["directions"],
            "standard_error": sampled.standard_error,
            "largest_share": row["largest_share"],
            "effective_samples": row["effective_samples"],
            "evaluations_per_direction": float(sampled.evaluations.mean()),
            "unbounded": int(sampled.unbounded.sum()),
            "non_monotone": int((~sampled.monotone).sum()),
        }
    elif result.estimate is not None:
        errors = ("standard_error", "truncation_error")
        found |= {name: getattr(result.estimate, name) for name in errors}
    return {name: plain(value) for name, value in found.items()}


def _sweep_json(sweep: CutoffSweep) -> dict[str, Any]:
    methods = {
        method: {
            "kind": results[0].kind,
            "log_volume": sweep.log_volumes(method),
            "half_width95": sweep.half_widths(method),
            "interval95": sweep.intervals(method),
            "slope": sweep.slopes(method),
            "half_effective_dimension": sweep.half_effective_dimensions(method),
            "trusted": [result.trusted for result in results],
            "directions": sweep.directions(method) or None,
        }
        for method, results in sweep.results.items()
    }
    found: dict[str, Any] = plain({"cutoffs": sweep.cutoffs, "methods": methods})
    return found


def log_volume_cell(result: MethodResult) -> str:
    """A log-volume with its error, marked if it is not to be read alone."""
    return result.text + ("" if result.trusted else " !")


def _sweep_table(sweep: CutoffSweep, unit: str) -> Group:
    """A sweep, one table a method."""
    parts: list[RenderableType] = []
    titles = (f"cutoff ({unit})", "log V (nat)", "slope", "N_eff / 2", "largest share")
    for method, results in sweep.results.items():
        title = f"{method}, {results[0].kind} across cutoffs"
        found = table(titles, of=title, justify="right")
        halves, slopes = sweep.half_effective_dimensions(method), sweep.slopes(method)
        for cutoff, result, slope, half in zip(sweep.cutoffs, results, slopes, halves, strict=True):
            share = NONE if result.sampled is None else f"{result.sampled.largest_share:.0%}"
            numbers = (formatted(float(one), ".4g") for one in (slope, half))
            found.add_row(f"{cutoff:.3g}", log_volume_cell(result), *numbers, share)
        parts += [Text(title, style="bold"), found]
    words = (
        "slope is d log V / d log T: n/2 for a quadratic under Lebesgue measure; N_eff / 2 is the curvature's share of "
        "it under a Gaussian prior, and the pull towards the prior's centre makes the rest"
    )
    return Group(*parts, Text(words, style="dim"))


_COLUMNS = (
    Column("method"),
    Column("of"),
    Column("log V (nat)", "right"),
    Column("log10 V", "right"),
    Column("at least (95 %)", "right"),
    Column("largest share", "right"),
    Column("effective samples", "right"),
    Column("evals per direction", "right"),
    Column("derived k", "right"),
    Column("effective dimension", "right"),
)
# So many columns every study has.
_ALWAYS = 4


def study_table(study: VolumeStudy, files: Mapping[str, str]) -> Group:
    """A study laid out for a terminal; ``files`` says what was written where, by kind."""
    parts: list[RenderableType] = [_heading(study), Padding(_rows(study), (1, 0, 0, 0)), _caption(study)]
    for method, result in study.results.items():
        style = "" if result.trusted else "yellow"
        parts.append(Text.assemble((method, "bold"), (f": {result.verdict}", style)))
    if study.sweep is not None:
        parts += [Text(), _sweep_table(study.sweep, study.provenance.cost_unit)]
        failures = study.sweep.failures.items()
        parts += [Text(f"{method} across cutoffs: no value: {why}", style="yellow") for method, why in failures]
    parts += [Text(f"! {caution}", style="yellow") for caution in study.cautions]
    parts += [Text(f"note: {note}", style="dim") for note in study.notes]
    if not study.complete:
        parts.append(Text("not all that was asked for is done: go on with --resume", style="yellow"))
    parts += written(files)
    return Group(*parts)


def _heading(study: VolumeStudy) -> RenderableType:
    provenance, settings = study.provenance, study.settings
    title = Text(f"Basin volume of {provenance.name}", style="bold")
    data = f"{counted(round(study.samples), 'sample')} of {provenance.task}, {provenance.cost} cost, {provenance.dtype}"
    cutoff = f"cutoff {settings.cutoff:g} {provenance.cost_unit}, prior {_prior(study)}, seed {settings.seed}"
    return Group(title, Text(f"{counted(study.size, 'parameter')}, {data}"), Text(cutoff))


def _prior(study: VolumeStudy) -> str:
    """The prior with its numbers, where a result knows them."""
    known = [one.measure for one in study.results.values() if one.measure != "lebesgue" and not one.failure]
    return known[0] if known else study.settings.prior


def _rows(study: VolumeStudy) -> Sheet:
    """A row for each method; columns that are of none of them, as directions are of no determinant, are left out."""
    rows = [_cells(result) for result in study.results.values()]
    places = [n for n in range(len(_COLUMNS)) if n < _ALWAYS or any(cells[n] != NONE for cells in rows)]
    found = Sheet("log-volumes", [_COLUMNS[n] for n in places], gap=1)
    for cells in rows:
        found.add_row(*(cells[n] for n in places))
    return found


def _cells(result: MethodResult) -> tuple[str, ...]:
    if result.failure:
        return (result.method, *[NONE] * (len(_COLUMNS) - 1))
    first = (result.method, result.kind, log_volume_cell(result), _six(result.log10_volume))
    bound, sampled = result.lower_bound, result.sampled
    if sampled is None or bound is None:
        names = ("derived_k", "effective_dimension")
        derived, dimension = (formatted(result.figures.get(name, math.nan), ".3g") for name in names)
        return (*first, NONE, NONE, NONE, NONE, derived, dimension)
    evaluations = f"{sampled.evaluations.mean():.3g}"
    share, effective = f"{sampled.largest_share:.0%}", f"{sampled.effective_samples:.3g}"
    return (*first, _six(bound), share, effective, evaluations, NONE, NONE)


def _six(value: float) -> str:
    return formatted(value, ".6g", with_error(value, 0.0))


def _caption(study: VolumeStudy) -> Padding:
    words = f"{RULE}; ! marks a number that is not to be read alone: its verdict is beneath"
    kinds = {result.kind for result in study.results.values() if not result.failure}
    if len(kinds) > 1:
        words += "; a mass is a probability under the prior, a volume is Lebesgue's: the two do not compare"
    samplers = [result for result in study.results.values() if result.sampled is not None]
    lines = [
        words,
        *(_sampler(result, study.settings.exponent) for result in samplers),
        *_bits(study),
        *(words for one in study.results.values() if not one.failure and (words := one.caption)),
    ]
    return Padding(Group(*(Text(line, style="dim") for line in lines)), (0, 0, 1, 0))


def _bits(study: VolumeStudy) -> list[str]:
    """Masses as code lengths, and the data's on top where it was evaluated."""
    masses = [(result, result.bits) for result in study.results.values() if result.bits is not None]
    each = [f"{result.method} {bits:,.0f}" for result, bits in masses if math.isfinite(bits)]
    lines = [f"bits (-log2 of the mass): {', '.join(each)}"] if each else []
    for result, bits in masses:
        figures = result.figures
        if "data_bits" in figures:
            # Files from before it was recorded do not say how many draws are independent.
            half = half_width(figures["data_bits_error"], figures.get("data_bits_freedom", math.inf))
            # Where one direction carries all, the spread along it is no error of the average over the basin.
            data = with_error(figures["data_bits"], half) if result.trusted else f"{figures['data_bits']:.4g} !"
            lines.append(
                f"{result.method}, description length: {bits:,.0f} bits for the prior restricted to the basin + {data} "
                f"for {counted(round(figures['coded_samples']), 'target')}, "
                f"from {counted(round(figures['data_draws']), 'draw')} "
                f"({figures['anchor_data_bits']:.4g} at the checkpoint)"
            )
    return lines


def _sampler(result: MethodResult, exponent: float) -> str:
    assert result.sampled is not None
    eps = "" if math.isnan(result.eps) else f" with eps {result.eps:g}"
    if eps and exponent != EXPONENT:
        eps += f", exponent {exponent:g}"
    count = len(result.sampled.log_terms)
    return f"{result.method}: {counted(count, 'direction')}, preconditioner {result.preconditioner}{eps}"
