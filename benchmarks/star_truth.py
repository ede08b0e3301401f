"""The bias of every volume estimator on digits networks of 310 to 4,810 parameters, against the set that it claims.

    python benchmarks/star_truth.py --climb --widths 4 8 16   # ladders, minutes to hours each; killed, it goes on
    python benchmarks/star_truth.py                           # estimates, table and figure from what is known

Ladders are kept under ``out/truth/`` and their answers in ``data/digits_truth.csv``: two ladders of different seeds for
each width and set, and for each cutoff of the star domain. One from the prior goes by all cutoffs on its way. Estimates
are kept under ``out/truth/`` too.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from basinscope.runs import BridgeRequest, Machine, VolumeRequest, run_bridge, run_volume
from spectra.interval import with_error
from spectra.plots import save_figure
from volume.bridge import BridgeResult, read_bridge
from volume.chains import BridgeSettings
from volume.study import VolumeSettings

WIDTHS, CUTOFFS, SEEDS = (4, 8, 16, 32, 64), (1.0, 0.1, 0.01), (1, 2)
ORIGINS = {"star": "quadratic", "sublevel": "prior"}
PRIOR = "gaussian:1.3975"
KEPT, TABLE, FIGURE = Path("out/truth"), Path("data/digits_truth.csv"), Path("docs/figures/star_truth.png")
# The ladder that is stored, of 64 hidden units from the prior, is one of the two.
STORED, ITS_SEED = Path("data/digits_bridge.h5"), 2
# The estimator's name, the set that it claims, its method and its preconditioner.
ESTIMATORS = (
    ("star domain, no preconditioner", "star", "star-domain", "identity"),
    ("star domain, Adam's second moment", "star", "star-domain", "adam-second"),
    ("star domain, leading eigenpairs", "star", "star-domain", "low-rank"),
    ("quadratic mass", "sublevel", "quadratic-mass", "identity"),
    ("shifted determinant, k = 1", "sublevel", "shifted-determinant", "identity"),
)
# Chains of small networks that cool from the prior freeze in different places: no truth comes of these.
MOST_RHAT = 2.0
# Lanczos steps of a spectrum: with fewer the quadrature's own error shows beside the bias of the quadratic model.
STEPS = 512
# Sizes of the paper's networks, for which no truth is known.
LARGE = {"ConvNeXt Atto": 3.4e6, "Pythia 31M": 3.1e7}


@dataclass(frozen=True)
class Truth:
    """The answer of one ladder.

    Attributes:
        target: ``star`` or ``sublevel``.
        hidden: width of the network.
        size: number of parameters.
        cutoff: T, nats.
        seed: seed of the ladder.
        log_mass: nats.
        standard_error: standard error of it, nats.
        freedom: degrees of freedom of that.
        rhat: the largest of all rungs.
        drift: the second half of the draws less the first, nats.
        rungs: how many.
        gradients: evaluations.
        costs: evaluations.
    """

    target: str
    hidden: int
    size: int
    cutoff: float
    seed: int
    log_mass: float
    standard_error: float
    freedom: float
    rhat: float
    drift: float
    rungs: int
    gradients: int
    costs: int


def checkpoint(hidden: int) -> Path:
    """The network of a width."""
    if hidden == 64:
        return Path("data/digits_mlp/clean_seed0_step00640.pt")
    return Path(f"data/digits_widths/clean_hidden{hidden}_seed0_step00640.pt")


def ladder(target: str, hidden: int, cutoffs: tuple[float, ...], seed: int) -> Path:
    """Where a ladder is kept."""
    if (target, hidden, seed) == ("sublevel", 64, ITS_SEED):
        return STORED
    return KEPT / f"{target}_hidden{hidden}_{'_'.join(f'{cutoff:g}' for cutoff in cutoffs)}_seed{seed}.h5"


def climb(target: str, hidden: int, cutoffs: tuple[float, ...], seed: int, draws: int) -> None:
    """One ladder, from its file if it is there; whole ones cost nothing."""
    output = ladder(target, hidden, cutoffs, seed)
    if output == STORED:
        return
    request = BridgeRequest(
        checkpoint=checkpoint(hidden),
        settings=BridgeSettings(
            cutoffs,
            target=target,
            origin=ORIGINS[target],
            chains=8,
            draws=draws,
            warm_up=8,
            kept=draws,
            work_spread=3.0,
            seed=seed,
        ),
        output=output,
        prior=PRIOR,
        machine=Machine(threads=1),
        resume=True,
        command="python benchmarks/star_truth.py --climb",
    )
    run_bridge(request, lambda *_: None)


def asked_for(target: str, cutoffs: Sequence[float]) -> list[tuple[float, ...]]:
    """The cutoffs of each ladder."""
    return [tuple(cutoffs)] if ORIGINS[target] == "prior" else [(cutoff,) for cutoff in cutoffs]


def answer(result: BridgeResult, hidden: int, cutoff: float, seed: int) -> Truth:
    """What a complete ladder says of a cutoff."""
    volume, drift = result.volume(cutoff), result.drift
    return Truth(
        result.settings.target,
        hidden,
        result.size,
        cutoff,
        seed,
        round(volume.log_volume, 3),
        round(volume.standard_error, 3),
        volume.freedom,
        round(result.diagnostics.largest_rhat, 3),
        math.nan if drift is None else round(drift[0], 3),
        len(result.rungs),
        result.gradient_evaluations,
        result.cost_evaluations,
    )


def answers() -> list[Truth]:
    """What the table has, with what complete ladders under ``out/`` say now."""
    known: dict[tuple[str, int, float, int], Truth] = {}
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            kinds = {one.name: {"str": str, "int": int, "float": float}[str(one.type)] for one in fields(Truth)}
            for row in csv.DictReader(file):
                one = Truth(**{name: kind(row[name]) for name, kind in kinds.items()})
                known[one.target, one.hidden, one.cutoff, one.seed] = one
    for target, hidden, seed in itertools.product(ORIGINS, WIDTHS, SEEDS):
        for cutoffs in asked_for(target, CUTOFFS):
            path = ladder(target, hidden, cutoffs, seed)
            if path.exists() and (result := read_bridge(path)[0]).complete:
                found = (answer(result, hidden, cutoff, seed) for cutoff in cutoffs)
                known |= {(one.target, one.hidden, one.cutoff, one.seed): one for one in found}
    found = [known[key] for key in sorted(known)]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Truth)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, found))
    return found


def combined(truths: list[Truth]) -> dict[tuple[str, int, float], tuple[float, float]]:
    """The mean of the ladders of one set, and its standard error: no less than half of their distance.

    Ladders whose chains are far from agreeing are left out.
    """
    agreeing = [one for one in truths if one.rhat <= MOST_RHAT]
    grouped = itertools.groupby(agreeing, key=lambda one: (one.target, one.hidden, one.cutoff))
    found = {}
    for key, group in grouped:
        ladders = list(group)
        values, errors = (np.array([getattr(one, name) for one in ladders]) for name in ("log_mass", "standard_error"))
        apart = 0.5 * float(np.ptp(values))
        found[key] = float(values.mean()), max(float(np.sqrt((errors**2).sum())) / len(errors), apart)
    return found


def estimates(hidden: int, cutoff: float) -> Iterator[tuple[str, str, float, float]]:
    """Of each estimator its name, its set, the log mass and the standard error, nats."""
    for name, target, method, preconditioner in ESTIMATORS:
        settings = VolumeSettings(
            methods=(method,), cutoff=cutoff, prior=PRIOR, preconditioner=preconditioner, steps=STEPS
        )
        request = VolumeRequest(
            checkpoint=checkpoint(hidden),
            settings=settings,
            machine=Machine(threads=1),
            output=KEPT / f"estimate_{method}_{preconditioner}_hidden{hidden}_{cutoff:g}.h5",
            resume=True,
            command="python benchmarks/star_truth.py",
        )
        (found,) = run_volume(request, lambda *_: None).results.values()
        print(f"{hidden} hidden units, {cutoff:g}, {name}: {found.text}", file=sys.stderr, flush=True)
        yield name, target, found.log_volume, found.known.standard_error


def power_law(rows: list[tuple[int, float, float]]) -> tuple[float, float] | None:
    """Exponent and factor of ``-bias = factor n^exponent``, by least squares of the logarithms.

    None where there are fewer than three sizes, or the estimate is not below the truth at all of them.
    """
    sizes, biases, _ = map(np.array, zip(*rows, strict=True))
    if len(sizes) < 3 or (biases >= 0.0).any():
        return None
    slope, start = np.polyfit(np.log(sizes), np.log(-biases), 1)
    return float(slope), float(np.exp(start))


def report(truths: list[Truth]) -> str:
    """The table of biases, with the fits; the figure is drawn beside it."""
    known = combined(truths)
    sizes = {one.hidden: one.size for one in truths}
    lines = ["| parameters | cutoff (nat) | set | truth (nat) | estimator | bias (nat) |", "|---|---|---|---|---|---|"]
    points: dict[tuple[str, str, float], list[tuple[int, float, float]]] = {}
    for hidden, cutoff in sorted({(one.hidden, one.cutoff) for one in truths}, key=lambda key: (key[0], -key[1])):
        for name, target, value, error in estimates(hidden, cutoff):
            if (target, hidden, cutoff) not in known or not math.isfinite(value):
                continue
            truth, its_error = known[target, hidden, cutoff]
            bias, total = value - truth, math.hypot(error, its_error)
            points.setdefault((name, target, cutoff), []).append((sizes[hidden], bias, total))
            cells = (f"{sizes[hidden]:,}", f"{cutoff:g}", target, with_error(truth, 1.96 * its_error), name)
            lines.append(f"| {' | '.join(cells)} | {bias:+,.1f} ± {1.96 * total:.1f} |")
    lines.append("")
    for (name, _, cutoff), rows in points.items():
        if (law := power_law(rows)) is None:
            continue
        exponent, factor = law
        far = "; ".join(f"{-factor * size**exponent:,.2g} for {title}" for title, size in LARGE.items())
        lines.append(f"{name}, cutoff {cutoff:g}: bias about -{factor:.3g} n^{exponent:.2f}; extrapolated {far} (nat).")
    draw(points)
    return "\n".join(lines)


def draw(points: dict[tuple[str, str, float], list[tuple[int, float, float]]]) -> None:
    """A panel a set of several sizes: distances from the truth, a colour an estimator, a marker a cutoff."""
    titles = {"star": "the star domain", "sublevel": "the whole sublevel set"}
    shown = [
        one for one in titles if len({row[0] for key, rows in points.items() for row in rows if key[1] == one}) > 1
    ]
    figure, axes = plt.subplots(1, len(shown), figsize=(7.0 * len(shown), 5.0), squeeze=False, layout="constrained")
    colours = {name: f"C{place}" for place, (name, *_) in enumerate(ESTIMATORS)}
    markers = dict(zip(CUTOFFS, "osD", strict=True))
    for axis, target in zip(axes[0], shown, strict=True):
        for (name, its_target, cutoff), rows in points.items():
            if its_target != target:
                continue
            n, bias, error = map(np.array, zip(*rows, strict=True))
            colour, marker = colours[name], markers[cutoff]
            axis.errorbar(n, np.abs(bias), 1.96 * error, color=colour, linewidth=1.0, capsize=2.0)
            faces = [colour if below else "white" for below in bias < 0.0]
            axis.scatter(n, np.abs(bias), c=faces, edgecolors=colour, marker=marker, zorder=3)
            if (law := power_law(rows)) is not None:
                reach = np.array([n[-1], max(LARGE.values())])
                axis.plot(reach, law[1] * reach ** law[0], color=colour, linestyle=":", linewidth=1.0)
        for title, size in LARGE.items():
            axis.axvline(size, color="grey", linewidth=0.8)
            axis.annotate(title, (size, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right", fontsize=7)
        axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="distance from the truth (nat)")
        axis.set_title(f"against {titles[target]}")
        used = {key[0] for key in points if key[1] == target}
        handles = [Line2D([], [], color=colours[name], label=name) for name, *_ in ESTIMATORS if name in used]
        handles += [
            Line2D([], [], color="grey", marker=markers[cutoff], linestyle="", label=f"cutoff {cutoff:g} nat")
            for cutoff in CUTOFFS
        ]
        handles += [
            Line2D([], [], color="grey", marker="o", linestyle="", label="estimate below the truth"),
            Line2D([], [], color="grey", marker="o", markerfacecolor="white", linestyle="", label="above"),
            Line2D([], [], color="grey", linestyle=":", label="extrapolated"),
        ]
        axis.legend(handles=handles, fontsize=7, loc="upper left")
    save_figure(figure, FIGURE)


def main() -> None:
    """Climb, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--climb", action="store_true", help="climb the ladders that are not done")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, choices=WIDTHS)
    parser.add_argument("--cutoffs", type=float, nargs="+", default=CUTOFFS)
    parser.add_argument("--targets", nargs="+", default=tuple(ORIGINS), choices=tuple(ORIGINS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--draws", type=int, default=64, help="of each of 8 chains at each rung")
    asked = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if asked.climb:
        for target, seed, hidden in itertools.product(asked.targets, asked.seeds, asked.widths):
            for cutoffs in asked_for(target, asked.cutoffs):
                climb(target, hidden, cutoffs, seed, asked.draws)
                print(f"{target}, {hidden} hidden units, {cutoffs}, seed {seed}: done", file=sys.stderr, flush=True)
                answers()
    else:
        print(report(answers()))


if __name__ == "__main__":
    main()
