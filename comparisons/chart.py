"""The chart of one or a few checkpoints: a row a measure, grouped by family, a point a checkpoint.

Measures have many units, so a row shows each checkpoint over the first. Of measures that are logarithms already it
shows the difference.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from comparisons.comparison import Comparison
from comparisons.flatness import Measure, Reading
from comparisons.statistics import incomparable
from comparisons.tables import rows, short_names
from spectra.interval import interval_label, short
from spectra.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, literal

WIDTH, ROW, AROUND = 8.3, 0.24, 0.55
_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "black")
_MARKERS = "os^DvPX*"
# Checkpoints that a legend can tell apart, and that a row names where they have no value.
NAMED, FEW_NAMED = 12, 3
# Spans of ratios from which an axis has one label a decade, and up to which it has those of a linear one.
LONG, SHORT = 1e3, 4.0
# Spans of differences from which their axis is logarithmic on both sides of zero.
DECADES = 30.0
_ARROWS = {"smaller": "↓", "larger": "↑"}
_KEY = f"{interval_label('samples')}, widened by truncation; hollow: a caution; ?: its error is unknown; "
_KEY += "arrow: the direction that counts as flatter"
# Characters of a line beneath the chart.
_LONGEST = 150


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows that share an axis.

    Attributes:
        measures: the rows, family by family.
        label: of the axis.
        kind: ``ratio`` (positive, on a logarithmic axis), ``signed`` (of both signs) or
            ``difference``.
    """

    measures: tuple[Measure, ...]
    label: str
    kind: str

    @property
    def lines(self) -> list[Measure | str]:
        """Measures, each family's beneath its name."""
        found: list[Measure | str] = []
        for measure in self.measures:
            if measure.family not in found:
                found.append(measure.family)
            found.append(measure)
        return found


def chart(comparison: Comparison, measures: Sequence[Measure]) -> Figure:
    """The chart of a few checkpoints, each row over the first of them, or of one, with its values.

    Args:
        comparison: comparison with at least one checkpoint done.
        measures: the rows, of which each has a value somewhere.

    Returns:
        The figure.
    """
    if len(comparison.done) == 1:
        return _values(comparison, measures)
    parts, left_out = _parts(comparison, measures)
    heights = [ROW * len(part.lines) + AROUND for part in parts]
    said = [f"not drawn: {'; '.join(left_out)}"] if left_out else []
    lines = [line for text in (*said, *comparison.cautions) for line in textwrap.wrap(literal(text), _LONGEST)]
    names, shared = short_names(comparison)
    legend = 0.22 * math.ceil(min(len(names), NAMED) / 4)
    height = sum(heights) + 0.75 + legend + 0.14 * len(lines)
    figure = Figure(figsize=(WIDTH, max(height, 2.0)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Flatness of {len(names)} checkpoints{f' ({literal(shared)})' if shared else ''}", fontsize=10)
    figure.supxlabel("\n".join([*textwrap.wrap(_KEY, _LONGEST), *lines]), fontsize=6.5, color="0.3")
    grid = figure.add_gridspec(max(len(parts), 1), 1, height_ratios=heights or [1.0])
    drawn = [figure.add_subplot(grid[place]) for place in range(len(parts))]
    for axes, part in zip(drawn, parts, strict=True):
        _draw(axes, comparison, part, names)
    handles = [_handle(place, name) for place, name in enumerate(names[:NAMED])]
    if len(names) > NAMED:
        handles.append(Line2D([], [], ls="", label=f"and {len(names) - NAMED} more"))
    if drawn:
        above = (0.4, 1.0)
        drawn[0].legend(handles=handles, loc="lower center", bbox_to_anchor=above, ncols=4, fontsize=7.5, frameon=False)
    return figure


def _parts(comparison: Comparison, measures: Sequence[Measure]) -> tuple[list[_Part], list[str]]:
    """The rows by the axis that they need, and those that none can show, each with the reason."""
    first = literal(short_names(comparison)[0][0])
    apart = incomparable(comparison)
    found: dict[str, list[Measure]] = {"ratio": [], "signed": [], "difference": []}
    left_out = []
    for measure in measures:
        values = [value for value in (one.value(measure.name) for one in comparison.done) if math.isfinite(value)]
        start = comparison.done[0].value(measure.name)
        if measure.name in apart:
            left_out.append(f"{measure.title} (networks of different sizes do not compare)")
        elif not math.isfinite(start):
            left_out.append(f"{measure.title} (no value at {first})")
        elif measure.unit == "nat":
            found["difference"].append(measure)
        elif start == 0.0:
            left_out.append(f"{measure.title} (0 at {first}: no ratio to it)")
        else:
            found["ratio" if all(value * start > 0.0 for value in values) else "signed"].append(measure)
    labels = {
        "ratio": f"ratio to {first}, logarithmic axis",
        "signed": f"ratio to {first}, where signs differ",
        "difference": f"difference from {first} (nat): these are logarithms already",
    }
    return [_Part(tuple(some), labels[kind], kind) for kind, some in found.items() if some], left_out


def _handle(place: int, name: str) -> Line2D:
    colour, marker = _style(place)
    return Line2D([], [], ls="", marker=marker, color=colour, ms=5, label=literal(name))


def _style(place: int) -> tuple[str, str]:
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def _named(measure: Measure) -> str:
    unit = "" if measure.unit == "1" else f" ({measure.unit})"
    return f"{measure.title}{unit} {_ARROWS[measure.flatter]}"


def _rows(axes: Axes, lines: Sequence[Measure | str]) -> None:
    """Names of the rows and of their families, the first above."""
    axes.set_ylim(len(lines) - 0.4, -0.6)
    labels = [line if isinstance(line, str) else _named(line) for line in lines]
    axes.set_yticks(range(len(lines)), list(map(literal, labels)), fontsize=7)
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        if isinstance(line, str):
            label.set(fontweight="bold", color="0.25")
        else:
            axes.axhline(lines.index(line), color="0.93", lw=0.6, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw(axes: Axes, comparison: Comparison, part: _Part, names: Sequence[str]) -> None:
    lines, count, side = part.lines, len(comparison.done), axes.get_yaxis_transform()
    _rows(axes, lines)
    reached = [_neutral(part)]
    for row, line in enumerate(lines):
        if isinstance(line, str):
            continue
        missing = []
        for place, one in enumerate(comparison.done):
            outcome = one.outcomes.get(line.name)
            if outcome is None or outcome.reading is None or not math.isfinite(outcome.reading.value):
                missing.append(names[place])
                continue
            at = row + 0.62 * ((place + 0.5) / count - 0.5)
            reached.append(_point(axes, part, comparison.done[0].value(line.name), outcome.reading, at, place))
        if missing:
            which = ", ".join(missing) if len(missing) <= FEW_NAMED else f"{len(missing)} of {count}"
            axes.text(0.99, row, literal(f"no value: {which}"), transform=side, fontsize=6, va="center", ha="right")
        value = short(comparison.done[0].value(line.name))
        axes.text(1.01, row, value, transform=side, fontsize=6.5, va="center", color="0.3")
    axes.text(1.01, -0.62, literal(names[0]), transform=side, fontsize=6.5, color="0.3")
    _axis(axes, part, np.array(reached))


def _neutral(part: _Part) -> float:
    return 0.0 if part.kind == "difference" else 1.0


def _point(axes: Axes, part: _Part, start: float, reading: Reading, at: float, place: int) -> float:
    """One checkpoint in one row; returns where it is."""

    def moved(value: float) -> float:
        return value - start if part.kind == "difference" else value / start

    colour, marker = _style(place)
    where, (low, high) = moved(reading.value), sorted(map(moved, reading.interval))
    if math.isfinite(high - low):
        # On a logarithmic axis an end at or below zero lies beyond the left edge.
        axes.plot([max(low, 1e-300) if part.kind == "ratio" else low, high], [at, at], color=colour, lw=1.0)
    elif math.isinf(reading.half_width):
        axes.annotate("?", (where, at), (4, 0), textcoords="offset points", fontsize=6, va="center", color=colour)
    face = colour if reading.trusted else "white"
    axes.plot(where, at, marker, color=colour, mfc=face, ms=4.2, mew=1.0, zorder=3)
    return where


def _axis(axes: Axes, part: _Part, reached: np.ndarray) -> None:
    """The axis, wide enough for the points; intervals may go beyond it."""
    axes.axvline(_neutral(part), color=GREY, lw=0.8, zorder=1)
    axes.grid(axis="x", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(part.label, fontsize=7.5)
    low, high, least = float(reached.min()), float(reached.max()), 0.0
    if part.kind == "ratio":
        pad = max((high / low) ** 0.06, 1.02)
        axes.set_xscale("log")
        axes.set_xlim(low / pad, high * pad)
        subs = (1.0,) if high / low > LONG else (1.0, 2.0, 5.0)
        few = MaxNLocator(6) if high / low < SHORT else LogLocator(10.0, subs=subs, numticks=12)
        axes.xaxis.set_major_locator(few)
    else:
        size = np.abs(reached[reached != 0.0])
        smallest, largest = (float(size.min()), float(size.max())) if len(size) else (1.0, 1.0)
        pad = 0.06 * (high - low) or 1.0
        axes.set_xlim(low - pad, high + pad)
        if largest > DECADES * smallest:
            # At most three decades on each side: more would leave no room for their labels.
            least = max(smallest, largest / 1e3)
            axes.set_xscale("symlog", linthresh=least, linscale=1.0)
            axes.set_xlim(min(1.6 * low, -0.5 * least), max(1.6 * high, 0.5 * least))
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Around zero a symmetric axis is linear: labels of decades below would lie on each other.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "" if 0.0 < abs(x) < 0.99 * least else f"{x:,g}"))


def _values(comparison: Comparison, measures: Sequence[Measure]) -> Figure:
    """The chart of one checkpoint: its values as a table, and how far each is known as a point."""
    (one,), (names, _) = comparison.done, short_names(comparison)
    part = _Part(tuple(measures), "half of the 95 % interval, as a share of the value", "ratio")
    lines = part.lines
    figure = Figure(figsize=(WIDTH, ROW * len(lines) + 1.3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Flatness of {literal(names[0])}", fontsize=10)
    axes = figure.add_subplot()
    _rows(axes, lines)
    axes.set_xscale("log")
    side, cells = axes.get_yaxis_transform(), {row.measure: row.cells[0] for row in rows(comparison)}
    for row, line in enumerate(lines):
        outcome = None if isinstance(line, str) else one.outcomes.get(line.name)
        if isinstance(line, str) or outcome is None or outcome.reading is None:
            continue
        reading = outcome.reading
        axes.text(1.02, row, cells[line], transform=side, fontsize=7, va="center")
        share = abs(reading.half_width / reading.value) if reading.value else math.inf
        if 0.0 < share < math.inf:
            colour, face = (BLUE, BLUE) if reading.trusted else (VERMILLION, "white")
            axes.plot(share, row, "o", color=colour, mfc=face, ms=4.5)
        else:
            words = " error unknown" if share else " no sampling error"
            axes.text(0.0, row, words, transform=side, fontsize=6.5, va="center", color=GREY)
    axes.text(1.02, -0.45, "value, 95 % interval", transform=side, fontsize=7, fontweight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100.0 * value:g} %"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(part.label, fontsize=7.5)
    key = "! and hollow: a caution; arrow: the direction that counts as flatter"
    figure.supxlabel(key, fontsize=6.5, color="0.3")
    return figure
