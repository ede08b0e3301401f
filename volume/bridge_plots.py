"""The figure of a bridge: log V against T from one ladder, its slope, and whether the chains of each rung agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectra.plots import BLUE, GREY, ORANGE, VERMILLION
from volume.bridge_cautions import LARGEST_RHAT
from volume.bridge_result import BridgeResult, BridgeVolume

# What a ladder begins at, in words.
ORIGIN = {"prior": "the prior", "quadratic": "the checkpoint's quadratic model"}
# Half of a 95 % interval of a normal, in standard errors.
_NORMAL = 1.959963984540054


def bridge_figure(result: BridgeResult, *, checkpoint: str = "", unit: str = "cost") -> Figure:
    """The figure of a complete bridge.

    Args:
        result: the bridge.
        checkpoint: of what, for the title.
        unit: of the cost.

    Returns:
        Three panels: log-volume across cutoffs with its 95 % band, the slope likewise, R-hat of every rung.

    Raises:
        UserError: if the bridge is not complete.
    """
    curve = result.curve()
    figure = Figure(figsize=(8.0, 9.0), layout="constrained")
    FigureCanvasAgg(figure)
    of = f" of {Path(checkpoint).name}" if checkpoint else ""
    figure.suptitle(
        f"Bridge{of}: {result.settings.target} from {ORIGIN[result.settings.origin]}, n = {result.size:,}\n"
        f"{len(result.rungs) - 1} rungs, {result.rungs[1].chains} chains, {result.gradient_evaluations:,} gradients",
        fontsize=11,
    )
    above, middle, beneath = figure.subplots(3, 1, height_ratios=(3, 3, 2))
    middle.sharex(above)
    cutoffs = np.array([volume.cutoff for volume in curve])
    _band(above, cutoffs, curve, "log_volume", "standard_error")
    _band(middle, cutoffs, curve, "slope", "slope_error")
    for volume in result.volumes:
        half = _NORMAL * volume.standard_error
        label = f"T = {volume.cutoff:g}: {volume.log_volume:,.1f} ± {half:.1f} nat"
        above.errorbar([volume.cutoff], [volume.log_volume], [half], fmt="o", color=VERMILLION, label=label, ms=5)
    above.set_ylabel("log V (nat)")
    above.legend(fontsize=8)
    middle.set_ylabel("slope d log V / d log T\n(learning coefficient by volume)")
    middle.set_xlabel(f"cutoff T ({unit})")
    middle.set_xscale("log")
    _rungs(beneath, result)
    for axes in (above, middle, beneath):
        axes.grid(alpha=0.25)
    return figure


def _band(axes: Axes, cutoffs: np.ndarray, curve: tuple[BridgeVolume, ...], name: str, error: str) -> None:
    values = np.array([getattr(volume, name) for volume in curve])
    half = _NORMAL * np.array([getattr(volume, error) for volume in curve])
    axes.plot(cutoffs, values, color=BLUE, linewidth=1.6)
    axes.fill_between(cutoffs, values - half, values + half, color=BLUE, alpha=0.25, linewidth=0)


def _rungs(axes: Axes, result: BridgeResult) -> None:
    numbers = np.arange(1, len(result.rungs))
    found = result.diagnostics
    axes.plot(numbers, found.rhat_cost, "o", color=BLUE, ms=4, label="R-hat of the cost")
    axes.plot(numbers, found.rhat_square, "s", color=ORANGE, ms=4, label="R-hat of the distance")
    axes.axhline(LARGEST_RHAT, color=GREY, linestyle="--", linewidth=1.0)
    axes.set_xlabel("rung")
    axes.set_ylabel("R-hat")
    axes.legend(fontsize=8)
