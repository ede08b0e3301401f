"""Figures of rankings: how well each measure orders the checkpoints, and which measures order them alike."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from comparisons.measures import REGISTRY
from comparisons.statistics.clusters import Agreement
from comparisons.statistics.rankings import Ranking
from spectra.plots import BLUE, GREY

LEVEL = 0.05


def ranking_figure(rankings: Sequence[Ranking], against: str) -> Figure:
    """Kendall's tau of each measure with its 95 % interval, the largest above; hollow where chance may do it.

    Args:
        rankings: at least one ranking.
        against: the target.

    Returns:
        The figure.
    """
    titles = {measure.name: measure.title for measure in REGISTRY}
    ordered = sorted(rankings, key=lambda one: one.tau)
    figure = Figure(figsize=(8.0, 1.2 + 0.2 * len(ordered)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, one in enumerate(ordered):
        sure = one.p_holm < LEVEL
        low, high = one.tau_interval
        if math.isfinite(low):
            axes.plot([low, high], [place, place], color=BLUE if sure else GREY, lw=1.2)
        axes.plot(one.tau, place, "o", ms=5, color=BLUE if sure else GREY, mfc=BLUE if sure else "white")
    axes.axvline(0.0, color="black", lw=0.8)
    names = [titles.get(one.measure, one.measure) for one in ordered]
    unknown = ["" if math.isfinite(one.tau_interval[0]) else " (interval unknown)" for one in ordered]
    axes.set_yticks(range(len(ordered)), [a + b for a, b in zip(names, unknown, strict=True)], fontsize=7)
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_xlim(-1.05, 1.05)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"Kendall's tau with {against}, 95 % interval (filled: p < {LEVEL:g} after Holm's correction)", fontsize=8
    )
    axes.tick_params(axis="x", labelsize=8)
    return figure


def agreement_figure(found: Agreement) -> Figure:
    """The matrix of Kendall's tau between measures, similar ones next to each other.

    Args:
        found: the agreement.

    Returns:
        The figure.
    """
    titles = {measure.name: measure.title for measure in REGISTRY}
    names = [titles.get(name, name) for name in found.names]
    side = 3.0 + 0.17 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(found.taus, vmin=-1.0, vmax=1.0, cmap="RdBu")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    start = 0
    for group in found.groups:
        end = start + len(group)
        if len(group) > 1:
            edges = [start - 0.5, end - 0.5, end - 0.5, start - 0.5, start - 0.5]
            axes.plot(edges, [edges[0], edges[0], edges[1], edges[1], edges[0]], color="black", lw=1.0)
        start = end
    if found.left_out:
        missing = ", ".join(titles.get(name, name) for name in found.left_out)
        words = "\n".join(textwrap.wrap(f"without rank, not drawn: {missing}", 30 + 2 * len(names)))
        figure.supxlabel(words, fontsize=6)
    bar = figure.colorbar(image, ax=axes, shrink=0.6)
    bar.set_label("Kendall's tau between measures, each turned so that smaller is flatter", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure
