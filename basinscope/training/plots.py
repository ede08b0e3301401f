"""Figures of a tracked training run: eigenvalues against the stability limit, traces, noise, mass and cost by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basinscope.choices import one_of
from basinscope.training.curves import TrainingCurves
from basinscope.training.reading import COLUMNS
from spectra.errors import UserError
from spectra.files import counted
from spectra.interval import interval_label
from spectra.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, literal

_SHADES = (BLUE, SKY, GREY)
_STYLE: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.0}


def training_figure(curves: TrainingCurves) -> Figure:
    """The figure of a training run, a panel for each quantity that was tracked.

    Args:
        curves: at least one step recorded.

    Returns:
        The figure.

    Raises:
        UserError: if no step is recorded.
    """
    shown = [name for name in PANELS if _drawable(curves, name)]
    if not shown:
        raise UserError("no step is recorded: nothing to draw")
    lines = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(10.0, 0.8 + 2.9 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(literal(curves._title()), fontsize=11)
    for place, name in enumerate(shown):
        draw_curves(figure.add_subplot(lines, min(2, len(shown)), place + 1), curves, panel=name)
    return figure


def draw_curves(axes: Axes, curves: TrainingCurves, *, panel: str = "eigenvalues") -> None:
    """One panel of :func:`training_figure` on someone's own axes.

    Args:
        axes: where.
        curves: at least one step recorded.
        panel: one of ``PANELS``.

    Raises:
        UserError: if the panel is unknown, or has no value.
    """
    one_of("panel", panel, PANELS)
    if not _drawable(curves, panel):
        raise UserError(f"{panel} has no value: nothing to draw")
    if panel == "eigenvalues":
        _eigenvalues(axes, curves)
    elif panel == "adam":
        _line(axes, curves, "preconditioned_eigenvalue", "largest eigenvalue in Adam's units", VERMILLION)
        _limit(axes, curves, "preconditioned_limit", "stability limit of Adam")
        axes.set_ylabel("eigenvalue (1)")
    else:
        for name, label, colour in PANELS[panel][1]:
            _line(axes, curves, name, label, colour)
        axes.set_ylabel(PANELS[panel][0].format(unit=curves.provenance.cost_unit))
    axes.set_xlabel("optimizer step")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


# Of each panel the axis and the curves: field, name in the legend, colour; those of two panels are drawn by name.
PANELS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "eigenvalues": ("eigenvalue", ()),
    "adam": ("eigenvalue", ()),
    "traces": (
        "trace ({unit} / parameter²)",
        (
            ("trace", "trace of the Hessian", BLUE),
            ("gauss_newton_trace", "trace of the Gauss-Newton matrix", ORANGE),
        ),
    ),
    "noise": (
        "trace (({unit} / parameter)²)",
        (("gradient_noise", "trace of the covariance of the samples' gradients", GREEN),),
    ),
    "mass": ("log mass (nat)", (("log_mass", "quadratic mass", PURPLE),)),
    "cost": ("cost on the tracked data ({unit})", (("cost", "cost", BLUE),)),
}
_OF_OWN = {"eigenvalues": "gauss_newton_largest", "adam": "preconditioned_eigenvalue"}


def _drawable(curves: TrainingCurves, panel: str) -> bool:
    names = [_OF_OWN[panel]] if panel in _OF_OWN else [name for name, _, _ in PANELS[panel][1]]
    found = any(np.isfinite(curves.column(name)).any() for name in names)
    return found or (panel == "eigenvalues" and bool(np.isfinite(curves.eigenvalues).any()))


def _eigenvalues(axes: Axes, curves: TrainingCurves) -> None:
    steps, values = curves.steps, curves.eigenvalues
    for number in reversed(range(values.shape[1])):
        if np.isfinite(values[:, number]).any():
            label = {0: "largest eigenvalue of the Hessian", 1: "the next eigenvalues"}.get(number)
            colour = _SHADES[min(number, len(_SHADES) - 1)]
            axes.plot(steps, values[:, number], color=colour, label=label, **_STYLE)
    if np.isfinite(curves.column("gauss_newton_largest")).any():
        _line(axes, curves, "gauss_newton_largest", "largest of the Gauss-Newton matrix", ORANGE)
    _limit(axes, curves, "stability_limit", "stability limit")
    axes.set_ylabel(f"eigenvalue ({curves.provenance.cost_unit} / parameter²)")


def _limit(axes: Axes, curves: TrainingCurves, name: str, label: str) -> None:
    """A limit, where it does not lie far above all that it limits."""
    limit = curves.column(name)
    if not np.isfinite(limit).any():
        return
    low, high = axes.get_ylim()
    axes.plot(curves.steps, limit, color="black", linestyle="--", linewidth=1.0, label=label)
    if np.nanmin(limit) > 5.0 * high:
        axes.set_ylim(low, high)


def _line(axes: Axes, curves: TrainingCurves, name: str, label: str, colour: str) -> None:
    values = curves.column(name)
    if not np.isfinite(values).any():
        return
    axes.plot(curves.steps, values, color=colour, label=label, **_STYLE)
    half = curves.column(f"{name}_half_width") if f"{name}_half_width" in COLUMNS else np.zeros(len(values))
    if (half > 0.0).any():
        over = "rows of the data" if name == "gradient_noise" else counted(curves.settings.probes, "probe")
        band = interval_label(over)
        axes.fill_between(curves.steps, values - half, values + half, color=colour, alpha=0.2, linewidth=0, label=band)
