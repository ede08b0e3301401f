"""The figure of a trajectory: log-volume against training step, a panel a method, a line a run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basinscope.cli.trajectory import TrajectoryPoint, methods_of
from spectra.errors import UserError
from spectra.files import counted
from spectra.interval import bars, interval_label
from spectra.plots import BLUE, GREEN, ORANGE, SKY, VERMILLION

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY)
LEVEL_WORDS = interval_label("probes or directions")
_MARKERS = ("o", "s", "D", "^", "v")


def trajectory_figure(points: Sequence[TrajectoryPoint]) -> Figure:
    """The figure of a trajectory."""
    done = [point for point in points if point.study is not None]
    methods = methods_of(points)
    if not methods:
        raise UserError("no checkpoint of the trajectory has a volume: nothing to draw")
    figure = Figure(figsize=(8.0, 1.2 + 2.6 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    study = done[0].study
    assert study is not None
    unit = study.provenance.cost_unit
    figure.suptitle(
        f"Basin volume along training, prior {study.settings.prior}\nn = {counted(study.size, 'parameter')}, "
        f"{study.provenance.cost} below {study.settings.cutoff:g} {unit} on {counted(round(study.samples), 'sample')}",
        fontsize=11,
    )
    grid = np.atleast_1d(figure.subplots(len(methods), 1, sharex=True))
    for axes, method in zip(grid, methods, strict=True):
        _panel(axes, points, method)
    grid[-1].set_xlabel("training step (linear up to 1, logarithmic beyond)")
    return figure


def _panel(axes: Axes, points: Sequence[TrajectoryPoint], method: str) -> None:
    runs = list(dict.fromkeys(point.run for point in points))
    bound, hollow, missing = False, False, []
    for number, run in enumerate(runs):
        rows = []
        for place, point in enumerate(one for one in points if one.run == run):
            result = None if point.study is None else point.study.results.get(method)
            if result is None or not np.isfinite(result.log_volume):
                missing.append(point.checkpoint.name)
                continue
            bound |= result.sampled is not None and not result.trusted
            # A bound has no error: the bootstrap's means nothing where few directions carry the sum.
            sure = result.sampled is None or result.trusted
            low, high = result.known.interval() if sure else (result.log_volume, result.log_volume)
            rows.append((place if point.step is None else point.step, result.log_volume, low, high, result.trusted))
        if rows:
            steps, values, low, high, trusted = np.array(sorted(rows)).T
            reach, known = bars(values, zip(low, high, strict=True))
            colour, marker = _COLOURS[number % 5], _MARKERS[number // 5 % 5]
            axes.errorbar(steps, values, reach, color=colour, marker=marker, ms=4, capsize=2, label=run)
            open_ones = (trusted == 0.0) | ~known
            hollow |= bool(open_ones.any())
            axes.plot(steps[open_ones], values[open_ones], marker, color=colour, mfc="white", ms=4, zorder=3)
    axes.set_xscale("symlog", linthresh=1.0)
    words = [LEVEL_WORDS] + ["lower bounds"] * bound + ["hollow: a caution, or an unknown error"] * hollow
    words += [f"without a value: {', '.join(missing)}"] if missing else []
    axes.set_title("\n".join(textwrap.wrap(f"{method}; {'; '.join(words)}", 100)), fontsize=9)
    axes.set_ylabel("log V (nat)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2 if len(runs) > 4 else 1)
