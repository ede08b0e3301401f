"""Figures of connections and slices: costs along paths, and the quadratic model drawn over the true cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator

from comparisons.connections.connection import Connection, barrier_in_words
from comparisons.connections.cost_slice import BROKEN, CostSlice
from comparisons.connections.path import STRAIGHT
from comparisons.connections.peaks import Array
from spectra.errors import UserError
from spectra.plots import BLUE, GREY, ORANGE, VERMILLION, literal

# Costs that span more than this factor get a logarithmic scale.
_DECADES = 30.0
_LEVELS = 12


def connection_figure(connection: Connection) -> Figure:
    """The figure of a connection: the cost along each path, its chord, and its barrier with place and height.

    Args:
        connection: connection with at least one path begun.

    Returns:
        The figure.

    Raises:
        UserError: if no path is begun.
    """
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw_paths(figure.add_subplot(), connection)
    names = f"{literal(connection.provenance.name)} to {literal(connection.other.name)}"
    data = f"{connection.provenance.cost} cost on {connection.samples:,.0f} samples"
    figure.suptitle(f"{names}\nn = {connection.size:,} parameters, {data}", fontsize=10)
    return figure


def draw_paths(axes: Axes, connection: Connection) -> None:
    """Draw the paths of a connection on axes of one's own.

    Raises:
        UserError: if no path is begun.
    """
    if not connection.paths:
        raise UserError("no path is begun: nothing to draw")
    unit, every = connection.provenance.cost_unit, [path.costs for path in connection.paths]
    for path in connection.paths:
        colour = BLUE if path.name == STRAIGHT else ORANGE
        label = f"{path.name}: barrier {barrier_in_words(path, unit)}" if connection.begun(path) else path.name
        axes.plot(path.places, path.costs, "o-", color=colour, markersize=3, linewidth=1.2, label=label)
        axes.plot([0.0, 1.0], path.costs[[0, -1]], "--", color=colour, linewidth=0.8, alpha=0.7)
        found = path.barrier
        if connection.begun(path) and found.height > 2.0 * path.noise:
            top = float(path.costs[int(np.argmax(path.above_chord))])
            axes.plot([found.place] * 2, [top - found.height, top], ":", color=colour, linewidth=1.5)
    if _spans(np.concatenate(every)):
        axes.set_yscale("log")
    axes.set_xlabel("share of the way from the first checkpoint to the second")
    axes.set_ylabel(f"cost ({unit})")
    axes.plot([], [], "--", color=GREY, linewidth=0.8, label="line between the costs of both ends")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)


def _spans(values: Array) -> bool:
    known = values[np.isfinite(values)]
    return bool(known.min() > 0.0 and known.max() > _DECADES * known.min())


def slice_figure(found: CostSlice) -> Figure:
    """The figure of a slice.

    At the left the true cost in colours with its contours, and the contours of the quadratic model at the same costs
    over it; at the right both along each axis through the checkpoint, with the places where the model breaks.

    Args:
        found: slice with at least one row done.

    Returns:
        The figure.

    Raises:
        UserError: if no row is done.
    """
    cuts = found.has_model
    figure = Figure(figsize=(11.0 if cuts else 7.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2)) if cuts else figure.add_gridspec(1, 1)
    draw_slice(figure.add_subplot(grid[:, 0]), found)
    if cuts:
        for axis in (0, 1):
            _draw_cut(figure.add_subplot(grid[axis, 1]), found, axis)
    data = f"{found.provenance.cost} cost on {found.samples:,.0f} samples, n = {found.size:,} parameters"
    names = " and ".join(literal(one.name) for one in found.others)
    figure.suptitle(f"{literal(found.provenance.name)}{f', {names}' if names else ''}\n{data}", fontsize=10)
    return figure


def draw_slice(axes: Axes, found: CostSlice) -> None:
    """Draw the window of a slice on axes of one's own.

    Raises:
        UserError: if no row is done.
    """
    known = found.costs[np.isfinite(found.costs)]
    if not known.size:
        raise UserError("no row of the window is done: nothing to draw")
    logarithmic = _spans(known)
    levels = _levels(known, logarithmic)
    options: dict[str, Any] = {"norm": "log"} if logarithmic else {}
    costs = np.ma.masked_invalid(found.costs)
    colours = axes.contourf(found.x, found.y, costs, levels=_finer(levels, logarithmic), cmap="cividis", **options)
    unit = found.provenance.cost_unit
    ticks: dict[str, Any] = {"ticks": MaxNLocator(7)}
    if logarithmic:
        ticks = {"ticks": LogLocator(subs=(1.0, 3.0)), "format": LogFormatterSciNotation(minor_thresholds=(9, 9))}
    axes.figure.colorbar(colours, ax=axes, label=f"cost ({unit})", **ticks)
    axes.contour(found.x, found.y, costs, levels=levels[1:], colors="white", linewidths=0.8)
    axes.plot([], [], color="white", linewidth=0.8, label="true cost")
    if found.has_model:
        model: dict[str, Any] = {"colors": VERMILLION, "linewidths": 1.0, "linestyles": "--"}
        axes.contour(found.x, found.y, found.models, levels=levels[1:], **model)
        axes.plot([], [], "--", color=VERMILLION, linewidth=1.0, label="quadratic model, same costs")
    axes.plot(0.0, 0.0, "o", color="white", markeredgecolor="black", markersize=6, label=literal(found.provenance.name))
    for place, other, mark in zip(found.places, found.others, "s^", strict=False):
        axes.plot(*place, mark, color="white", markeredgecolor="black", markersize=6, label=literal(other.name))
    for number, one in enumerate(one for one in found.departures if math.isfinite(one.radius)):
        spot = np.zeros(2)
        spot[one.axis] = one.sign * one.radius
        label = "" if number else f"model off by {100 * BROKEN:.0f} % of its curvature term"
        axes.plot(*spot, "x", color=VERMILLION, markersize=7, markeredgewidth=1.5, label=label)
    axes.set_xlim(found.x[0], found.x[-1])
    axes.set_ylim(found.y[0], found.y[-1])
    axes.set_xlabel(_axis_label(found, 0))
    axes.set_ylabel(_axis_label(found, 1))
    axes.legend(
        fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, facecolor="#B0B0B0", framealpha=1.0
    )


def _axis_label(found: CostSlice, axis: int) -> str:
    value = float(found.eigenvalues[axis])
    unit = f"{found.provenance.cost_unit} / parameter²"
    eigenvalue = f", λ = {value:.3g} {unit}" if math.isfinite(value) else ""
    return f"{literal(found.axis_names[axis])}{eigenvalue}\n(distance, unit of the parameters)"


def _levels(known: Array, logarithmic: bool) -> Array:
    """Costs of the contours."""
    low, high = float(known.min()), float(known.max())
    if not high > low:
        return np.array([low, low + max(abs(low), 1.0) * 1e-6])
    # As a paraboloid has them: at equal distances.
    return np.geomspace(low, high, _LEVELS) if logarithmic else low + (high - low) * np.linspace(0, 1, _LEVELS) ** 2


def _finer(levels: Array, logarithmic: bool) -> Array:
    count = 8 * len(levels)
    ends = levels[0], levels[-1]
    return np.geomspace(*ends, count) if logarithmic else np.linspace(*ends, count)


def _draw_cut(axes: Axes, found: CostSlice, axis: int) -> None:
    """The true cost and the quadratic model along an axis through the checkpoint."""
    places = found.x if axis == 0 else found.y
    other = found.y if axis == 0 else found.x
    origin, still = int(np.abs(other).argmin()), np.zeros_like(places)
    true = found.costs[origin] if axis == 0 else found.costs[:, origin]
    model = found.model(places, still) if axis == 0 else found.model(still, places)
    axes.plot(places, true, "o-", color=BLUE, markersize=2.5, linewidth=1.2, label="true cost")
    axes.plot(places, model, "--", color=VERMILLION, linewidth=1.2, label="quadratic model")
    for one in found.departures:
        if one.axis == axis and math.isfinite(one.radius):
            axes.axvline(one.sign * one.radius, color=VERMILLION, linewidth=0.8, linestyle=":")
    known = true[np.isfinite(true)]
    if known.size:
        top, bottom = float(known.max()), float(min(known.min(), model.min()))
        axes.set_ylim(bottom - 0.05 * (top - bottom), top + 0.25 * (top - bottom))
    axes.set_xlabel(f"{('first', 'second')[axis]} axis (distance)")
    axes.set_ylabel(f"cost ({found.provenance.cost_unit})")
    axes.legend(fontsize=7, loc="upper center")
