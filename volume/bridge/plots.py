"""The figure of a bridge: log V against T from one ladder, its slope, and whether the chains of each rung agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectra.estimate import Estimate
from spectra.files import counted
from spectra.interval import bars, interval_label, with_ends
from spectra.plots import BLUE, GREY, ORANGE, VERMILLION
from volume.bridge.result import LARGEST_RHAT, ORIGIN, BridgeResult


def bridge_figure(result: BridgeResult, *, checkpoint: str = "", unit: str = "cost") -> Figure:
    """The figure of a complete bridge.

    Args:
        result: the bridge.
        checkpoint: file of the checkpoint, for the title.
        unit: unit of the cost.

    Returns:
        Three panels: log-volume across cutoffs with its 95 % intervals, the slope with its own, R-hat of every rung.

    Raises:
        UserError: if the bridge is not complete.
    """
    curve = result.curve()
    figure = Figure(figsize=(8.0, 9.0), layout="constrained")
    FigureCanvasAgg(figure)
    of = f" of {Path(checkpoint).name}" if checkpoint else ""
    figure.suptitle(
        f"Bridge{of}: {result.settings.target} from {ORIGIN[result.settings.origin]}, n = {result.size:,}\n"
        f"{counted(len(result.rungs) - 1, 'rung')}, {result.rungs[1].chains} chains, "
        f"{counted(result.gradient_evaluations, 'gradient')}",
        fontsize=11,
    )
    above, middle, beneath = figure.subplots(3, 1, height_ratios=(3, 3, 2))
    middle.sharex(above)
    cutoffs = np.array([volume.cutoff for volume in curve])
    rule = interval_label(f"{result.freedom + 1:.0f} chains")
    _masses(above, result)
    _band(middle, cutoffs, [volume.rise for volume in curve], rule)
    for volume in result.volumes:
        _point(middle, volume.cutoff, volume.rise, "")
    middle.legend(fontsize=8)
    middle.set_ylabel("slope d log V / d log T\n(learning coefficient by volume)")
    middle.set_xlabel(f"cutoff T ({unit})")
    middle.set_xscale("log")
    _rungs(beneath, result)
    for axes in (above, middle, beneath):
        axes.grid(alpha=0.25)
    return figure


def draw_bridge(axes: Axes, result: BridgeResult) -> None:
    """The log-volume across cutoffs, as ``bridge_figure`` has it, on someone's own axes.

    Args:
        axes: where.
        result: a complete bridge.

    Raises:
        UserError: if the bridge is not complete.
    """
    _masses(axes, result)
    axes.set_xlabel(f"cutoff T ({result.source.get('cost_unit', 'cost')})")
    axes.set_xscale("log")


def _masses(axes: Axes, result: BridgeResult) -> None:
    curve = result.curve()
    rule = interval_label(f"{result.freedom + 1:.0f} chains")
    _band(axes, np.array([volume.cutoff for volume in curve]), [volume.mass for volume in curve], rule)
    for volume in result.volumes:
        _point(axes, volume.cutoff, volume.mass, "nat")
    axes.set_ylabel("log V (nat)")
    axes.legend(fontsize=8)


def _band(axes: Axes, cutoffs: np.ndarray, curve: list[Estimate], rule: str) -> None:
    low, high = np.array([one.interval() for one in curve]).reshape(-1, 2).T
    axes.plot(cutoffs, [one.value for one in curve], color=BLUE, linewidth=1.6)
    axes.fill_between(cutoffs, low, high, color=BLUE, alpha=0.25, linewidth=0, label=rule)


def _point(axes: Axes, cutoff: float, found: Estimate, unit: str) -> None:
    """One of the cutoffs asked for, its numbers in the legend; hollow where its error is unknown."""
    reach, known = bars([found.value], [found.interval()])
    label = f"T = {cutoff:g}: {with_ends(found.value, found.interval())} {unit}".rstrip()
    face = VERMILLION if known.all() else "white"
    axes.errorbar([cutoff], [found.value], reach, fmt="o", color=VERMILLION, mfc=face, label=label, ms=5)


def _rungs(axes: Axes, result: BridgeResult) -> None:
    numbers = np.arange(1, len(result.rungs))
    found = result.diagnostics
    for name, values, marker, colour in (
        ("cost", found.rhat_cost, "o", BLUE),
        ("distance", found.rhat_square, "s", ORANGE),
    ):
        missing = [str(number) for number in numbers[~np.isfinite(values)]]
        beside = f" (not known at rung {', '.join(missing)})" if missing else ""
        axes.plot(numbers, values, marker, color=colour, ms=4, label=f"R-hat of the {name}{beside}")
    axes.axhline(LARGEST_RHAT, color=GREY, linestyle="--", linewidth=1.0)
    axes.set_xlabel("rung")
    axes.set_ylabel("R-hat")
    # Above the panel: inside it would hide some of the many points.
    axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, frameon=False)
