"""A tracked training run for reading and as JSON: a row a recorded step, what is missing beneath."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from basinscope.terminal import Text
from basinscope.training import CurvatureReading, TrainingCurves
from basinscope.views.layout import NONE, formatted, plain, table
from spectra.files import counted
from spectra.interval import with_error

# Rows that are read in a terminal: of more, so many at equal distances, the first and the last among them.
MOST_ROWS = 24
# Titles in two lines, with the unit beneath; what a row says in each; the first ones are the last to go.
_COLUMNS: tuple[tuple[str, Callable[[CurvatureReading], str]], ...] = (
    ("step", lambda one: f"{one.step:,}"),
    ("cost", lambda one: formatted(one.cost, ".4g")),
    ("largest\neigenvalue", lambda one: formatted(one.eigenvalues[0] if one.eigenvalues else math.nan, ".4g")),
    ("stability\nlimit", lambda one: formatted(one.stability_limit, ".4g")),
    ("in Adam's\nunits", lambda one: formatted(one.preconditioned_eigenvalue, ".4g")),
    ("limit\nof Adam", lambda one: formatted(one.preconditioned_limit, ".4g")),
    ("trace", lambda one: _with(one.trace, one.trace_half_width)),
    ("gradient\nnorm", lambda one: formatted(one.gradient_norm, ".3g")),
    ("gradient\nnoise", lambda one: _with(one.gradient_noise, one.gradient_noise_half_width)),
    ("Gauss-Newton\nlargest", lambda one: formatted(one.gauss_newton_largest, ".4g")),
    ("Gauss-Newton\ntrace", lambda one: _with(one.gauss_newton_trace, one.gauss_newton_trace_half_width)),
    ("log mass\n(nat)", lambda one: _with(one.log_mass, one.log_mass_half_width)),
)


def curves_json(curves: TrainingCurves) -> dict[str, Any]:
    """A training run in plain values: one entry a recorded step, named as the fields of ``CurvatureReading``."""
    return {
        "model": curves.provenance.checkpoint,
        "parameters": curves.size,
        "samples": curves.samples,
        "cost": curves.provenance.cost,
        "cost_unit": curves.provenance.cost_unit,
        "every": curves.every,
        "share": plain(curves.share),
        "standard_deviation": curves.standard_deviation,
        "settings": plain(asdict(curves.settings)),
        "steps": [plain(asdict(one)) for one in curves.readings],
        "skipped": list(curves.skipped),
        "notes": list(curves.notes),
        "provenance": plain(asdict(curves.provenance)),
    }


def notebook_table(curves: TrainingCurves) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headings and rows of texts, as many as the table for a terminal has, all columns that say anything."""
    known = _known_columns(_shown(curves))
    return [title.replace("\n", " ") for title, _ in known], list(zip(*(cells for _, cells in known), strict=True))


def _shown(curves: TrainingCurves) -> list[CurvatureReading]:
    """All readings, or so many at equal distances."""
    count = len(curves.readings)
    places = np.unique(np.linspace(0, count - 1, min(MOST_ROWS, count)).round())
    return [curves.readings[int(place)] for place in places]


def _known_columns(rows: list[CurvatureReading]) -> list[tuple[str, list[str]]]:
    """Title and cells of each column that says anything."""
    columns = [(title, [cell(one) for one in rows]) for title, cell in _COLUMNS]
    return [column for column in columns if any(cell != NONE for cell in column[1])]


def curves_table(curves: TrainingCurves) -> Group:
    """The steps as a table."""
    titles, rows = notebook_table(curves)
    if not rows:
        return Group(Text(f"{curves._title()}\n", style="bold"), *_beneath(curves, 0))
    found = table(titles, of="recorded steps", justify="right")
    for row in rows:
        found.add_row(*row)
    return Group(Text(f"{curves._title()}\n", style="bold"), found, *_beneath(curves, len(rows)))


def _beneath(curves: TrainingCurves, rows: int) -> list[RenderableType]:
    """What the table does not say."""
    unit = curves.provenance.cost_unit
    key = (
        f"eigenvalues and traces in {unit} / parameter², gradient noise in ({unit} / parameter)²; ± is half of a 95 % "
        "interval, Student t over probes (over rows of the data for the noise)"
    )
    lines: list[RenderableType] = [Text(""), Text(key, style="dim")]
    if rows < len(curves.readings):
        steps = counted(len(curves.readings), "recorded step")
        lines.append(Text(f"{rows} of {steps} are shown: all of them with --json", style="dim"))
    if curves.skipped:
        lines.append(Text(curves.skipped_in_words, style="dim"))
    lines += [Text(note, style="dim") for note in curves.notes]
    return lines + [Text(f"! {remark}", style="yellow") for remark in curves.remarks]


def _with(value: float, half: float) -> str:
    return with_error(value, half) if math.isfinite(value) else NONE
