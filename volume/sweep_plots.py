"""The figure of a sweep: log-volume against cutoff, and its slope, half the dimensions that bound the basin."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spectra.errors import UserError
from spectra.files import counted
from spectra.interval import interval_label, over_probes
from spectra.members import stated
from spectra.plots import GREY
from volume.plots import COLOURS
from volume.study import VolumeStudy
from volume.sweep import CutoffSweep

SMALLEST = 0.01
_MARKERS = {name: row.constants.get("marker", ".") for name, row in stated("volume.methods").items()}


def sweep_figure(study: VolumeStudy) -> Figure:
    """The figure of a study's sweep.

    Above, the log-volume by each method with its 95 % interval; beneath, the local slope, with n/2 (a quadratic basin
    under Lebesgue measure) and, dotted, half the effective dimension that the spectrum tells.

    Args:
        study: a study with a sweep.

    Returns:
        The figure.

    Raises:
        UserError: if the study holds no sweep.
    """
    if study.sweep is None or not study.sweep.results:
        raise UserError("the study holds no sweep over cutoffs: nothing to draw")
    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Basin volume of {study.provenance.name} across cutoffs\n"
        f"n = {counted(study.size, 'parameter')}, {study.provenance.cost} on "
        f"{counted(round(study.samples), 'sample')}, {study.provenance.dtype}",
        fontsize=11,
    )
    above, beneath = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for method in study.sweep.results:
        _volumes(above, study.sweep, method)
        _slopes(beneath, study.sweep, method)
    for method in study.failures:
        above.plot([], [], " ", label=f"{method}: no value")
    unit = study.provenance.cost_unit
    above.set_ylabel("log V (nat)")
    beneath.set_ylabel("slope d log V / d log T")
    beneath.set_xlabel(f"cutoff T ({unit})")
    beneath.axhline(study.size / 2.0, color=GREY, linestyle="--", linewidth=1.0, label="n/2: quadratic, Lebesgue")
    beneath.set_xscale("log")
    beneath.set_yscale("log")
    for axes in (above, beneath):
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    return figure


def _volumes(axes: Axes, sweep: CutoffSweep, method: str) -> None:
    values, (low, high), colour = sweep.log_volumes(method), sweep.intervals(method).T, COLOURS[method]
    result = sweep.results[method][0]
    bound = "" if all(one.trusted for one in sweep.results[method]) or result.sampled is None else ", a lower bound"
    kept = np.isfinite(values)
    label = f"{method} ({result.kind}{bound}){_missing(kept, 'infinite or unknown')}"
    axes.plot(sweep.cutoffs[kept], values[kept], color=colour, marker=_MARKERS[method], ms=4, label=label)
    # The bootstrap's error means nothing where few directions carry the sum.
    trusted = np.array([one.sampled is None or one.trusted for one in sweep.results[method]])
    known = kept & np.isfinite(high - low) & trusted
    if known.any() and (high > low)[known].any():
        over = "directions that carry it" if result.estimate is None else over_probes(len(result.estimate.samples))
        shade = axes.fill_between(sweep.cutoffs[known], low[known], high[known], color=colour, alpha=0.25, linewidth=0)
        shade.set_label(interval_label(over))


def _missing(kept: NDArray[np.bool_], why: str) -> str:
    """What a line leaves out, for its legend."""
    return "" if kept.all() else f", {int((~kept).sum())} of {len(kept)} not drawn: {why}"


def _slopes(axes: Axes, sweep: CutoffSweep, method: str) -> None:
    slopes, colour = sweep.slopes(method), COLOURS[method]
    # Saturated volumes have slopes of rounding, which a logarithmic axis would show as structure.
    kept = np.isfinite(slopes) & (slopes > SMALLEST)
    label = f"{method}{_missing(kept, f'unknown or below {SMALLEST:g}')}"
    axes.plot(sweep.cutoffs[kept], slopes[kept], color=colour, marker=_MARKERS[method], ms=4, label=label)
    if method == "quadratic-mass":
        half = sweep.half_effective_dimensions(method)
        label = "half the effective dimension"
        axes.plot(
            sweep.cutoffs, np.where(half > 0.0, half, np.nan), color=colour, linestyle=":", linewidth=1.8, label=label
        )
