"""A calibration for reading and as JSON: the value and what it is of, the rows of the grid, what was predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding

from basinscope.terminal import Text, written
from basinscope.views import plain, table
from comparisons.calibration import RULE, Calibration, Cell, Row
from spectra.files import counted
from spectra.interval import short, with_ends

_KEY = (
    "a row is a temperature and a localisation: how many of its step sizes are sound, the estimate in the middle of "
    "the plateau (else at the smallest sound step), and the spectrum's value for it; {rule}"
)


def calibration_table(found: Calibration, files: Mapping[str, str]) -> Group:
    """A calibration, complete or not, laid out for a terminal."""
    parts: list[RenderableType] = [_heading(found)]
    if not found.complete:
        parts.append(Text(f"{found.headline}; go on with --resume", style="yellow"))
        return Group(*parts, *written(files))
    verdict = found.verdict
    style = "bold green" if verdict.cell is not None else "bold yellow"
    parts.append(Padding(Text(f"local learning coefficient {found.headline}", style=style), (1, 0, 0, 0)))
    if verdict.cell is not None:
        parts.append(_facts(found, verdict.cell))
    titles = ("nβ", "localisation", "sound", "coefficient", "spectrum", "plateau, or why not")
    rows = table(titles, of="rows of the grid")
    rows.columns[-1] = type(rows.columns[-1])(titles[-1], words=True)
    for row in verdict.rows:
        rows.add_row(*_row(found, row), style="bold" if row is verdict.chosen else "")
    parts.append(Padding(rows, (1, 0, 1, 0)))
    parts += [Text(f"! {caution}", style="yellow") for caution in found.cautions]
    parts.append(Text(_KEY.format(rule=RULE.format(tolerance=found.settings.tolerance)), style="dim"))
    return Group(*parts, *written(files))


def calibration_json(found: Calibration, files: Mapping[str, str]) -> dict[str, Any]:
    """A calibration, complete or not, in plain values; ``files`` says what was written where, by kind."""
    verdict = found.verdict if found.complete else None
    records = found.records()
    return {
        "checkpoint": found.provenance.checkpoint,
        "complete": found.complete,
        "headline": found.headline,
        "chosen": next((plain(one) for one in records if one["chosen"]), None),
        "refused": verdict.reason if verdict is not None and verdict.reason else None,
        "changes_per_doubling": plain(dict(verdict.changes)) if verdict is not None else None,
        "sampled_cost": plain(asdict(found.ground)) | {"sentence": found.ground.sentence(found.provenance.cost_unit)},
        "cells": [plain(one) for one in records],
        "rule": RULE.format(tolerance=found.settings.tolerance),
        "cautions": list(found.cautions),
        "gradients": found.gradients,
        "products": found.spectrum.products,
        "seconds": found.seconds,
        "settings": plain(asdict(found.settings)),
        "provenance": plain(asdict(found.provenance)),
        "files": dict(files),
    }


def _heading(found: Calibration) -> RenderableType:
    spectrum, settings = found.spectrum, found.settings
    text = Text.assemble((f"Calibration of the local learning coefficient: {found.provenance.name}", "bold"))
    penalty = f" with the penalty l2 = {found.ground.penalty:.3g}" if found.ground.penalty else ""
    text.append(
        f"\n{counted(spectrum.density.size, 'parameter')}, {found.provenance.cost}{penalty} on "
        f"{counted(round(spectrum.samples), 'sample')}"
    )
    text.append(
        f"\n{counted(len(found.rises), 'cell')} of {counted(settings.calls, 'call')}, "
        f"{counted(settings.chains, 'chain')} each, {settings.steps:,} steps ({settings.sampler}); "
        f"{counted(round(found.gradients), 'gradient')}, seed {settings.seed}"
    )
    return text.append(f"\n{found.ground.sentence(found.provenance.cost_unit)}")


def _facts(found: Calibration, cell: Cell) -> Padding:
    """What stands behind the chosen cell, a line each."""
    sheet = table(("", ""), of="the chosen cell", padding=3)
    sheet.header = False
    sheet.columns[-1] = type(sheet.columns[-1])("", words=True)
    for name, value in _fact_rows(found, cell):
        sheet.add_row(name, value)
    return Padding(sheet, (1, 0, 0, 0))


def _fact_rows(found: Calibration, cell: Cell) -> Iterator[tuple[str, str]]:
    chains, ahead = cell.chains, cell.outlook
    limit = ahead.prediction.step_limit
    yield "error", f"between {found.settings.calls} independent calls; one call alone would say ± {_half(cell)}"
    slope = f", the slope takes {-ahead.fall:.2g}" if -ahead.fall > 0.005 * ahead.plain else ""
    step = "no bias of the step" if chains.sampler == "mala" else f"{ahead.bias:+.1%} by the step"
    yield "by the spectrum", f"{short(ahead.value)}: {short(ahead.plain)} and {step}{slope}"
    yield "step size", f"{chains.step_size / limit:.2g} of its limit {limit:.3g}"
    if found.metric is not None:
        least, mean = found.metric.factors_at(chains.inverse_temperature, chains.localisation)
        yield "factors of a step", f"from {least:.2g} to 1, {mean:.2g} in the mean over parameters"
    yield "burn-in", f"{chains.burn_in:,} of {found.settings.steps:,} steps, {short(ahead.burn_in)} needed"
    by_spectrum = f", {ahead.acceptance:.2f} by the spectrum" if math.isfinite(ahead.acceptance) else ""
    yield "acceptance", _shown(chains.mean_acceptance) + by_spectrum
    yield "R-hat", f"{chains.scale_reduction:.3f}" if math.isfinite(chains.scale_reduction) else "unknown"
    yield "failed chains", f"{cell.failed_share:.0%}"
    for name, change in found.verdict.changes.items():
        yield f"{name} × 2", f"changes the value by {change:+.0%}"


def _half(cell: Cell) -> str:
    return f"{1.96 * cell.error_of_one_call:.2g}" if math.isfinite(cell.error_of_one_call) else "an unknown error"


def _shown(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "not computed"


def _row(found: Calibration, row: Row) -> tuple[str, ...]:
    """A temperature and a localisation as cells of the table."""
    nb, pull = found.axes.inverse_temperatures[row.place[0]], found.axes.localisations[row.place[1]]
    cell = row.plateau.middle if row.plateau is not None else next((one for one in row.cells if one.sound), None)
    if row.plateau is None:
        why = row.reason
    else:
        first, last = (one.chains.step_size for one in (row.plateau.cells[0], row.plateau.cells[-1]))
        why = f"{len(row.plateau.cells)} steps, {first:.2g} to {last:.2g}, within {row.plateau.spread:.0%}"
    values = ("–", "–") if cell is None else (_with_error(cell), short(cell.outlook.value))
    return f"{nb:.4g}", f"{pull:.4g}", f"{row.sound} of {len(row.cells)}", *values, why


def _with_error(cell: Cell) -> str:
    return with_ends(cell.estimate.value, cell.estimate.interval())
