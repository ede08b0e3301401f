"""Edge of stability: full-batch gradient descent on the digits, its largest Hessian eigenvalue against 2 / lr.

    python benchmarks/edge_of_stability.py

trains a tanh network of 3,466 parameters by the mean squared error on all 1,024 training rows, once for each learning
rate, with a tracker beside it, and writes docs/figures/edge_of_stability.png (about a minute and a half on one core).
The recorded runs go to the folder that --runs names, where ``basinscope show`` and ``basinscope plot`` read them.
Reference: Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, 2021.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from basinscope.tasks import load_digits
from basinscope.training import Tracker, TrainingCurves
from spectra.plots import BLUE, GREEN, VERMILLION, save_figure

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "edge_of_stability.png"
COLOURS = (BLUE, VERMILLION, GREEN)


def network() -> nn.Module:
    """Two hidden layers of 32 units, the same start for each learning rate."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


def digits() -> tuple[Tensor, Tensor]:
    """The 1,024 training rows, and their classes as ten numbers each."""
    inputs, classes = load_digits("train")
    return inputs, nn.functional.one_hot(classes, 10).float()


def descended(rate: float, steps: int, every: int, output: Path) -> TrainingCurves:
    """Gradient descent on all rows, recorded every so many steps."""
    inputs, targets = digits()
    model, loss = network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    asked = {"quantities": ("eigenvalues",), "eigenvalues": 1, "share": None, "every": every, "overwrite": True}
    with Tracker(model, loss, (inputs, targets), output=output, **asked) as tracker:
        for step in range(steps + 1):
            tracker.step(step, optimizer=optimizer)
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    return tracker.curves


def drawn(runs: dict[float, TrainingCurves]) -> Figure:
    """Above the largest eigenvalues with their limits, beneath the costs."""
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, beneath = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for (rate, curves), colour in zip(runs.items(), COLOURS, strict=True):
        above.plot(curves.steps, curves.eigenvalues[:, 0], color=colour, lw=1.2, label=f"learning rate {rate:g}")
        above.axhline(2.0 / rate, color=colour, ls="--", lw=1.0)
        beneath.plot(curves.steps, curves.column("cost"), color=colour, lw=1.2)
    above.plot([], [], color="black", ls="--", lw=1.0, label="2 / learning rate")
    above.set_ylim(bottom=0.0)
    above.set_ylabel("largest eigenvalue of the Hessian\n(squared error / parameter²)")
    above.legend(fontsize=8)
    beneath.set_yscale("log")
    beneath.set_ylabel("training cost\n(mean squared error)")
    beneath.set_xlabel("step of full-batch gradient descent")
    for axes in (above, beneath):
        axes.grid(alpha=0.3)
    figure.suptitle("Edge of stability: a tanh network on 1,024 digits", fontsize=11)
    return figure


def told(rate: float, curves: TrainingCurves) -> str:
    """When the limit was first passed, and where the eigenvalue stayed from there on."""
    ratios = curves.eigenvalues[:, 0] * rate / 2.0
    passed = np.flatnonzero(ratios >= 1.0)
    if not len(passed):
        return f"learning rate {rate:g}: below 2 / lr = {2.0 / rate:.3g} throughout, {ratios[-1]:.2f} of it at the end"
    after = ratios[passed[0] :]
    costs = curves.column("cost")
    return (
        f"learning rate {rate:g}: passes 2 / lr = {2.0 / rate:.3g} by step {curves.steps[passed[0]]:,}, from there "
        f"{after.min():.2f} to {after.max():.2f} of it, mean {after.mean():.2f}; cost {costs[passed[0]]:.4f} to "
        f"{costs[-1]:.4f}, up in {np.mean(np.diff(costs[passed[0] :]) > 0.0):.0%} of records"
    )


def main() -> None:
    """Train, draw, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 0.7, 1.0], help="three learning rates at most")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=None, help="folder of the recorded runs")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.runs or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    runs = {}
    for rate in options.rates:
        runs[rate] = descended(rate, options.steps, options.every, folder / f"lr{rate:g}.h5")
        print(told(rate, runs[rate]), flush=True)
    save_figure(drawn(runs), options.figure)
    print(f"figure written to {options.figure}, runs to {folder}")


if __name__ == "__main__":
    main()
