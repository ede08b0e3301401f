"""The figure of an audit: each estimator's distribution over repeats on an axis of log-volume, the truth as a line."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectra.errors import UserError
from spectra.files import counted
from spectra.plots import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION
from volume.audit.reading import BOTH, SETS, VOLUME
from volume.audit.report import AuditReport
from volume.audit.table import AuditRow, AuditTable

COLUMNS = 2
# Errors below this are drawn on a linear scale, those above on a logarithmic one, nats.
_LINEAR = 1.0
_COLOURS = (
    ("star-domain", BLUE),
    ("ellipsoid-slice", SKY),
    ("ellipsoid-determinant", ORANGE),
    ("shifted-determinant", ORANGE),
    ("quadratic-mass", GREEN),
)


def audit_figure(table: AuditTable) -> Figure:
    """The figure of an audit: a panel a case, a line of dots an estimator of its log-volume, a dot a repeat.

    How many estimates are infinite stands at an estimator's name; estimators of other quantities are named beneath.
    The axis is the log-volume less the truth of the set that the estimator claims, or, in hollow dots, less that of the
    other set, which bounds it (linear within one nat, logarithmic beyond), so that estimates one nat
    and a thousand nats off are both seen; without a truth it is the log-volume itself.

    Args:
        table: the audit.

    Returns:
        The figure.

    Raises:
        UserError: if there is no estimate of a log-volume to draw.
    """
    rows = [row for row in table.applied if row.quantity == VOLUME]
    panels = {name: [row for row in rows if row.case == name] for name in dict.fromkeys(row.case for row in rows)}
    if not any(len(row.values) for row in rows):
        raise UserError("the audit holds no estimate of a log-volume: nothing to draw")
    # Panels of like height side by side.
    panels = dict(sorted(panels.items(), key=lambda panel: len(panel[1])))
    columns = min(COLUMNS, len(panels))
    pairs = [list(panels.items())[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [1.1 + 0.24 * max(len(part) for _, part in pair) for pair in pairs]
    figure = Figure(figsize=(6.6 * columns, sum(heights) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Estimates of log volume, {counted(table.repeats, 'repeat')} each; the line is the truth", fontsize=12
    )
    others = dict.fromkeys(row.estimator for row in table.applied if row.quantity != VOLUME)
    if others:
        words = f"no log-volumes, in the table alone: {', '.join(others)}"
        figure.supxlabel(textwrap.fill(words, 85 * columns, break_on_hyphens=False), fontsize=8)
    grid = figure.add_gridspec(len(pairs), columns, height_ratios=heights)
    for place, pair in enumerate(pairs):
        for column, (name, part) in enumerate(pair):
            _panel(figure.add_subplot(grid[place, column]), name, part)
    return figure


def draw_case(axes: Axes, found: AuditReport | AuditTable, *, case: str | None = None) -> None:
    """One panel of ``audit_figure`` on someone's own axes.

    Args:
        axes: where.
        found: the audit.
        case: name of the case; by default the first.

    Raises:
        UserError: if the audit holds no log-volume of that case.
    """
    table = found.table if isinstance(found, AuditReport) else found
    rows = [row for row in table.applied if row.quantity == VOLUME and case in (None, row.case)]
    if not rows:
        raise UserError(f"the audit holds no estimate of a log-volume{f' of {case}' if case else ''}: nothing to draw")
    _panel(axes, rows[0].case, [row for row in rows if row.case == rows[0].case])


def _panel(axes: Axes, name: str, rows: list[AuditRow]) -> None:
    truths = dict.fromkeys(truth for row in rows for truth in (row.truth, row.bound) if truth is not None)
    shifts = []
    for place, row in enumerate(rows):
        truth = row.truth or row.bound
        # Without any truth in the panel the axis is the log-volume itself; a row of none beside others is not drawn.
        shift = row.values - truth.value if truth is not None else row.values[: 0 if truths else None]
        shifts.append(shift)
        colour = next((colour for start, colour in _COLOURS if row.estimator.startswith(start)), GREY)
        jitter = np.linspace(-0.28, 0.28, len(shift)) if len(shift) > 1 else np.zeros(len(shift))
        # Hollow where the line is a bound and not the truth.
        filled: dict[str, Any] = {"markeredgewidth": 0.0} if row.bound is None else {"markerfacecolor": "none"}
        axes.plot(shift, place + jitter, "o", color=colour, markersize=3.2, alpha=0.55, **filled)
        if truth is not None and truth.error > 0.0:
            half = truth.half_width
            axes.fill_betweenx([place - 0.5, place + 0.5], -half, half, color=VERMILLION, alpha=0.2, linewidth=0.0)
        if len(shift):
            axes.plot(float(shift.mean()), place, "|", color=colour, markersize=13, markeredgewidth=2.2)
    axes.set_yticks(range(len(rows)), [_named(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    axes.tick_params(axis="x", labelsize=8)
    if not truths:
        axes.set_xlabel("log volume (nat)", fontsize=8)
        axes.set_title(f"{name}, n = {rows[0].size:,}: no truth known", fontsize=9)
        return
    axes.axvline(0.0, color=VERMILLION, linewidth=1.6, zorder=0)
    if any(truth.error > 0.0 for truth in truths):
        axes.fill_betweenx([], [], color=VERMILLION, alpha=0.2, linewidth=0.0, label="95 % interval of the truth")
        axes.legend(fontsize=7)
    axes.set_xscale("symlog", linthresh=_LINEAR)
    _decades(axes, float(np.abs(np.concatenate(shifts)).max(initial=0.0)))
    bounded = "; hollow: less a bound" if any(row.bound is not None for row in rows) else ""
    axes.set_xlabel(f"log volume less the truth of the set that is claimed (nat){bounded}", fontsize=8)
    values = ", ".join(f"{truth.value:,.2f}{f' ({truth.of})' if truth.of in SETS else ''}" for truth in truths)
    axes.set_title(f"{name}, n = {rows[0].size:,}: true log volume {values} nat", fontsize=9)


def _named(row: AuditRow) -> str:
    """An estimator with the set that it claims, where sets differ, and how many of its estimates no axis can hold."""
    differ = bool(row.claims) and (row.truth is None or row.truth.of != BOTH)
    told = [row.claims] * differ + [f"{row.infinite} infinite"] * bool(row.infinite)
    return f"{row.estimator} ({', '.join(told)})" if told else row.estimator


def _decades(axes: Axes, farthest: float) -> None:
    """Limits and ticks of whole decades, at least to one nat on either side."""
    low, high = axes.get_xlim()
    # Room for half a dot beyond the farthest, on whichever scale it lies.
    axes.set_xlim(min(1.3 * low, -_LINEAR), max(1.3 * high, _LINEAR))
    top = max(0, math.ceil(math.log10(max(farthest, _LINEAR))))
    decades = [10.0**power for power in range(top + 1)]
    ticks = [-tick for tick in reversed(decades)] + [0.0] + decades
    low, high = axes.get_xlim()
    kept = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(kept, [f"{tick:g}" for tick in kept])
    axes.minorticks_off()
