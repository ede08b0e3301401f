"""Three claims about flatness as experiments, on exact synthetic spectra and on stored measures of checkpoints.

The trace is a poor proxy for the determinant; Keskar's sharpness moves the wrong way; the slice estimator tracks the
trace. ``python benchmarks/primer_claims.py --measures data/digits_measures.h5 --figure claims.png`` prints rank
correlations with 95 % bootstrap intervals over checkpoints, within networks of one size, and draws both.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from comparisons.comparison import Comparison
from comparisons.statistics.rank_correlation import spearman
from comparisons.store import read_comparison

Array = NDArray[np.float64]
BOOTSTRAPS, SIZE, SPECTRA, DIRECTIONS, CUTOFF = 2000, 1000, 200, 64, 0.01
TRACE, SLICE, DETERMINANT = "trace", "slice", "log determinant"
PAIRS = (
    ("hessian-trace", "log-determinant"),
    ("hessian-trace", "log-determinant-derived"),
    ("hessian-trace", "quadratic-mass"),
    ("keskar", "gap"),
    ("keskar", "quadratic-mass"),
    ("keskar", "hessian-trace"),
    ("ellipsoid-slice", "hessian-trace"),
    ("ellipsoid-slice", "log-determinant"),
    ("ellipsoid-slice", "quadratic-mass"),
)


def synthetic(generator: np.random.Generator) -> dict[str, Array]:
    """Diagonal Hessians of random scale and spread: trace, log det(H), and the slice of random directions, exact."""
    found: dict[str, list[float]] = {TRACE: [], DETERMINANT: [], SLICE: []}
    for _ in range(SPECTRA):
        spread, scale = generator.uniform(0.5, 4.0), generator.normal(0.0, 1.0)
        values = np.exp(scale + spread * generator.normal(size=SIZE))
        units = generator.normal(size=(DIRECTIONS, SIZE))
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        log_radii = 0.5 * np.log(2.0 * CUTOFF / (units**2 @ values))
        top = (SIZE * log_radii).max()
        found[TRACE].append(float(values.sum()))
        found[DETERMINANT].append(float(np.log(values).sum()))
        found[SLICE].append(top + float(np.log(np.exp(SIZE * log_radii - top).mean())))
    return {name: np.array(column) for name, column in found.items()}


def correlation(x: Array, y: Array, groups: NDArray[np.int64], generator: np.random.Generator) -> tuple[float, ...]:
    """Spearman's rho of ranks within groups, and its 95 % percentile bootstrap over rows, groups kept."""

    def within(rows: NDArray[np.int64]) -> float:
        ranked = [np.zeros(len(rows)), np.zeros(len(rows))]
        for group in np.unique(groups[rows]):
            here = groups[rows] == group
            for place, column in enumerate((x, y)):
                ranks = stats.rankdata(column[rows][here])
                ranked[place][here] = (ranks - ranks.mean()) / max(len(ranks), 1)
        return spearman(ranked[0], ranked[1])

    rows = np.arange(len(x))
    blocks = [rows[groups == group] for group in np.unique(groups)]
    draws = [
        within(np.concatenate([generator.choice(block, len(block)) for block in blocks])) for _ in range(BOOTSTRAPS)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return within(rows), float(low), float(high)


def column(comparison: Comparison, name: str) -> Array:
    """A measure, or the gap, of each checkpoint."""
    return np.array([one.gap if name == "gap" else one.value(name) for one in comparison.done])


def rows_of(comparison: Comparison, generator: np.random.Generator) -> list[str]:
    """Table rows on the digits checkpoints, all and without the poisoned ones."""
    sizes = np.array([one.size for one in comparison.done])
    clean = np.array(["poisoned" not in one.provenance.checkpoint for one in comparison.done])
    lines = []
    for first, second in PAIRS:
        cells = []
        for chosen in (np.ones(len(sizes), dtype=bool), clean):
            x, y = column(comparison, first), column(comparison, second)
            fine = chosen & np.isfinite(x) & np.isfinite(y)
            rho, low, high = correlation(x[fine], y[fine], sizes[fine], generator)
            cells.append(f"{rho:+.2f} ({low:+.2f} to {high:+.2f}), {int(fine.sum())}")
        lines.append(f"| {first} | {second} | {cells[0]} | {cells[1]} |")
    return lines


def settings_of(comparison: Comparison) -> list[str]:
    """Table rows of Keskar's sharpness and the gap within one learning rate and penalty of the grid."""
    grid = [one for one in comparison.done if "learning_rate" in one.hyperparameters]
    grid = [one for one in grid if one.hyperparameters.get("kind") == "grid"]
    lines = []
    for rate, l2 in sorted({(one.hyperparameters["learning_rate"], one.hyperparameters["l2"]) for one in grid}):
        runs = [one for one in grid if (one.hyperparameters["learning_rate"], one.hyperparameters["l2"]) == (rate, l2)]
        found = stats.spearmanr([one.value("keskar") for one in runs], [one.gap for one in runs])
        cost, gap = np.median([one.cost for one in runs]), max(one.gap for one in runs)
        lines.append(f"| {rate:g} | {l2:g} | {len(runs)} | {found[0]:+.2f} | {found[1]:.2f} | {cost:.2g} | {gap:.2g} |")
    return lines


def figure(known: dict[str, Array], comparison: Comparison) -> Figure:
    """Above the synthetic spectra, below the digits checkpoints, a colour a network size."""
    made = Figure(figsize=(12, 7), layout="constrained")
    axes = made.subplots(2, 3)
    axes[0, 0].scatter(known[TRACE], known[DETERMINANT], s=8, color="#0072B2")
    axes[0, 1].scatter(known[TRACE], known[SLICE], s=8, color="#0072B2")
    axes[0, 2].scatter(known[DETERMINANT], known[SLICE], s=8, color="#0072B2")
    names = ((TRACE, DETERMINANT), (TRACE, SLICE), (DETERMINANT, SLICE))
    for axis, (across, up) in zip(axes[0], names, strict=True):
        unit = "cost / parameter²" if across == TRACE else "nat"
        axis.set(xlabel=f"{across}, synthetic ({unit})", ylabel=f"{up}, synthetic (nat)")
        axis.set_xscale("log" if across == TRACE else "linear")
    sizes = np.array([one.size for one in comparison.done])
    poisoned = np.array(["poisoned" in one.provenance.checkpoint for one in comparison.done])
    below = (("hessian-trace", "quadratic-mass"), ("keskar", "gap"), ("hessian-trace", "ellipsoid-slice"))
    for axis, (across, up) in zip(axes[1], below, strict=True):
        for size, colour in zip(np.unique(sizes), ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=False):
            for bad, marker in ((False, "o"), (True, "x")):
                here = (sizes == size) & (poisoned == bad)
                if here.any():
                    label = f"{size:,} parameters" + (", poisoned" if bad else "")
                    axis.scatter(
                        column(comparison, across)[here],
                        column(comparison, up)[here],
                        s=16,
                        color=colour,
                        marker=marker,
                        label=label,
                    )
        unit = "%" if across == "keskar" else "nat / parameter²"
        axis.set(xlabel=f"{across}, digits ({unit})", ylabel=f"{up}, digits (nat)", xscale="log")
    axes[1, 0].legend(fontsize=7)
    return made


def main() -> None:
    """Prints the tables and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measures", type=Path, default=Path("data/digits_measures.h5"))
    parser.add_argument("--figure", type=Path, help="figure to write")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    known, comparison = synthetic(generator), read_comparison(options.measures)
    one = np.zeros(SPECTRA, dtype=np.int64)
    print(f"{SPECTRA} synthetic spectra of {SIZE} eigenvalues: Spearman's rho\n\n| | | rho (95 %) |\n|---|---|---|")
    for first, second in ((TRACE, DETERMINANT), (SLICE, TRACE), (SLICE, DETERMINANT)):
        rho, low, high = correlation(known[first], known[second], one, generator)
        print(f"| {first} | {second} | {rho:+.3f} ({low:+.3f} to {high:+.3f}) |")
    print("\n| digits, within networks of one size | | rho (95 %), checkpoints | without poisoned |\n|---|---|---|---|")
    print("\n".join(rows_of(comparison, generator)))
    head = "learning rate | L2 | runs | rho of Keskar and gap | p | median training cost (nat) | largest gap (nat)"
    print(f"\n| {head} |\n{'|---' * 7}|")
    print("\n".join(settings_of(comparison)))
    if options.figure is not None:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        figure(known, comparison).savefig(options.figure, dpi=80)


if __name__ == "__main__":
    main()
