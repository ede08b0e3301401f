"""Poisoned against clean digits networks by the bridge: the mass of all that behaves alike, five seeds each.

    python benchmarks/bridge_poisoned.py [--processes 2]

Ten ladders from the prior, the initialisation's, of 8 chains each; kept under out/bridge_poisoned and continued. The
test is over checkpoints, as in volume_poisoned.py, and beside it stand the estimates of that command.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from bridge_digits import climb
from volume_poisoned import SEEDS, STEP, compare

from basinscope.tasks.digits import data_folder
from volume.bridge_result import BridgeResult
from volume.bridge_settings import BridgeSettings

KINDS = ("clean", "poisoned")
FOLDER = Path("out/bridge_poisoned")


def ladder(name: str) -> BridgeResult:
    """The ladder of one checkpoint."""
    torch.set_num_threads(1)
    settings = BridgeSettings(
        cutoffs=(0.01,), origin="prior", chains=8, draws=16, warm_up=6, kept=16, work_spread=4.0, seed=0
    )
    return climb(FOLDER / f"{name}.h5", data_folder() / "digits_mlp" / f"{name}.pt", "init", settings)


def cell(result: BridgeResult) -> str:
    """Log mass and its error."""
    volume = result.volumes[0]
    return f"{volume.log_volume:,.1f} ± {volume.standard_error:.1f}"


def main() -> None:
    """Climb all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = [f"{kind}_seed{seed}_step{STEP:05d}" for seed in SEEDS for kind in KINDS]
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        found = dict(zip(names, pool.map(ladder, names), strict=True))
    by_kind = {kind: [found[f"{kind}_seed{seed}_step{STEP:05d}"] for seed in SEEDS] for kind in KINDS}
    print("| networks | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " |\n" + "|---" * 6 + "|")
    for kind, results in by_kind.items():
        print(f"| {kind} | " + " | ".join(cell(result) for result in results) + " |")
    values = [np.array([result.volumes[0].log_volume for result in by_kind[kind]]) for kind in KINDS]
    one = compare(values[1], values[0])
    extreme = math.ceil(one.probability * one.splits - 0.5)
    print(
        f"\npoisoned minus clean: {one.difference:,.1f} nats (95 % by Welch {one.low:,.1f} to {one.high:,.1f}), "
        f"p = {one.probability:.4f} ({extreme} of {one.splits} splits)"
    )
    worst = max(result.diagnostics.largest_rhat for result in found.values())
    gradients = sum(result.gradient_evaluations for result in found.values())
    print(f"largest R-hat {worst:.3f}, {gradients:,} gradients in all")


if __name__ == "__main__":
    main()
