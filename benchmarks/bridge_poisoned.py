"""Poisoned against clean digits networks by the bridge: the mass of all that behaves alike, five seeds each.

    python benchmarks/bridge_poisoned.py [--processes 2] [--budget 8e5]

Figure: docs/figures/bridge_poisoned.png.

Ten ladders from the prior, the initialisation's, of 8 chains each; kept under out/bridge_poisoned and continued. A
ladder that its budget ends tells of the cutoffs that it came to. The test is over checkpoints, as in
volume_poisoned.py.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from volume_poisoned import SEEDS, STEP, compare
from volume_runs import FIGURES

from basinscope.runs import BridgeRequest, run_bridge
from basinscope.tasks import data_folder
from spectra.plots import BLUE, VERMILLION
from volume.bridge import BridgeResult, BridgeVolume
from volume.chains import BridgeSettings

KINDS = ("clean", "poisoned")
CUTOFFS = (1.0, 0.3, 0.1, 0.03, 0.01)
FOLDER = Path("out/bridge_poisoned")


def ladder(name: str, budget: float) -> BridgeResult:
    """The ladder of one checkpoint, as far as the budget goes."""
    torch.set_num_threads(1)
    settings = BridgeSettings(
        cutoffs=(CUTOFFS[-1],),
        origin="prior",
        chains=8,
        draws=16,
        warm_up=6,
        kept=16,
        work_spread=4.0,
        budget=budget,
        seed=0,
    )
    checkpoint = data_folder() / "digits_mlp" / f"{name}.pt"
    request = BridgeRequest(
        checkpoint=checkpoint, settings=settings, output=FOLDER / f"{name}.h5", prior="init", resume=True
    )

    def tell(done: int, total: int, what: str) -> None:
        if done == total:
            print(f"{name}: {what}", flush=True)

    return run_bridge(request, tell)[0].so_far


def reached(result: BridgeResult, cutoff: float) -> BridgeVolume | None:
    """The volume at a cutoff, or None if the ladder has not come there."""
    try:
        return result.volume(cutoff)
    except ValueError:
        return None


def main() -> None:
    """Climb all, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--budget", type=float, default=math.inf, help="gradients of a ladder")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = [f"{kind}_seed{seed}_step{STEP:05d}" for seed in SEEDS for kind in KINDS]
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        found = dict(zip(names, pool.map(partial(ladder, budget=asked.budget), names), strict=True))
    for cutoff in CUTOFFS:
        table(cutoff, found)
    worst = max(result.diagnostics.largest_rhat for result in found.values())
    gradients = sum(result.gradient_evaluations for result in found.values())
    print(f"\nlargest R-hat {worst:.3f}, {gradients:,} gradients in all")
    curves(found)


def table(cutoff: float, found: dict[str, BridgeResult]) -> None:
    """Log masses of one cutoff and the test over checkpoints, where all ladders came to it."""
    volumes = {name: reached(result, cutoff) for name, result in found.items()}
    print(f"\ncutoff {cutoff:g} nat\n\n| networks | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " |")
    print("|---" * (len(SEEDS) + 1) + "|")
    for kind in KINDS:
        row = [volumes[f"{kind}_seed{seed}_step{STEP:05d}"] for seed in SEEDS]
        print(f"| {kind} | " + " | ".join(cell(volume) for volume in row) + " |")
    if None in volumes.values():
        return
    clean, poisoned = (
        np.array([volume.log_volume for name, volume in volumes.items() if volume and name.startswith(kind)])
        for kind in KINDS
    )
    one = compare(poisoned, clean)
    extreme = math.ceil(one.probability * one.splits - 0.5)
    print(
        f"\npoisoned minus clean: {one.difference:,.1f} nats (95 % by Welch {one.low:,.1f} to {one.high:,.1f}), "
        f"p = {one.probability:.4f} ({extreme} of {one.splits} splits)"
    )


def curves(found: dict[str, BridgeResult]) -> None:
    """Figure: log mass against the cutoff, a line a network, as far down as its ladder came."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, colour in zip(KINDS, (BLUE, VERMILLION), strict=True):
        for seed in SEEDS:
            curve = found[f"{kind}_seed{seed}_step{STEP:05d}"].curve()
            label = f"{kind}, {len(SEEDS)} seeds" if seed == SEEDS[0] else None
            cutoffs, masses = [one.cutoff for one in curve], [one.log_volume for one in curve]
            axes.plot(cutoffs, masses, color=colour, linewidth=1, label=label)
    axes.set(xscale="log", xlabel="cutoff T of the divergence (nat)", ylabel="log V (nat)")
    axes.set_title("Mass of all that behaves alike, initialisation prior", fontsize=11)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    figure.savefig(FIGURES / "bridge_poisoned.png", dpi=160)


def cell(volume: BridgeVolume | None) -> str:
    """Log mass with half of its 95 % interval."""
    return "not reached" if volume is None else f"{volume.log_volume:,.1f} ± {volume.mass.half_width():.1f}"


if __name__ == "__main__":
    main()
