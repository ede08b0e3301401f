"""The table of docs/measures_grid.md and its figure, from a stored comparison of digits checkpoints.

Run ``python benchmarks/compare_grid.py`` from the repository root; the command that makes the file is in
``data/README.md``.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

from comparisons.comparison import Comparison
from comparisons.measures import REGISTRY, measures_of
from comparisons.statistics import (
    PartialRanking,
    Ranking,
    agreement_figure,
    agreement_of,
    granulated_rankings,
    incomparable,
    partial_rankings,
    rank_measures,
    ranking_figure,
)
from comparisons.store import read_comparison
from spectra.plots import save_figure

HEAD = (
    "measure",
    "error (median)",
    "gradients (median)",
    "Kendall tau [95 %]",
    "Spearman [95 %]",
    "p (Holm)",
    "Psi, grid",
    "information, grid",
    "tau, grid [95 %]",
    "tau at width 16, 32, 48",
    "tau given the training loss, grid [95 %]",
    "sign error, grid (worst)",
    "tau with the error gap, grid [95 %]",
)


def grid_of(comparison: Comparison) -> Comparison:
    """Only the checkpoints of the grid: the poisoned networks' gaps are ten times the others'."""
    chosen = tuple(one for one in comparison.done if one.hyperparameters.get("kind") == "grid")
    return replace(comparison, checkpoints=chosen)


def ranked(comparison: Comparison, against: str = "gap") -> dict[str, Ranking]:
    """Rankings by measure."""
    return {one.measure: one for one in rank_measures(comparison, measures_of(comparison.measures), against)}


def given_loss(comparison: Comparison) -> dict[str, PartialRanking]:
    """Rankings against the gap once the training loss is held fixed."""
    found = partial_rankings(comparison, measures_of(comparison.measures), "gap", "loss")
    return {one.measure: one for one in found}


def by_width(grid: Comparison) -> list[dict[str, Ranking]]:
    """Rankings among the networks of one width alone, narrowest first: there volumes compare too."""
    sizes = sorted({one.size for one in grid.done})
    return [ranked(replace(grid, checkpoints=tuple(one for one in grid.done if one.size == size))) for size in sizes]


def typical(comparison: Comparison, name: str) -> tuple[str, str]:
    """Medians over checkpoints: half of the 95 % interval relative to the value, and gradients."""
    outcomes = [one.outcomes[name] for one in comparison.done if name in one.outcomes]
    readings = [outcome.reading for outcome in outcomes if outcome.reading is not None]
    shares = [abs(reading.half_width / reading.value) for reading in readings if reading.value]
    share = median(shares) if shares else math.nan
    error = "exact" if share == 0.0 else (f"{100 * share:.2g} %" if math.isfinite(share) else "unknown")
    return error, f"{median(outcome.work.in_gradients for outcome in outcomes):,.0f}"


def interval(value: float, ends: tuple[float, float]) -> str:
    """A coefficient with its interval."""
    return f"{value:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}]"


def table(comparison: Comparison) -> str:
    """The Markdown table, strongest correlation within the grid first, and measures that are not ranked last."""
    grid = grid_of(comparison)
    whole, inner, widths = ranked(comparison), ranked(grid), by_width(grid)
    standings = {one.measure: one for one in granulated_rankings(grid, "gap")}
    held, wrong = given_loss(grid), ranked(grid, "error-gap")
    left_out = incomparable(comparison)
    known = {measure.name: measure for measure in REGISTRY}
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    order = sorted(comparison.measures, key=lambda name: -abs(inner[name].tau) if name in inner else 1.0)
    for name in order:
        measure = known[name]
        cells = [measure.title.replace("|", "\\|"), *typical(comparison, name)]
        row, standing = whole.get(name), standings.get(name)
        if row is None:
            reason = "not comparable" if name in left_out else "too few"
            cells += [reason, reason, "–"]
        else:
            cells += [interval(row.tau, row.tau_interval), interval(row.rho, row.rho_interval), f"{row.p_holm:.2g}"]
        shown = standing is not None and name not in left_out
        cells += [f"{standing.psi:+.2f}", f"{standing.information:.3f}"] if standing and shown else ["–", "–"]
        cells.append(interval(inner[name].tau, inner[name].tau_interval) if name in inner else "–")
        cells.append(", ".join(f"{one[name].tau:+.2f}" if name in one else "–" for one in widths))
        cells.append(interval(held[name].tau, held[name].tau_interval) if name in held else "–")
        errors = standing.sign_errors if standing and shown else None
        cells.append("–" if errors is None else f"{errors.mean:.2f} ({errors.worst:.2f}, {errors.worst_in})")
        cells.append(interval(wrong[name].tau, wrong[name].tau_interval) if name in wrong else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, print the table, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path("data/digits_measures.h5"))
    parser.add_argument("--plot", type=Path, default=Path("docs/figures/measures_grid.png"))
    parser.add_argument("--agreement-plot", type=Path, default=Path("docs/figures/measures_agreement.png"))
    options = parser.parse_args()
    comparison = read_comparison(options.file)
    print(table(comparison))
    grid = grid_of(comparison)
    save_figure(ranking_figure(tuple(ranked(grid).values()), "gap"), options.plot)
    agreement = agreement_of(grid)
    assert agreement is not None
    save_figure(agreement_figure(agreement), options.agreement_plot)


if __name__ == "__main__":
    main()
