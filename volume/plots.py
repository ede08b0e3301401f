"""The figure of a volume study: what each direction says, and what it adds up to."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectra.errors import UserError
from spectra.files import counted
from spectra.interval import interval_label, over_probes
from spectra.members import stated
from spectra.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from volume.method_result import MethodResult
from volume.result import VolumeEstimate
from volume.study import VolumeStudy

_INKS = {
    "blue": BLUE,
    "orange": ORANGE,
    "sky": SKY,
    "vermillion": VERMILLION,
    "green": GREEN,
    "purple": PURPLE,
    "grey": GREY,
}
COLOURS = {name: _INKS[row.constants.get("colour", "grey")] for name, row in stated("volume.methods").items()}
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
    found = [result for result in study.results.values() if not result.failure]
    panels = {kind: [r for r in found if r.kind == kind] for kind in _MEANING}
    shown = {kind: results for kind, results in panels.items() if results}
    if not shown:
        raise UserError("the study holds no result yet: nothing to draw")
    figure = Figure(figsize=(8.0, 1.0 + 3.2 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    name, settings = study.provenance.name, study.settings
    figure.suptitle(
        f"Basin volume of {name}\nn = {counted(study.size, 'parameter')}, {study.provenance.cost} below "
        f"{settings.cutoff:g} {study.provenance.cost_unit} on {counted(round(study.samples), 'sample')}",
        fontsize=11,
    )
    for place, (kind, results) in enumerate(shown.items()):
        axes = figure.add_subplot(len(shown), 1, place + 1)
        _panel(axes, results)
        axes.set_xlabel(_MEANING[kind])
        if place == 0:
            _name_failures(axes, [result.method for result in study.results.values() if result.failure])
        measure = results[0].measure
        axes.set_title(f"prior {measure}" if kind == "mass" else "Lebesgue measure", fontsize=10)
    return figure


def draw_study(axes: Axes, study: VolumeStudy, *, kind: str | None = None) -> None:
    """One panel of ``volume_figure`` on someone's own axes.

    Args:
        axes: where.
        study: the study.
        kind: ``mass`` or ``volume``; by default masses where there are any.

    Raises:
        UserError: if the study holds no result of that kind.
    """
    kinds = _MEANING if kind is None else (kind,)
    found = [[one for one in study.results.values() if not one.failure and one.kind == each] for each in kinds]
    results = next((part for part in found if part), None)
    if results is None:
        raise UserError(f"the study holds no {kind or 'result'} to draw")
    _panel(axes, results)
    axes.set_xlabel(_MEANING[results[0].kind])


def draw_terms(axes: Axes, sampled: VolumeEstimate) -> None:
    """The log terms of the directions on someone's own axes, and the log of their mean.

    Args:
        axes: where.
        sampled: the estimate.
    """
    _panel(axes, [MethodResult(sampled.method, "lebesgue", sampled=sampled)])
    axes.set_xlabel("log volume (nat)")


def _name_failures(axes: Axes, methods: list[str]) -> None:
    """Methods of the table that have no value to draw."""
    if methods:
        for method in methods:
            axes.plot([], [], " ", label=f"{method}: no value")
        axes.legend(fontsize=8, loc="best")


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
    colour = COLOURS.get(result.method, BLUE)
    endless = len(terms) - len(kept)
    label = f"{', '.join(filter(None, (result.method, result.preconditioner)))}: {counted(len(kept), 'direction')}"
    label += f" ({endless} without end not drawn)" if endless else ""
    if len(kept):
        axes.hist(kept, bins=BINS, color=colour, alpha=0.6, label=label)
    else:
        axes.plot([], [], color=colour, label=label)
    carry = f"{result.sampled.largest_share:.0%} is one direction's"
    if result.trusted:
        over = f"{result.sampled.effective_samples:.3g} directions that carry it"
        _value(axes, result, f"log of their mean, {carry}:", over, linestyle="--")
    else:
        # The bootstrap's error means nothing where few directions carry the sum.
        words = f"log of their mean, {carry}: {result.text}"
        if np.isfinite(result.log_volume):
            axes.axvline(result.log_volume, color=colour, linestyle="--", linewidth=1.8, label=words)
        else:
            axes.plot([], [], color=colour, linestyle="--", label=f"{words}, not drawn")


def _line(axes: Axes, result: MethodResult) -> None:
    assert result.estimate is not None
    _value(axes, result, f"{result.method}:", over_probes(len(result.estimate.samples)))


def _value(axes: Axes, result: MethodResult, name: str, over: str, linestyle: str = "-") -> None:
    """A log-volume with its interval; what cannot be drawn is named."""
    (low, high), value, colour = result.known.interval(), result.log_volume, COLOURS.get(result.method, BLUE)
    words = f"{name} {result.text}"
    if not np.isfinite(value):
        axes.plot([], [], color=colour, linestyle=linestyle, label=f"{words}, not drawn")
        return
    axes.axvline(value, color=colour, linewidth=1.8, linestyle=linestyle, label=words)
    if low < high and np.isfinite(high - low):
        axes.axvspan(low, high, color=colour, alpha=0.25, linewidth=0, label=interval_label(over))
