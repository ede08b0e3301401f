"""The figure of a trajectory: log-volume against training step, a panel a method, a line a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basinscope.trajectory import TrajectoryPoint
from spectra.errors import UserError
from spectra.plots import BLUE, GREEN, ORANGE, SKY, VERMILLION

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY)
_MARKERS = ("o", "s", "D", "^", "v")


def trajectory_figure(points: Sequence[TrajectoryPoint]) -> Figure:
    """The figure of a trajectory.

    Args:
        points: the checkpoints with their volumes.

    Returns:
        The figure.

    Raises:
        UserError: if no checkpoint has a volume.
    """
    done = [point for point in points if point.study is not None]
    methods = list(dict.fromkeys(name for point in done if point.study for name in point.study.results))
    if not methods:
        raise UserError("no checkpoint of the trajectory has a volume: nothing to draw")
    figure = Figure(figsize=(8.0, 1.2 + 2.6 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    study = done[0].study
    assert study is not None
    unit = study.provenance.cost_unit
    figure.suptitle(
        f"Basin volume along training, prior {study.settings.prior}\nn = {study.size:,} parameters, "
        f"{study.provenance.cost} below {study.settings.cutoff:g} {unit} on {study.samples:,.0f} samples",
        fontsize=11,
    )
    grid = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
    for axes, method in zip(grid, methods, strict=True):
        _panel(axes, done, method)
    grid[-1].set_xlabel("training step (linear up to 1, logarithmic beyond)")
    return figure


def _panel(axes: Axes, points: list[TrajectoryPoint], method: str) -> None:
    runs = list(dict.fromkeys(point.run for point in points))
    bound = False
    for number, run in enumerate(runs):
        rows = []
        for place, point in enumerate(one for one in points if one.run == run):
            result = None if point.study is None else point.study.results.get(method)
            if result is not None and np.isfinite(result.log_volume):
                half = result.half_width if result.trusted and np.isfinite(result.half_width) else 0.0
                bound |= result.sampled is not None and not result.trusted
                rows.append((place if point.step is None else point.step, result.log_volume, half))
        if rows:
            steps, values, halves = np.array(sorted(rows)).T
            colour, marker = _COLOURS[number % 5], _MARKERS[number // 5 % 5]
            axes.errorbar(steps, values, halves, color=colour, marker=marker, ms=4, capsize=2, label=run)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_title(f"{method}{', lower bounds' if bound else ''}", fontsize=10)
    axes.set_ylabel("log V (nat)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2 if len(runs) > 4 else 1)
