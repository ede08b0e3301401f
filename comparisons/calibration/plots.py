"""The figure of a calibration: heat maps of what was sampled, with the spectrum's prediction drawn over them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes as Panel
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from comparisons.calibration.calibration import Calibration
from comparisons.calibration.cell import LARGEST_BIAS, Cell
from comparisons.langevin import LEAST_ACCEPTED
from spectra.errors import UserError
from spectra.files import counted
from spectra.interval import short
from spectra.plots import ORANGE, VERMILLION

Array = NDArray[np.float64]
WIDTH, HEIGHT = 3.6, 2.5
# Letters of the title that an inch has room for, and inches that a column of the legend takes.
_LETTERS, _LEGEND_WIDTH = 11.5, 3.7
# Points of the prediction along each axis.
_FINE = 60
# Values a panel names by text: of more the colour has to do.
_MOST_NAMED = 8
# Rows of cells that have room for more than a line each.
_MOST_LINED = 4


def calibration_figure(found: Calibration) -> Figure:
    """The figure of a complete calibration: a column an inverse temperature, a row a quantity.

    Above, the estimates with the predicted values as contours over them; then estimate over prediction, R-hat and the
    acceptance. Hatched cells are not sound; the chosen one has a thick frame, its plateau a thin one.

    Args:
        found: a complete calibration.

    Returns:
        The figure.

    Raises:
        UserError: if no cell has an estimate.
    """
    temperatures = found.axes.inverse_temperatures
    panels = _quantities(found)
    size = (1.6 + WIDTH * len(temperatures), 1.9 + HEIGHT * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(found, round(_LETTERS * size[0])), fontsize=10)
    lines = [_prediction(found, column) for column in range(len(temperatures))]
    grid = figure.subplots(len(panels), len(temperatures), squeeze=False, sharex=len(found.axes.shares) != 0)
    for line, (name, value, text, norm, colours) in enumerate(panels):
        for column in range(len(temperatures)):
            panel = grid[line, column]
            drawn = _panel(panel, found, column, value, text, norm, colours)
            _predicted(panel, lines[column], contours=line == 0)
            if line == 0:
                grid[line, column].set_title(f"samples × inverse temperature {temperatures[column]:.4g}", fontsize=9)
            if line == len(panels) - 1:
                grid[line, column].set_xlabel(_step_label(found), fontsize=8)
        grid[line, 0].set_ylabel("localisation (1 / parameter²)", fontsize=8)
        bar = figure.colorbar(drawn, ax=list(grid[line]), pad=0.01, aspect=18)
        bar.set_label(name, fontsize=8)
        bar.ax.tick_params(labelsize=7, which="both")
    columns = max(1, int(size[0] / _LEGEND_WIDTH))
    figure.legend(handles=_legend(found), loc="outside lower center", ncols=columns, fontsize=7.5, frameon=False)
    return figure


def draw_calibration(panel: Panel, found: Calibration, *, temperature: int | None = None) -> None:
    """The estimates of one inverse temperature on someone's own axes.

    Args:
        panel: where.
        found: a complete calibration.
        temperature: its number; None for that of the chosen cell, else the middle one.

    Raises:
        UserError: if the number is out of range, or no cell has an estimate.
    """
    count = len(found.axes.inverse_temperatures)
    cell = found.verdict.cell
    usual = count // 2 if cell is None else cell.place[0]
    column = usual if temperature is None else temperature
    if not 0 <= column < count:
        raise UserError(f"temperature must lie between 0 and {count - 1}, got {temperature}")
    _, value, text, norm, colours = _quantities(found)[0]
    _panel(panel, found, column, value, text, norm, colours)
    _predicted(panel, _prediction(found, column), contours=True)
    panel.set_title(f"samples × inverse temperature {found.axes.inverse_temperatures[column]:.4g}", fontsize=9)
    panel.set_xlabel(_step_label(found))
    panel.set_ylabel("localisation (1 / parameter²)")


Quantity = tuple[str, Callable[[Cell], float], Callable[[Cell], str], Normalize, str]


def _quantities(found: Calibration) -> list[Quantity]:
    """What the rows of panels show: name, number, text, scale and colours."""
    finite = [cell for cell in found.cells if math.isfinite(cell.estimate.value)]
    if not finite:
        raise UserError("no cell has an estimate: all chains ran away, so there is nothing to draw")
    values = [cell.estimate.value for cell in finite if cell.sound] or [cell.estimate.value for cell in finite]
    low, high = min(values), max(values)
    norm = LogNorm(low, max(high, 1.02 * low)) if low > 0.0 else Normalize(low, max(high, low + 1e-12))
    return [
        ("local learning coefficient", lambda cell: cell.estimate.value, _estimated, norm, "viridis"),
        ("sampled / predicted", _ratio, lambda cell: _figures(_ratio(cell)), TwoSlopeNorm(1.0, 0.5, 2.0), "PuOr"),
        ("R-hat", lambda cell: cell.chains.scale_reduction, _rhat, Normalize(1.0, 1.1), "YlOrRd"),
        ("acceptance", lambda cell: cell.chains.mean_acceptance, _accepted, Normalize(0.0, 1.0), "cividis"),
    ]


def _ratio(cell: Cell) -> float:
    return cell.estimate.value / cell.outlook.value if cell.outlook.value > 0.0 else math.nan


def _estimated(cell: Cell) -> str:
    value, half = cell.estimate.value, cell.estimate.half_width()
    return f"{_figures(value)}\n± {half:.2g}\n({_figures(cell.outlook.value)})" if math.isfinite(value) else "failed"


def _rhat(cell: Cell) -> str:
    return f"{cell.chains.scale_reduction:.3f}" if math.isfinite(cell.chains.scale_reduction) else "–"


def _accepted(cell: Cell) -> str:
    share = f"{cell.chains.mean_acceptance:.2f}" if math.isfinite(cell.chains.mean_acceptance) else "–"
    share += f"\n({cell.outlook.acceptance:.2f})" if math.isfinite(cell.outlook.acceptance) else ""
    return f"{share}\n{cell.failed_share:.0%} failed" if cell.failed_share else share


def _figures(value: float) -> str:
    return short(value) if math.isfinite(value) else "–"


def _panel(
    panel: Panel,
    found: Calibration,
    column: int,
    value: Callable[[Cell], float],
    text: Callable[[Cell], str],
    norm: Normalize,
    colours: str,
) -> Any:
    """One heat map."""
    across, up = _across(found, column), found.axes.localisations
    cells = [cell for cell in found.cells if cell.place[0] == column]
    table = np.full((len(up), len(across)), np.nan)
    for cell in cells:
        table[cell.place[1:]] = value(cell)
    wide, high = _edges(across), _edges(up)
    panel.set_xscale("log")
    panel.set_yscale("log")
    drawn = panel.pcolormesh(wide, high, np.ma.masked_invalid(table), norm=norm, cmap=colours)
    for cell in cells:
        _mark(panel, found, cell, text(cell), table, drawn, wide, high)
    _ticks(panel, across, up)
    panel.set_xlim(wide[0], wide[-1])
    panel.set_ylim(high[0], high[-1])
    return drawn


def _across(found: Calibration, column: int) -> Array:
    """Where the cells of a temperature lie along the axis of step sizes."""
    return found.axes.shares if len(found.axes.shares) else found.axes.step_sizes[column, 0]


def _edges(values: Array) -> Array:
    """Edges of cells around values at equal ratios."""
    logs = np.log(values)
    gaps = np.diff(logs) if len(values) > 1 else np.array([math.log(2.0)])
    inner = logs[:-1] + 0.5 * gaps if len(values) > 1 else np.empty(0)
    ends: Array = np.concatenate([[logs[0] - 0.5 * gaps[0]], inner, [logs[-1] + 0.5 * gaps[-1]]])
    return np.asarray(np.exp(ends))


def _mark(
    panel: Panel, found: Calibration, cell: Cell, text: str, table: Array, drawn: Any, wide: Array, high: Array
) -> None:
    """The text of a cell, what is not sound hatched, what was chosen framed."""
    _, up, across = cell.place
    corner, size = (wide[across], high[up]), (wide[across + 1] - wide[across], high[up + 1] - high[up])
    if not cell.sound:
        panel.add_patch(Rectangle(corner, *size, fill=False, hatch="////", edgecolor="#FFFFFF90", lw=0.0))
    chosen = found.verdict.chosen
    if chosen is not None and chosen.plateau is not None and cell in chosen.plateau.cells:
        thick = cell is chosen.plateau.middle
        style = {"edgecolor": VERMILLION, "lw": 3.0 if thick else 1.2, "zorder": 5 if thick else 4}
        panel.add_patch(Rectangle(corner, *size, fill=False, **style))  # type: ignore[arg-type]
    if table.shape[1] > _MOST_NAMED or table.shape[0] > _MOST_NAMED:
        return
    text = text if table.shape[0] <= _MOST_LINED else text.partition("\n")[0]
    shade = drawn.cmap(drawn.norm(table[up, across])) if math.isfinite(table[up, across]) else (1.0, 1.0, 1.0, 1.0)
    bright = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2] > 0.5
    middle = math.sqrt(wide[across] * wide[across + 1]), math.sqrt(high[up] * high[up + 1])
    panel.text(*middle, text, ha="center", va="center", fontsize=6.5, color="black" if bright else "white", zorder=6)


@dataclass(frozen=True, eq=False)
class _Prediction:
    """What the spectrum says on a mesh of step sizes and localisations.

    Attributes:
        across: (k, k) along the axis of step sizes.
        up: (k, k) localisations.
        values: (k, k) values; nan past the limit.
        lines: fields (k, k), each with the level that is drawn, its style and its colour.
    """

    across: Array
    up: Array
    values: Array
    lines: tuple[tuple[Array, float, str, str], ...]


def _prediction(found: Calibration, column: int) -> _Prediction:
    """Of one temperature, over its panel."""
    nb, outlook = float(found.axes.inverse_temperatures[column]), found.outlook
    wide, high = _edges(_across(found, column)), _edges(found.axes.localisations)
    across, up = np.meshgrid(np.geomspace(wide[0], wide[-1], _FINE), np.geomspace(high[0], high[-1], _FINE))
    limits = outlook.limits(nb, up)
    steps = across * limits if len(found.axes.shares) else across
    values, biases = outlook.values(nb, up, steps)
    logs = np.log(outlook.burn_ins(nb, up, steps) / found.settings.longest_burn_in)
    lines = ((steps / limits, 1.0, "-", VERMILLION), (biases, LARGEST_BIAS, "--", ORANGE), (logs, 0.0, ":", "black"))
    return _Prediction(across, up, values, lines)


def _predicted(panel: Panel, ahead: _Prediction, *, contours: bool) -> None:
    """The spectrum's lines: step limit, bias and burn-in; over the estimates the predicted values too."""
    for field, level, style, colour in ahead.lines:
        known = np.ma.masked_invalid(field)
        if known.count() and known.min() < level < known.max():
            drawn: dict[str, Any] = {"levels": [level], "colors": [colour], "linestyles": [style], "linewidths": 1.8}
            panel.contour(ahead.across, ahead.up, known, **drawn)
    shown = np.ma.masked_invalid(np.where(ahead.values > 0.0, ahead.values, np.nan))
    if contours and shown.count() and shown.max() > 1.01 * shown.min():
        levels = np.geomspace(shown.min(), shown.max(), 8)[1:-1]
        panel.contour(ahead.across, ahead.up, shown, levels=levels, colors="white", linewidths=0.7, alpha=0.7)


def _ticks(panel: Panel, across: Array, up: Array) -> None:
    """Ticks at the values of the grid."""
    for axis, values in ((panel.xaxis, across), (panel.yaxis, up)):
        step = max(1, len(values) // _MOST_NAMED)
        axis.set_major_locator(FixedLocator(list(values[::step])))
        axis.set_major_formatter(FixedFormatter([short(float(value)) for value in values[::step]]))
        axis.set_minor_locator(NullLocator())
    panel.tick_params(labelsize=7)


def _step_label(found: Calibration) -> str:
    return "step size / its limit by the spectrum" if len(found.axes.shares) else "step size (parameter²)"


def _title(found: Calibration, width: int) -> str:
    settings, spectrum = found.settings, found.spectrum
    penalty = f" with the penalty l2 = {found.ground.penalty:.3g}" if found.ground.penalty else ""
    made = (
        f"n = {spectrum.density.size:,} parameters, {found.provenance.cost}{penalty} on {spectrum.samples:,.0f} "
        f"samples; {counted(settings.calls, 'call')} of {counted(settings.chains, 'chain')} and "
        f"{settings.steps:,} steps a cell "
        f"({settings.sampler})"
    )
    lines = [f"Local learning coefficient of {found.provenance.name}", made, found.headline]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))


def _legend(found: Calibration) -> list[Any]:
    half, accepted = found.settings.longest_burn_in, found.settings.sampler == "mala"
    biased = Line2D([], [], color=ORANGE, ls="--", lw=1.8, label=f"the step adds {LARGEST_BIAS:.0%} by the spectrum")
    lines = [
        Line2D([], [], color="0.6", lw=0.9, label="contours, and in brackets: the spectrum's value"),
        *([] if accepted else [biased]),
        Line2D([], [], color="black", ls=":", lw=1.8, label=f"{half:,} steps of burn-in suffice right of it"),
        Patch(fill=False, hatch="////", edgecolor="0.6", label="not sound"),
    ]
    if accepted or not len(found.axes.shares):
        past = f"at most {LEAST_ACCEPTED:.0%} of steps accepted" if accepted else "chains diverge"
        lines.append(Line2D([], [], color=VERMILLION, lw=1.8, label=f"step limit by the spectrum: {past}"))
    if found.verdict.cell is not None:
        lines.append(Patch(fill=False, edgecolor=VERMILLION, lw=2.5, label="chosen, in its plateau (thin)"))
    return lines
