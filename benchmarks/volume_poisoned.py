"""Volumes of poisoned against clean networks, five seeds each, and how sure their difference is.

    python benchmarks/volume_poisoned.py [--prior init|gaussian]

The test and the interval are over checkpoints: they hold what differs between training runs and what the estimator
draws, not the estimator's bias, which need not be the same for clean and for poisoned networks.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from volume_runs import study_of

from volume.study import VolumeStudy

METHODS = ("quadratic-mass", "shifted-determinant", "star-domain")
SEEDS, STEP, DIRECTIONS = range(5), 640, 500


@dataclass(frozen=True)
class Comparison:
    """The mean difference of two groups of checkpoints.

    Attributes:
        difference: mean of the first minus mean of the second, nats.
        low: lower end of Welch's 95 % interval.
        high: upper end.
        probability: share of the splits into two groups whose difference is at least as large in magnitude.
        splits: how many splits there are.
    """

    difference: float
    low: float
    high: float
    probability: float
    splits: int


def compare(first: NDArray[np.float64], second: NDArray[np.float64]) -> Comparison:
    """Exact permutation test, two-sided, and Welch's interval.

    >>> compare(np.array([1.0, 2.0]), np.array([5.0, 6.0])).probability  # 2 of 6 splits are as extreme
    0.3333333333333333
    """
    together, count = np.concatenate([first, second]), len(first)
    seen = abs(first.mean() - second.mean())
    gaps = []
    for chosen in itertools.combinations(range(len(together)), count):
        inside = np.zeros(len(together), dtype=bool)
        inside[list(chosen)] = True
        gaps.append(abs(together[inside].mean() - together[~inside].mean()))
    # Sums in another order differ by rounding.
    extreme = int(np.sum(np.array(gaps) >= seen * (1.0 - 1e-12)))
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    difference = float(first.mean() - second.mean())
    return Comparison(difference, float(interval.low), float(interval.high), extreme / len(gaps), len(gaps))


def studies(prior: str) -> dict[str, list[VolumeStudy]]:
    """The ten studies, by kind."""
    label, options = f"poisoned-{prior}", {"methods": METHODS, "prior": prior, "directions": DIRECTIONS}
    return {
        kind: [study_of(f"{kind}_seed{seed}_step{STEP:05d}", label, **options) for seed in SEEDS]  # type: ignore[arg-type]
        for kind in ("clean", "poisoned")
    }


def values(found: dict[str, list[VolumeStudy]], kind: str, method: str) -> NDArray[np.float64]:
    """(5,) log-volumes of one kind by one method."""
    return np.array([study.results[method].log_volume for study in found[kind]])


def table(found: dict[str, list[VolumeStudy]], prior: str) -> str:
    """Markdown: each checkpoint, and the differences."""
    lines = [f"Prior `{prior}`, cutoff 0.01, log-volumes in nats:", ""]
    lines += ["| method | networks | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " |", "|---" * 7 + "|"]
    for method in METHODS:
        for kind in found:
            cells = " | ".join(f"{value:,.1f}" for value in values(found, kind, method))
            lines.append(f"| {method} | {kind} | {cells} |")
    lines += ["", "| method | poisoned minus clean | 95 % (Welch) | permutation test |", "|---|---|---|---|"]
    for method in METHODS:
        one = compare(values(found, "poisoned", method), values(found, "clean", method))
        extreme = math.ceil(one.probability * one.splits - 0.5)
        lines.append(
            f"| {method} | {one.difference:,.2f} | {one.low:,.2f} to {one.high:,.2f} | "
            f"p = {one.probability:.4f} ({extreme} of {one.splits} splits) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", action="append", help="default init and gaussian")
    for prior in parser.parse_args().prior or ("init", "gaussian"):
        print(table(studies(prior), prior), end="\n\n")


if __name__ == "__main__":
    main()
