"""The figure of a comparison: a panel a measure, a point a checkpoint with its error."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from comparisons.comparison import Comparison
from comparisons.flatness import Measure
from comparisons.measures import REGISTRY
from comparisons.tables import short_names
from spectra.errors import UserError
from spectra.files import counted
from spectra.interval import bars, interval_label
from spectra.plots import BLUE, GREY, ORANGE, literal

COLUMNS = 4
# Checkpoints without a value that a panel names; of more it says how many.
NAMED = 4
# Values that span more than this factor get a logarithmic axis.
DECADES = 30.0


def comparison_figure(comparison: Comparison) -> Figure:
    """The figure of a comparison, against the generalisation gap where every checkpoint has one.

    Bars are 95 % intervals; hollow points carry a caution, squares have an unknown error, and checkpoints without a
    value are named.

    Args:
        comparison: comparison with at least one checkpoint done.

    Returns:
        The figure.

    Raises:
        UserError: if no measure has a value.
    """
    known = {measure.name: measure for measure in REGISTRY}
    shown = [known[name] for name in comparison.measures if name in known and _any(comparison, name)]
    if not shown:
        raise UserError("no measure has a value: nothing to draw")
    lines = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(12.0, 0.8 + 2.5 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    names, shared = short_names(comparison)
    title = f"Flatness measures of {counted(len(names), 'checkpoint')}{f' ({shared})' if shared else ''}"
    figure.suptitle(title, fontsize=11)
    for place, measure in enumerate(shown):
        _placed(figure.add_subplot(lines, min(COLUMNS, len(shown)), place + 1), comparison, measure)
    key = f"{interval_label('samples')}, widened by truncation; hollow: a caution; square: its error is unknown"
    figure.supxlabel(key, fontsize=8)
    return figure


def draw_measure(axes: Axes, comparison: Comparison, *, measure: str | None = None) -> None:
    """One panel of :func:`comparison_figure` on someone's own axes.

    Args:
        axes: where.
        comparison: at least one checkpoint done.
        measure: its name; by default the first that has a value.

    Raises:
        UserError: if the measure has no value.
    """
    names = comparison.measures if measure is None else (measure,)
    shown = next((one for one in REGISTRY if one.name in names and _any(comparison, one.name)), None)
    if shown is None:
        raise UserError(f"{measure or 'no measure'} has {'no' if measure else 'a'} value: nothing to draw")
    _placed(axes, comparison, shown)


def _placed(axes: Axes, comparison: Comparison, measure: Measure) -> None:
    """A measure's panel with its axis: the gaps where every checkpoint has one, else the names."""
    names, gaps = short_names(comparison)[0], [one.gap for one in comparison.done]
    by_gap = len(gaps) > 1 and all(math.isfinite(gap) for gap in gaps)
    _panel(axes, comparison, measure, gaps if by_gap else list(map(float, range(len(names)))))
    if by_gap:
        unit = comparison.done[0].provenance.cost_unit
        axes.set_xlabel(f"held-out less training cost ({unit})", fontsize=7)
    else:
        axes.set_xticks(range(len(names)), list(map(literal, names)), rotation=20, ha="right")
    axes.tick_params(labelsize=7)


def _any(comparison: Comparison, name: str) -> bool:
    return any(math.isfinite(one.value(name)) for one in comparison.done)


def _panel(axes: Axes, comparison: Comparison, measure: Measure, places: list[float]) -> None:
    values, missing = [], []
    for place, name, one in zip(places, short_names(comparison)[0], comparison.done, strict=True):
        outcome = one.outcomes.get(measure.name)
        if outcome is None or outcome.reading is None or not math.isfinite(outcome.reading.value):
            missing.append(name)
            continue
        reading = outcome.reading
        reach, known = bars([reading.value], [reading.interval])
        colour, face = (BLUE, BLUE) if reading.trusted else (ORANGE, "none")
        marker = "o" if known.all() else "s"
        axes.errorbar(place, reading.value, yerr=reach, fmt=marker, color=colour, mfc=face, ms=5, capsize=2, lw=1)
        values.append(reading.value)
    if missing:
        named = ", ".join(missing) if len(missing) <= NAMED else f"{len(missing)} of {len(places)}"
        words = "\n".join(textwrap.wrap(f"no value: {named}", 40))
        axes.text(0.02, 0.02, words, transform=axes.transAxes, fontsize=6, color=GREY)
    spread = np.array(values)
    if (spread > 0.0).all() and spread.max() > DECADES * spread.min():
        axes.set_yscale("log")
    arrow = "smaller" if measure.flatter == "smaller" else "larger"
    words = "\n".join(textwrap.wrap(measure.title, 34))
    axes.set_title(f"{words}\n({measure.unit}; flatter: {arrow})", fontsize=8)
    axes.margins(x=0.15, y=0.15)
