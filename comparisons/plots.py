"""The figure of a comparison: a chart of a few checkpoints, panels against the generalisation gap of many."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from comparisons.chart import chart
from comparisons.comparison import Comparison
from comparisons.flatness import Measure
from comparisons.measures import REGISTRY, measures_of
from comparisons.statistics import incomparable, kendall
from comparisons.tables import short_names
from comparisons.words import FEWEST
from spectra.errors import UserError
from spectra.interval import bars, interval_label
from spectra.plots import BLUE, GREY, ORANGE, literal

COLUMNS, WIDTH, HEIGHT = 4, 8.3, 1.75
# From so many checkpoints on, each measure has a panel against the generalisation gap.
SCATTERED = 6
# Checkpoints without a value that a panel names; of more it says how many.
NAMED = 4
# Values that span more than this factor get a logarithmic axis.
DECADES = 30.0


def comparison_figure(comparison: Comparison) -> Figure:
    """The figure of a comparison.

    Of one checkpoint it is a table with how far each value is known; of a few, a row a measure with each checkpoint
    over the first; from six on, where all have a generalisation gap, a panel a measure against the gap, with Kendall's
    tau of the two. Bars are 95 % intervals; hollow points carry a caution.

    Args:
        comparison: comparison with at least one checkpoint done.

    Returns:
        The figure.

    Raises:
        UserError: if no measure has a value.
    """
    shown = [one for one in measures_of(comparison.measures) if _any(comparison, one.name)]
    if not shown:
        raise UserError("no measure has a value: nothing to draw")
    many = len(comparison.done)
    if many < SCATTERED or not _by_gap(comparison):
        return chart(comparison, shown)
    lines = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(WIDTH, 0.9 + HEIGHT * lines), layout="constrained")
    FigureCanvasAgg(figure)
    shared = short_names(comparison)[1]
    title = f"Flatness measures of {many} checkpoints against the generalisation gap"
    figure.suptitle(f"{title}{f' ({literal(shared)})' if shared else ''}", fontsize=10)
    left_out = incomparable(comparison)
    for place, measure in enumerate(shown):
        axes = figure.add_subplot(lines, min(COLUMNS, len(shown)), place + 1)
        _panel(axes, comparison, measure, [one.gap for one in comparison.done], small=True)
        axes.set_title(f"{axes.get_title()}\n{_tau(comparison, measure, left_out)}", fontsize=6.5)
        axes.tick_params(labelsize=6)
    unit = comparison.done[0].provenance.cost_unit
    key = (
        f"{interval_label('samples')}, widened by truncation; hollow: a caution; square: its error is unknown; arrow: "
    )
    key += "flatter; tau: Kendall's, positive where flatter checkpoints have the smaller gap"
    words = "\n".join([f"held-out less training cost ({unit})", *textwrap.wrap(key, 130)])
    figure.supxlabel(words, fontsize=7)
    return figure


def _tau(comparison: Comparison, measure: Measure, left_out: frozenset[str]) -> str:
    """Kendall's tau of a measure with the gap, over the checkpoints that have a value."""
    if measure.name in left_out:
        return "other sizes do not compare"
    values = np.array([one.value(measure.name) for one in comparison.done])
    there = np.isfinite(values)
    if there.sum() < FEWEST:
        return f"no tau: {there.sum()} of {len(there)} have a value"
    sharper = values[there] if measure.flatter == "smaller" else -values[there]
    found = kendall(sharper, np.array([one.gap for one in comparison.done])[there])
    which = "" if there.all() else f" ({there.sum()} of {len(there)} have a value)"
    return f"tau {found:+.2f}{which}" if math.isfinite(found) else f"no tau{which}"


def _by_gap(comparison: Comparison) -> bool:
    gaps = [one.gap for one in comparison.done]
    return len(gaps) > 1 and all(math.isfinite(gap) for gap in gaps)


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
    by_gap = _by_gap(comparison)
    _panel(axes, comparison, measure, gaps if by_gap else list(map(float, range(len(names)))))
    if by_gap:
        unit = comparison.done[0].provenance.cost_unit
        axes.set_xlabel(f"held-out less training cost ({unit})", fontsize=7)
    else:
        axes.set_xticks(range(len(names)), list(map(literal, names)), rotation=20, ha="right")
    axes.tick_params(labelsize=7)


def _any(comparison: Comparison, name: str) -> bool:
    return any(math.isfinite(one.value(name)) for one in comparison.done)


def _panel(axes: Axes, comparison: Comparison, measure: Measure, places: list[float], *, small: bool = False) -> None:
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
        size = 3 if small else 5
        axes.errorbar(place, reading.value, yerr=reach, fmt=marker, color=colour, mfc=face, ms=size, capsize=2, lw=1)
        values.append(reading.value)
    if missing and not small:
        named = ", ".join(missing) if len(missing) <= NAMED else f"{len(missing)} of {len(places)}"
        words = "\n".join(textwrap.wrap(f"no value: {named}", 40))
        axes.text(0.02, 0.02, words, transform=axes.transAxes, fontsize=6, color=GREY)
    spread = np.array(values)
    if (spread > 0.0).all() and spread.max() > DECADES * spread.min():
        axes.set_yscale("log")
    flat = {"smaller": "↓", "larger": "↑"}[measure.flatter] if small else f"flatter: {measure.flatter}"
    words = "\n".join(textwrap.wrap(measure.title, 34))
    axes.set_title(f"{words}\n({measure.unit}; {flat})", fontsize=8)
    axes.margins(x=0.15, y=0.15)
