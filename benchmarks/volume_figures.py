"""The figures of docs/volume.md, and their tables in Markdown on stdout.

    python benchmarks/volume_figures.py --figure preconditioners|cutoff|trajectory|poisoned|paraboloid

Runs are kept under out/volume_figures and continued; without them a figure takes minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from paraboloid_break import DIRECTIONS, ParaboloidBreak, paraboloid_break
from volume_poisoned import METHODS, studies, table, values
from volume_runs import FIGURES, TRAINED, study_of

from basinscope.tasks import data_folder, make_landscape
from basinscope.trajectory import TrajectoryPoint, trajectory_figure
from spectra.checkpoint import read_checkpoint
from spectra.costs import kl_from_anchor
from spectra.plots import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION
from volume.priors import parse_prior
from volume.study import PRECONDITIONERS, VolumeStudy

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 640)
_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY, GREY, "#CC79A7", "#000000")


def save(figure: Figure, name: str) -> None:
    """Write a figure of the documentation."""
    FigureCanvasAgg(figure)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"volume_{name}.png", dpi=100)
    print(f"![{name}](figures/volume_{name}.png)\n")


def preconditioners() -> None:
    """What 3,000 directions say under each preconditioner: a histogram each, the log of the mean at its right edge."""
    kept: dict[str, dict[str, VolumeStudy]] = {}
    for measure in ("lebesgue", "gaussian"):
        options = {"methods": ("star-domain",), "prior": measure, "directions": 3000}
        kept[measure] = {
            name: study_of(TRAINED, f"preconditioners-{measure}-{name}", preconditioner=name, **options)  # type: ignore[arg-type]
            for name in PRECONDITIONERS
        }
    figure = Figure(figsize=(8.0, 8.5), layout="constrained")
    figure.suptitle("What each direction says of the log-volume, by preconditioner\ndigits, KL below 0.01 nat")
    panels = figure.subplots(2, 1)
    for axes, (measure, found) in zip(panels, kept.items(), strict=True):
        _violins(axes, found)
        unit = "Lebesgue volume" if measure == "lebesgue" else "mass under the Gaussian prior of RMS width"
        axes.set_xlabel(f"log of the {unit} (nat)")
    save(figure, "preconditioners")
    for measure, found in kept.items():
        print(f"\nPrior `{measure}`, 3,000 directions, eps searched, each a lower bound:\n")
        print("| preconditioner | eps | log V (nat) | median direction | spread | largest share |")
        print("|---" * 6 + "|")
        for name, study in _ordered(found):
            result = study.results["star-domain"]
            assert result.sampled is not None
            terms = result.sampled.log_terms
            eps = "–" if np.isnan(result.eps) else f"{result.eps:g}"
            print(
                f"| {name} | {eps} | {result.log_volume:,.1f} | {np.median(terms):,.0f} | {terms.std():,.0f} | "
                f"{result.sampled.largest_share:.0%} |"
            )


def _ordered(found: dict[str, VolumeStudy]) -> list[tuple[str, VolumeStudy]]:
    return sorted(found.items(), key=lambda item: -item[1].results["star-domain"].log_volume)


def _violins(axes: Axes, found: dict[str, VolumeStudy]) -> None:
    """A histogram a row, the best at the top; heights are scaled row by row."""
    rows = _ordered(found)
    for place, (name, study) in enumerate(rows):
        result = study.results["star-domain"]
        assert result.sampled is not None
        terms = result.sampled.log_terms
        # The far tail to the left would flatten the picture: what is left out is said on the row.
        low = np.quantile(terms, 0.01)
        counts, edges = np.histogram(terms[terms >= low], bins=50)
        base, colour = len(rows) - 1 - place, _COLOURS[list(found).index(name) % len(_COLOURS)]
        heights = base + 0.85 * counts / counts.max()
        axes.stairs(heights, edges, baseline=base, fill=True, color=colour, alpha=0.75)
        axes.plot([result.log_volume] * 2, [base, base + 0.85], color="black", linewidth=1.4)
        axes.annotate(
            f"{result.log_volume:,.0f}",
            (result.log_volume, base + 0.4),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_yticks([len(rows) - 1 - place + 0.3 for place in range(len(rows))], [name for name, _ in rows])
    axes.plot([], [], color="black", linewidth=1.4, label="log of the mean of 3,000 (lowest 1 % of them not drawn)")
    axes.set_ylim(0, len(rows) + 0.7)
    axes.margins(x=0.08)
    axes.legend(fontsize=8, loc="upper left")


def cutoff() -> None:
    """Log-volume and slope against the cutoff, in float32 and float64."""
    methods = ("quadratic-mass", "star-domain", "ellipsoid-slice")
    options = {"methods": methods, "prior": "init", "directions": 256, "sweep_cutoff": "1e-6:1e2:17"}
    found = {kind: study_of(TRAINED, f"cutoff-{kind}", dtype=kind, **options) for kind in ("float32", "float64")}  # type: ignore[arg-type]
    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    figure.suptitle("Log-volume and its slope across cutoffs: digits, KL, prior init; lower bounds where sampled")
    above, beneath = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for method, colour in zip(methods, (VERMILLION, BLUE, ORANGE), strict=True):
        for kind, style in (("float32", "-"), ("float64", ":")):
            sweep = found[kind].sweep
            assert sweep is not None
            look = {"color": colour, "linestyle": style, "linewidth": 1.4 if kind == "float32" else 2.8}
            unit = "Lebesgue" if method == "ellipsoid-slice" else "mass"
            above.plot(sweep.cutoffs, sweep.log_volumes(method), label=f"{method} ({unit}), {kind}", **look)  # type: ignore[arg-type]
            slopes = sweep.slopes(method)
            beneath.plot(sweep.cutoffs, np.where(slopes > 0.1, slopes, np.nan), **look)  # type: ignore[arg-type]
    beneath.axhline(found["float32"].size / 2, color=GREY, linestyle="--", label="n/2 = 2,405")
    above.set_ylabel("log V (nat)")
    beneath.set_ylabel("slope d log V / d log T")
    beneath.set_xlabel("cutoff T (nat)")
    beneath.set_xscale("log")
    beneath.set_yscale("log")
    for axes in (above, beneath):
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    save(figure, "cutoff")
    _cutoff_table(found, methods)


def _cutoff_table(found: dict[str, VolumeStudy], methods: tuple[str, ...]) -> None:
    single, double = found["float32"].sweep, found["float64"].sweep
    assert single is not None
    assert double is not None
    print("| cutoff | " + " | ".join(f"{m} | slope | float32 - float64" for m in methods) + " |")
    print("|---" * (1 + 3 * len(methods)) + "|")
    for place in range(0, len(double.cutoffs), 2):
        cells = []
        for method in methods:
            value, other = double.log_volumes(method)[place], single.log_volumes(method)[place]
            cells += [f"{value:,.1f}", f"{double.slopes(method)[place]:,.1f}", f"{other - value:+.2f}"]
        print(f"| {double.cutoffs[place]:.0e} | " + " | ".join(cells) + " |")
    print(f"\nRounding noise of the cost: {found['float32'].cost_noise:.2g} nat in float32, ", end="")
    print(f"{found['float64'].cost_noise:.2g} in float64.")


def trajectory() -> None:
    """Log-volume along training, clean and poisoned."""
    options = {"methods": ("quadratic-mass", "star-domain"), "prior": "init", "directions": 256}
    points = []
    for kind in ("clean", "poisoned"):
        for step in STEPS:
            name = f"{kind}_seed0_step{step:05d}"
            study = study_of(name, "trajectory", **options)  # type: ignore[arg-type]
            points.append(TrajectoryPoint(Path(f"{name}.pt"), f"{kind}_seed0", step, study))
    save(trajectory_figure(points), "trajectory")
    print("| step | " + " | ".join(f"{run}: quadratic-mass | star-domain" for run in ("clean", "poisoned")) + " |")
    print("|---" * 5 + "|")
    for place, step in enumerate(STEPS):
        both = [points[place].study, points[place + len(STEPS)].study]
        cells = [f"{one.results[m].log_volume:,.1f}" for one in both if one for m in ("quadratic-mass", "star-domain")]
        print(f"| {step} | " + " | ".join(cells) + " |")


def poisoned() -> None:
    """Five poisoned networks against five clean ones."""
    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    figure.suptitle("Poisoned against clean, five seeds each: digits, KL below 0.01 nat")
    grid = figure.subplots(2, len(METHODS))
    tables = []
    for row, prior in zip(grid, ("init", "gaussian"), strict=True):
        found = studies(prior)
        tables.append(table(found, prior))
        for axes, method in zip(row, METHODS, strict=True):
            for place, (kind, colour, marker) in enumerate((("clean", BLUE, "o"), ("poisoned", VERMILLION, "s"))):
                axes.plot(place + np.linspace(-0.12, 0.12, 5), values(found, kind, method), marker, color=colour)
            axes.set_xticks([0, 1], ["clean", "poisoned"])
            axes.set_xlim(-0.5, 1.5)
            axes.set_title(f"{method}\nprior {prior}", fontsize=9)
            axes.grid(alpha=0.25, axis="y")
            axes.tick_params(labelsize=8)
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        row[0].set_ylabel("log V (nat)")
    save(figure, "poisoned")
    print("\n\n".join(tables))


def paraboloid() -> None:
    """True over quadratic cost along typical draws, against the cutoff."""
    checkpoint = read_checkpoint(data_folder() / "digits_mlp" / f"{TRAINED}.pt")
    landscape = make_landscape("digits-heldout", checkpoint).with_cost(kl_from_anchor)
    prior = parse_prior("gaussian", landscape.theta)
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.subplots()
    words = {"mass": "typical of the quadratic mass", "sphere": "uniform on the prior's sphere"}
    for directions, colour in zip(DIRECTIONS, (VERMILLION, BLUE), strict=True):
        found = paraboloid_break(landscape, prior, directions=directions)  # type: ignore[arg-type]
        _band(axes, found, colour, words[directions])
        print(f"- {found.verdict}")
    axes.axhspan(0.9, 1.1, color=GREY, alpha=0.3, linewidth=0, label="within 10 % of the paraboloid")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cutoff T (nat): quadratic cost of the displacement")
    axes.set_ylabel("true cost / quadratic cost")
    axes.set_title("Where the paraboloid breaks: digits, KL, Fisher; median and 10 to 90 % of 64 draws", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    save(figure, "paraboloid")


def _band(axes: Axes, found: ParaboloidBreak, colour: str, label: str) -> None:
    low, high = np.quantile(found.ratios, [0.1, 0.9], axis=1)
    axes.fill_between(found.cutoffs, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(found.cutoffs, found.medians, color=colour, label=label)
    if 0.0 < found.cutoff < np.inf:
        axes.axvline(found.cutoff, color=colour, linestyle="--", label=f"break at {found.cutoff:.3g} nat")


MAKERS: dict[str, Callable[[], None]] = {
    "preconditioners": preconditioners,
    "cutoff": cutoff,
    "trajectory": trajectory,
    "poisoned": poisoned,
    "paraboloid": paraboloid,
}


def main() -> None:
    """Make the figures asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", choices=MAKERS, action="append", help="default all")
    for name in parser.parse_args().figure or MAKERS:
        MAKERS[name]()


if __name__ == "__main__":
    main()
