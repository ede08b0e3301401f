"""Figures of a spectrum: the density with its band, the largest eigenvalues, the layers.

Figures are made without pyplot, so no window system and no global state is involved.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from spectra.density import ROUNDING, SEMIDEFINITE, SmoothedDensity, SpectralDensity
from spectra.estimate import Estimate
from spectra.files import counted, replace_file
from spectra.interval import bars, interval_label, over_probes, quantile, with_ends
from spectra.lanczos import Array
from spectra.spectrum import Spectrum, StoredSpectrum
from spectra.words import curvature_unit, operator_title

# Okabe and Ito, Color universal design, 2008.
BLUE, ORANGE, VERMILLION, GREEN, SKY, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9", "#7F7F7F"
PURPLE = "#CC79A7"
MOST_LAYERS = 30
# Of the counts of eigenvalues in a figure: less than one is a matter of chance.
LEAST = 0.3
# Of the density panel: how far a legend in its corner reaches, and the height of each of its lines.
LEGEND_WIDTH, LEGEND_ENTRY = 0.62, 0.057


def spectrum_figure(stored: StoredSpectrum, *, scale: str = "symlog") -> Figure:
    """The figure of a spectrum.

    Above, the smoothed density, in eigenvalues per unit of the plotted axis, with a 95 % band over probes;
    what lies below zero shaded, the resolution around zero marked, converged eigenvalues as ticks. Beneath,
    the largest eigenvalues by rank (where none converged, how many lie beyond each value), and the layers if any.

    Args:
        stored: the spectrum and where it comes from.
        scale: ``symlog`` or ``linear`` axis of the eigenvalues.

    Returns:
        The figure.

    Raises:
        UserError: if the scale is unknown.
    """
    spectrum = stored.spectrum
    view = spectrum.density.smooth(scale=scale)
    layered = bool(spectrum.layers)
    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2 if layered else 1, height_ratios=(3, 2))
    figure.suptitle(_title(stored), fontsize=11)
    unit = curvature_unit(spectrum.settings.operator, stored.provenance.cost_unit)
    _density_panel(figure.add_subplot(grid[0, :]), spectrum.density, view, unit, spectrum)
    beneath = figure.add_subplot(grid[1, 0])
    if len(spectrum.eigenvalues) > 1:
        _rank_panel(beneath, spectrum, unit)
    else:
        _tail_panel(beneath, spectrum, view, unit)
    if layered:
        _layer_panel(figure.add_subplot(grid[1, 1]), spectrum, unit)
    return figure


def draw_spectrum(axes: Axes, found: StoredSpectrum | Spectrum, *, scale: str = "symlog") -> None:
    """The density panel of ``spectrum_figure``, on someone's own axes."""
    spectrum, unit = (found, "cost") if isinstance(found, Spectrum) else (found.spectrum, found.provenance.cost_unit)
    unit = curvature_unit(spectrum.settings.operator, unit)
    _density_panel(axes, spectrum.density, spectrum.density.smooth(scale=scale), unit, spectrum)


def draw_density(axes: Axes, density: SpectralDensity, *, scale: str = "symlog") -> None:
    """The smoothed density on someone's own axes."""
    _density_panel(axes, density, density.smooth(scale=scale), curvature_unit(density.operator))


def draw_estimate(axes: Axes, found: Estimate) -> None:
    """An estimate with its 95 % interval, and what each of its samples alone says."""
    count = len(found.samples)
    if count:
        axes.plot(
            found.samples, np.linspace(-0.2, 0.2, count), "o", color=GREY, markersize=3, label=counted(count, "sample")
        )
    reach, known = bars([found.value], [found.interval()])
    label = f"{with_ends(found.value, found.interval())}{'' if known.all() else ', its error unknown'}"
    axes.errorbar([found.value], [0.0], xerr=reach, fmt="o", color=BLUE, capsize=3, label=label)
    axes.set_yticks([])
    axes.set_ylim(-1.0, 1.0)
    axes.legend(fontsize=8)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in one step, in the format that the file's ending names."""
    replace_file(path, drawn(figure, Path(path).suffix.lstrip(".").lower() or "png"))


def drawn(figure: Figure, kind: str = "png", dots_per_inch: int = 150) -> bytes:
    """A figure as the content of a file of its kind: png, pdf or svg."""
    image = io.BytesIO()
    _take_names_literally(figure)
    figure.savefig(image, format=kind, dpi=dots_per_inch)
    return image.getvalue()


def _take_names_literally(figure: Figure) -> None:
    """A dollar in a file's name begins no formula, and a name need not be unicode; ticks are matplotlib's own."""
    ticks = {id(text) for axis in figure.findobj(Axis) for text in axis.findobj(Text) if text is not axis.label}
    for text in figure.findobj(Text):
        if id(text) in ticks:
            continue
        text.set_text(text.get_text().encode("utf-8", "backslashreplace").decode())
        if "$" in text.get_text():
            text.set_parse_math(False)


def literal(name: str) -> str:
    """A name as the label of a tick: no dollar begins a formula, and what is not unicode is written out."""
    return name.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def _estimator(density: SpectralDensity, exact: str) -> str:
    """How a density was estimated, in a few words for a legend."""
    if density.exact:
        return exact
    captured = density.deflation.captured
    if density.unsampled:
        return f"the {captured:,} deflated of {density.size:,} dimensions alone: no probes yet"
    rows = f"{counted(density.runs.probes, 'probe')} × {counted(density.runs.steps, 'step')}"
    deflated = f", {captured} deflated" if captured else ""
    return f"Lanczos quadrature, {rows}{deflated}"


def _title(stored: StoredSpectrum) -> str:
    spectrum, provenance = stored.spectrum, stored.provenance
    cost = f"{provenance.cost} cost {spectrum.cost:.3g} {provenance.cost_unit}"
    operator = f"{operator_title(spectrum.settings.operator, first=True)}, n = {spectrum.density.size:,} parameters"
    return f"{provenance.name}\n{operator}, {cost} on {spectrum.samples:,.0f} samples"


def _eigenvalue_axis(axes: Axes, view: SmoothedDensity, unit: str) -> None:
    if view.scale == "symlog":
        axes.set_xscale("asinh", linear_width=view.linear_scale)
        axes.set_xticks(_decades(view))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(view.eigenvalues[0], view.eigenvalues[-1])
    axes.set_xlabel(f"eigenvalue λ ({unit})")


def _decades(view: SmoothedDensity) -> list[float]:
    """Zero and the powers of ten of either sign between the linear scale and the ends of the grid."""
    ticks = [0.0]
    for end, sign in ((view.eigenvalues[-1], 1.0), (-view.eigenvalues[0], -1.0)):
        if end > view.linear_scale:
            exponents = np.arange(np.ceil(np.log10(view.linear_scale)), np.floor(np.log10(end)) + 1)
            ticks += [sign * 10.0**exponent for exponent in exponents]
    return sorted(ticks)


def _density_panel(
    axes: Axes, density: SpectralDensity, view: SmoothedDensity, unit: str, spectrum: Spectrum | None = None
) -> None:
    size, x, counts = density.size, view.eigenvalues, view.values * density.size
    # A single eigenvalue's kernel peaks at 0.4 / width: a tenth of that is the least worth showing.
    floor = 0.04 / view.width
    axes.plot(
        x,
        np.maximum(counts, floor / 10),
        color=BLUE,
        label=_estimator(density, "exact" if spectrum is None else f"exact, {spectrum.route} route"),
    )
    if density.runs.probes > 1:
        half = quantile(density.runs.probes - 1) * view.standard_error * size
        low, high = (np.maximum(counts + sign * half, floor / 10) for sign in (-1, 1))
        axes.fill_between(x, low, high, color=SKY, alpha=0.4, linewidth=0, label=_over_probes(density))
    resolution = density.resolution(0.0)
    if _has_negative(density):
        shade: dict[str, Any] = {"color": VERMILLION, "alpha": 0.45}
        shade["label"] = _below_zero(density, resolution)
        axes.fill_between(x, floor / 10, np.maximum(counts, floor / 10), where=x <= 0.0, **shade)
    if np.isinf(resolution) and density.runs.probes:
        axes.plot([], [], " ", label="one Lanczos step has no resolution")
    elif 0.0 < resolution < np.inf:
        label = f"resolution near zero: ± {resolution:.2g}"
        axes.axvspan(-resolution, resolution, color=GREY, alpha=0.2, linewidth=0, label=label)
    if spectrum is not None:
        _eigenvalue_ticks(axes, spectrum)
    axes.set_yscale("log")
    axes.set_ylim(floor, 10.0 * max(counts.max(), 10 * floor))
    _eigenvalue_axis(axes, view, unit)
    per = f"unit of asinh(λ / {view.linear_scale:.2g})" if view.scale == "symlog" else unit
    axes.set_ylabel(f"eigenvalues per {per}")
    axes.set_title(f"density, smoothed by a Gaussian of {view.width:.2g} such units", fontsize=10)
    legend = axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
    _raise_top(axes, x, counts, len(legend.get_texts()))


def _raise_top(axes: Axes, x: Array, counts: Array, entries: int) -> None:
    """Room for the legend above what of the curve would be under it."""
    places = (axes.transData + axes.transAxes.inverted()).transform(np.column_stack([x, np.maximum(counts, 1e-300)]))
    beneath = counts[places[:, 0] > 1.0 - LEGEND_WIDTH]
    share = 1.0 - LEGEND_ENTRY * (entries + 1)
    floor, top = axes.get_ylim()
    if len(beneath) and beneath.max() > floor:
        axes.set_ylim(floor, max(top, floor * (beneath.max() / floor) ** (1.0 / share)))


def _has_negative(density: SpectralDensity) -> bool:
    """Whether there are eigenvalues below zero that are not the rounding of a semidefinite matrix."""
    lowest, highest = density.support
    return density.operator not in SEMIDEFINITE and lowest < -ROUNDING * max(abs(lowest), abs(highest))


def _below_zero(density: SpectralDensity, resolution: float) -> str:
    if density.unsampled:
        return "below zero, of these"
    below = density.mass_below(0.0).value
    words = f"below zero: {below:,.0f} of {density.size:,}"
    if resolution == 0.0 or np.isinf(resolution):
        return f"{words} ({100 * below / density.size:.2g} %)"
    return f"{words}, {density.mass_below(-resolution).value:,.0f} beyond the resolution"


def _over_probes(density: SpectralDensity) -> str:
    return interval_label(over_probes(density.runs.probes))


def _eigenvalue_ticks(axes: Axes, spectrum: Spectrum) -> None:
    values = spectrum.eigenvalues
    if len(values) == 0:
        return
    axes.plot(
        values,
        np.full(len(values), 0.03),
        "|",
        color="black",
        markersize=9,
        transform=axes.get_xaxis_transform(),
        label=f"{len(values)} {_known(spectrum)} eigenvalues",
    )


def _known(spectrum: Spectrum) -> str:
    return "largest" if spectrum.density.exact else "converged"


def _rank_panel(axes: Axes, spectrum: Spectrum, unit: str) -> None:
    values, ranks = spectrum.eigenvalues, np.arange(1, len(spectrum.eigenvalues) + 1)
    for chosen, colour, marker, name in (
        (values >= 0.0, BLUE, "o", "positive"),
        (values < 0.0, VERMILLION, "v", "negative"),
    ):
        if chosen.any():
            axes.errorbar(
                ranks[chosen],
                np.abs(values[chosen]),
                yerr=np.minimum(spectrum.residuals[chosen], 0.999 * np.abs(values[chosen])),
                fmt=marker,
                color=colour,
                markersize=4 if len(values) <= 100 else 2,
                elinewidth=1,
                label=f"{name}, bar: residual norm",
            )
    if np.any(values != 0.0):
        axes.set_yscale("log")
    axes.set_xlabel("rank by magnitude")
    axes.set_ylabel(f"|λ| ({unit})")
    axes.set_title(f"{len(values)} {_known(spectrum)} eigenvalues", fontsize=10)
    axes.legend(fontsize=8)


def _tail_panel(axes: Axes, spectrum: Spectrum, view: SmoothedDensity, unit: str) -> None:
    """How many eigenvalues lie at or beyond each on its side of zero: the few large are seen like the many."""
    density = spectrum.density
    if density.unsampled:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no probes yet", ha="center", transform=axes.transAxes, fontsize=9)
        return
    cumulative = density.cumulative()
    nodes, fraction = cumulative.nodes, cumulative.fraction
    several = density.runs.probes > 1
    share = quantile(density.runs.probes - 1) * cumulative.standard_error if several else 0.0 * nodes
    above, error = np.append(1.0, 1.0 - fraction[:-1]), np.append(0.0, share[:-1])
    sides = [(nodes > 0.0, above, error, BLUE, "positive", "pre")]
    if _has_negative(density):
        sides.append((nodes < 0.0, fraction, share, VERMILLION, "negative", "post"))
    for chosen, counts, errors, colour, name, where in sides:
        if chosen.any():
            ends = (0.0, nodes[chosen][-1]) if name == "positive" else (nodes[chosen][0], 0.0)
            x = np.concatenate([ends[:1], nodes[chosen], ends[1:]])
            y, half = (density.size * _ended(values[chosen], name) for values in (counts, errors))
            axes.step(x, np.maximum(y, LEAST / 10), where=where, color=colour, label=name)  # type: ignore[arg-type]
            if several:
                low, high = (np.clip(y + sign * half, LEAST / 10, density.size) for sign in (-1, 1))
                axes.fill_between(x, low, high, step=where, color=colour, alpha=0.25, linewidth=0)  # type: ignore[arg-type]
    _eigenvalue_axis(axes, view, unit)
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 3.0 * density.size)
    axes.set_ylabel("eigenvalues at or beyond λ")
    band = f"\n{_over_probes(density)}" if several else ""
    axes.set_title(f"number of eigenvalues at least as far from zero{band}", fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=8)
    else:
        axes.text(0.5, 0.5, "none differs from zero", ha="center", transform=axes.transAxes, fontsize=9)


def _ended(values: Array, side: str) -> Array:
    """Counts along a side with those at its ends: what the node nearest to zero has, and none beyond the farthest."""
    first, last = (values[:1], [0.0]) if side == "positive" else ([0.0], values[-1:])
    return np.concatenate([first, values, last])


def _layer_panel(axes: Axes, spectrum: Spectrum, unit: str) -> None:
    traces = {name: layer.trace() for name, layer in spectrum.layers.items()}
    shown = sorted(traces, key=lambda name: -abs(traces[name].value))[:MOST_LAYERS]
    shown = [name for name in traces if name in shown]
    rows = np.arange(len(shown))
    values = np.array([traces[name].value for name in shown])
    reach, known = bars(values, [traces[name].interval() for name in shown])
    largest = np.array([spectrum.layers[name].support[1] for name in shown])
    label = f"trace, {_over_probes(spectrum.density)}" if spectrum.density.runs.probes > 1 else "trace"
    axes.errorbar(values, rows, xerr=reach, fmt="o", color=BLUE, markersize=4, capsize=2, label=label)
    if not known.all():
        axes.plot(values[~known], rows[~known], "o", color=BLUE, mfc="white", markersize=4, label="its error unknown")
    axes.plot(largest, rows, "D", color=ORANGE, markersize=4, label="largest node")
    ends = np.concatenate([values - reach[0], largest])
    if np.all(ends > 0.0) and ends.max() > 30.0 * ends.min():
        axes.set_xscale("log")
    else:
        axes.axvline(0.0, color=GREY, linewidth=0.8)
    axes.set_yticks(rows, [literal(name or "(root)") for name in shown], fontsize=8 if len(shown) < 12 else 5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(f"trace, largest node ({unit})")
    more = f", {len(shown)} largest of {len(traces)}" if len(shown) < len(traces) else ""
    axes.set_title(f"layers{more}", fontsize=10)
    axes.legend(fontsize=8)
