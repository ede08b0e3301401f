"""A volume study for reading and as JSON: one row a method, the verdicts beneath in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from basinscope.terminal import Text, written
from basinscope.views.summary import finite
from basinscope.views.sweep import log_volume_cell, sweep_json, sweep_table
from spectra.interval import RULE, half_width, with_error
from volume.method_result import MethodResult
from volume.methods import method_row
from volume.preconditioners import EXPONENT
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


_COLUMNS = (
    ("method", "left"),
    ("of", "left"),
    ("log V (nat)", "right"),
    ("log10 V", "right"),
    ("at least\n(95 %)", "right"),
    ("largest\nshare", "right"),
    ("effective\nsamples", "right"),
    ("evals per\ndirection", "right"),
    ("derived\nk", "right"),
    ("effective\ndimension", "right"),
)
_NONE = "–"
# Narrower pages get two tables: what the volume is, and what it rests on.
_WIDE, _SPLIT = 108, 5


def study_table(study: VolumeStudy, files: Mapping[str, str], width: int = _WIDE) -> Group:
    """A study laid out for a terminal.

    Args:
        study: the study.
        files: where results were written, by kind.
        width: of the page, in characters.

    Returns:
        Something that a rich console prints.
    """
    parts: list[RenderableType] = [_heading(study), *_tables(study, width), _caption(study)]
    for method, result in study.results.items():
        style = "" if result.trusted else "yellow"
        parts.append(Text.assemble((method, "bold"), (f": {result.verdict}", style)))
    if study.sweep is not None:
        parts += [Text(), sweep_table(study.sweep, study.provenance.cost_unit)]
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
    title = Text(f"Basin volume of {Path(provenance.checkpoint).name}", style="bold")
    data = f"{study.samples:,.0f} samples of {provenance.task}, {provenance.cost} cost, {provenance.dtype}"
    cutoff = f"cutoff {settings.cutoff:g} {provenance.cost_unit}, prior {_prior(study)}, seed {settings.seed}"
    return Group(title, Text(f"{study.size:,} parameters, {data}"), Text(cutoff))


def _prior(study: VolumeStudy) -> str:
    """The prior with its numbers, where a result knows them."""
    known = [one.measure for one in study.results.values() if one.measure != "lebesgue" and not one.failure]
    return known[0] if known else study.settings.prior


def _tables(study: VolumeStudy, width: int) -> list[RenderableType]:
    every = range(len(_COLUMNS))
    parts = [every] if width >= _WIDE else [every[:_SPLIT], [0, *every[_SPLIT:]]]
    return [Padding(_rows(study, part), (1, 0, 0, 0)) for part in parts]


def _rows(study: VolumeStudy, columns: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        title, justify = _COLUMNS[column]
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for result in study.results.values():
        cells = _cells(result)
        table.add_row(*(cells[column] for column in columns))
    return table


def _cells(result: MethodResult) -> tuple[str, ...]:
    if result.failure:
        return (result.method, *[_NONE] * (len(_COLUMNS) - 1))
    first = (result.method, result.kind, log_volume_cell(result), _six(result.log10_volume))
    bound, sampled = result.lower_bound, result.sampled
    if sampled is None or bound is None:
        derived, dimension = (_number(result.figures, name) for name in ("derived_k", "effective_dimension"))
        return (*first, _NONE, _NONE, _NONE, _NONE, derived, dimension)
    evaluations = f"{sampled.evaluations.mean():.3g}"
    share, effective = f"{sampled.largest_share:.0%}", f"{sampled.effective_samples:.3g}"
    return (*first, _six(bound), share, effective, evaluations, _NONE, _NONE)


def _six(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else with_error(value, 0.0)


def _number(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.3g}" if math.isfinite(figures.get(name, math.nan)) else _NONE


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
        *(
            words
            for one in study.results.values()
            if not one.failure and (words := method_row(one.method).caption(one))
        ),
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
                f"for {figures['coded_samples']:,.0f} targets, from {figures['data_draws']:.0f} draws "
                f"({figures['anchor_data_bits']:.4g} at the checkpoint)"
            )
    return lines


def _sampler(result: MethodResult, exponent: float) -> str:
    assert result.sampled is not None
    eps = "" if math.isnan(result.eps) else f" with eps {result.eps:g}"
    if eps and exponent != EXPONENT:
        eps += f", exponent {exponent:g}"
    count = len(result.sampled.log_terms)
    many = "1 direction" if count == 1 else f"{count:,} directions"
    return f"{result.method}: {many}, preconditioner {result.preconditioner}{eps}"
