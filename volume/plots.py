"""The figure of a volume study: what each direction says, and what it adds up to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectra.errors import UserError
from spectra.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from volume.method_result import MethodResult
from volume.study import VolumeStudy

COLOURS = {
    "star-domain": BLUE,
    "ellipsoid-slice": ORANGE,
    "ellipsoid-slice-corrected": SKY,
    "quadratic-mass": VERMILLION,
    "shifted-determinant": GREEN,
    "segment": PURPLE,
}
BINS = 40
_MEANING = {
    "mass": "log of the prior's mass (nat)",
    "volume": "log of the Lebesgue volume (nat)",
}


def volume_figure(study: VolumeStudy) -> Figure:
    """The figure of a study: a panel for masses under the prior, one for Lebesgue volumes.

    Histograms are of the directions' log terms; a dashed line at the right edge of each is the log of their mean. The
    determinants' values are full lines, with their 95 % interval as a band.

    Args:
        study: the study.

    Returns:
        The figure.

    Raises:
        UserError: if the study holds no result.
    """
    panels = {kind: [r for r in study.results.values() if r.kind == kind] for kind in _MEANING}
    shown = {kind: results for kind, results in panels.items() if results}
    if not shown:
        raise UserError("the study holds no result yet: nothing to draw")
    figure = Figure(figsize=(8.0, 1.0 + 3.2 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    name, settings = Path(study.provenance.checkpoint).name, study.settings
    figure.suptitle(
        f"Basin volume of {name}\nn = {study.size:,} parameters, {study.provenance.cost} below "
        f"{settings.cutoff:g} {study.provenance.cost_unit} on {study.samples:,.0f} samples",
        fontsize=11,
    )
    for place, (kind, results) in enumerate(shown.items()):
        axes = figure.add_subplot(len(shown), 1, place + 1)
        _panel(axes, results)
        axes.set_xlabel(_MEANING[kind])
        measure = results[0].measure
        axes.set_title(f"prior {measure}" if kind == "mass" else "Lebesgue measure", fontsize=10)
    return figure


def _panel(axes: Axes, results: list[MethodResult]) -> None:
    samplers = [result for result in results if result.sampled is not None]
    for result in samplers:
        _histogram(axes, result)
    for result in results:
        if result.estimate is not None:
            _line(axes, result)
    if samplers:
        axes.set_ylabel("directions")
        # Room for the legend above the tallest bar.
        axes.set_ylim(top=1.5 * axes.get_ylim()[1])
    else:
        axes.set_yticks([])
    axes.margins(x=0.05)
    axes.legend(fontsize=8, loc="best")


def _histogram(axes: Axes, result: MethodResult) -> None:
    assert result.sampled is not None
    terms = result.sampled.log_terms
    kept = terms[np.isfinite(terms)]
    colour = COLOURS[result.method]
    endless = len(terms) - len(kept)
    label = f"{result.method}, {result.preconditioner}: {len(kept):,} directions"
    label += f" ({endless} without end not drawn)" if endless else ""
    if len(kept):
        axes.hist(kept, bins=BINS, color=colour, alpha=0.6, label=label)
    else:
        axes.plot([], [], color=colour, label=label)
    if np.isfinite(result.log_volume):
        label = f"log of their mean {result.log_volume:,.1f}: {result.sampled.largest_share:.0%} is one direction's"
        axes.axvline(result.log_volume, color=colour, linestyle="--", linewidth=1.8, label=label)


def _line(axes: Axes, result: MethodResult) -> None:
    half, value, colour = result.half_width, result.log_volume, COLOURS[result.method]
    if not np.isfinite(value):
        axes.plot([], [], color=colour, label=f"{result.method}: without end, not drawn")
        return
    error = f" ± {half:.2g}" if np.isfinite(half) and half > 0.0 else ""
    axes.axvline(value, color=colour, linewidth=1.8, label=f"{result.method} {value:,.1f}{error}")
    if error:
        axes.axvspan(value - half, value + half, color=colour, alpha=0.25, linewidth=0)
    elif not np.isfinite(half):
        axes.axvline(value, color=GREY, linewidth=0.8, linestyle=":", label="error unknown (one probe)")
