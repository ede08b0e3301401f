"""Speed of the star-domain sampler beside the published algorithm, on the digits network at a cutoff of 0.01 nat.

The published search (Scherlis and Belrose 2025, and the code they released) written plainly: one direction at a time,
from a multiplier of 1 doubled until the cost passes the cutoff, then bisected until the cost is within a hundredth of
it; the cost of a vector is one pass of the model under torch.func.functional_call. Ours is ``star_domain_volume`` at
0.1 nat, pilots, scan for early crossings and radial integrals included; the search is given the same directions and
neither scans nor integrates. Both have the same preconditioner, Adam's second moment with eps 0.1, made before.

The error is n |log r - log r*|, nats of Lebesgue volume, r* from the same directions in float64 to a ten-thousandth
of a nat. Rounds are interleaved, each on directions of its own. Seconds are the processor's, of the one thread that
either side runs on, so that other work on the machine counts less.

    python benchmarks/volume_speed.py [--rounds 7] [--directions 256] [--output out/volume_speed.md]
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from basinscope.tasks import data_folder, digits_heldout
from spectra.checkpoint import adam_moments, read_checkpoint
from spectra.costs import kl_from_anchor
from spectra.lanczos import dots, draw_probes
from spectra.landscape import Landscape
from volume.preconditioners import Preconditioner, adam_curvature, diagonal_preconditioner
from volume.priors import GaussianPrior
from volume.rays import (
    PILOTS,
    StarDomainSettings,
    draw_rays,
    first_crossings,
    pilot_radius,
    ray_costs,
    star_domain_volume,
)

CHECKPOINT = "clean_seed0_step00640.pt"
CUTOFF = 0.01
OURS, PUBLISHED, TIGHT = "star_domain_volume at 0.1 nat", "published search, 1e-2 of the cutoff", "the same, 4e-5"
TOLERANCE = {PUBLISHED: 1e-2, TIGHT: 2.0 * 0.1 / 4810}
TRUE_NATS = 1e-4
# Directions whose true crossing is computed.
JUDGED = 128
FASTER, MOST_EVALUATIONS = 8.0, 6.0


@dataclass(frozen=True)
class Setting:
    """What both sides work on."""

    landscape: Landscape
    preconditioner: Preconditioner
    prior: GaussianPrior

    def directions(self, seed: int, count: int) -> tuple[Tensor, np.ndarray]:
        """Preconditioned vectors as unit rows (count, n), and their lengths (count,)."""
        size = self.landscape.size
        rows = self.preconditioner.apply(draw_probes(size, count, seed=seed, stream="directions") / math.sqrt(size))
        lengths = dots(rows, rows).sqrt()
        return rows / lengths.to(rows.dtype).unsqueeze(1), lengths.numpy()


def plain_cost(landscape: Landscape) -> Callable[[Tensor], float]:
    """Average divergence from the anchor's outputs, by one pass of the model."""
    (batch,) = list(landscape.iterate())
    names, shapes = landscape.parameters.names, landscape.parameters.shapes
    sizes = landscape.parameters.sizes
    anchor = batch.targets
    probabilities = anchor.exp()

    def cost(theta: Tensor) -> float:
        parts = torch.split(theta, sizes)
        tensors = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        logs = torch.log_softmax(functional_call(landscape.model, tensors, (batch.inputs,)), -1)
        return float((probabilities * (anchor - logs)).sum(-1).mean())

    return cost


def published_search(
    cost: Callable[[Tensor], float], centre: Tensor, vector: Tensor, tolerance: float
) -> tuple[float, int]:
    """Multiplier of a vector at which the cost is the cutoff within a relative tolerance, and its evaluations."""
    low, high, multiplier = 0.0, math.inf, 1.0
    evaluations = 0
    while evaluations < 100:
        evaluations += 1
        found = cost(centre + multiplier * vector)
        if abs(found - CUTOFF) <= tolerance * CUTOFF:
            break
        if found < CUTOFF:
            low = multiplier
        else:
            high = multiplier
        multiplier = 2.0 * multiplier if math.isinf(high) else (low + high) / 2.0
    return multiplier, evaluations


@dataclass(frozen=True)
class Measured:
    """Seconds a direction by round, evaluations by direction, errors in nats by direction."""

    seconds: list[float]
    evaluations: np.ndarray
    errors: np.ndarray


def search_all(setting: Setting, seed: int, count: int, tolerance: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Seconds, radii and evaluations of the published search."""
    cost, centre = plain_cost(setting.landscape), setting.landscape.theta
    with torch.no_grad():
        start = time.thread_time()
        units, lengths = setting.directions(seed, count)
        vectors = units * torch.as_tensor(lengths, dtype=units.dtype).unsqueeze(1)
        found = [published_search(cost, centre, vector, tolerance) for vector in vectors]
        seconds = time.thread_time() - start
    return seconds, np.array([one for one, _ in found]) * lengths, np.array([many for _, many in found])


def sample_all(setting: Setting, seed: int, count: int) -> tuple[float, np.ndarray]:
    """Seconds and evaluations of ours."""
    settings = StarDomainSettings(cutoff=CUTOFF, directions=count, seed=seed)
    start = time.thread_time()
    found = star_domain_volume(setting.landscape, settings, prior=setting.prior, preconditioner=setting.preconditioner)
    return time.thread_time() - start, found.evaluations


def our_radii(setting: Setting, seed: int, count: int) -> np.ndarray:
    """The crossings that ``star_domain_volume`` finds."""
    settings = StarDomainSettings(cutoff=CUTOFF, seed=seed)
    rays = draw_rays(
        setting.landscape, setting.prior, setting.preconditioner, seed=seed, stream="directions", first=0, count=count
    )
    guess = pilot_radius(setting.landscape, settings, setting.prior, setting.preconditioner)
    return rays.crossings(
        CUTOFF, guess=guess, tolerance=settings.nats / setting.landscape.size, scan=settings.scan
    ).radius


def true_radii(setting: Setting, units: Tensor, guess: float) -> np.ndarray:
    """Crossings in float64."""
    exact = setting.landscape.to(dtype=torch.float64)
    return first_crossings(
        ray_costs(exact, units.double()),
        len(units),
        CUTOFF,
        limit=np.full(len(units), 1e3),
        guess=guess,
        tolerance=TRUE_NATS / exact.size,
        scan=8,
    ).radius


def measure(setting: Setting, rounds: int, count: int) -> dict[str, Measured]:
    """All competitors, interleaved; the last round's directions are judged."""
    seconds: dict[str, list[float]] = {name: [] for name in (OURS, *TOLERANCE)}
    evaluations: dict[str, list[np.ndarray]] = {name: [] for name in seconds}
    radii: dict[str, np.ndarray] = {}
    sample_all(setting, 10**6, 2 * PILOTS)  # the first call decides how costs are evaluated
    for seed in range(rounds):
        took, spent = sample_all(setting, seed, count)
        seconds[OURS].append(took / count)
        evaluations[OURS].append(spent)
        for name, tolerance in TOLERANCE.items():
            took, radii[name], spent = search_all(setting, seed, count, tolerance)
            seconds[name].append(took / count)
            evaluations[name].append(spent)
        print(f"round {seed + 1} of {rounds}", flush=True)
    radii[OURS] = our_radii(setting, rounds - 1, count)
    units, _ = setting.directions(rounds - 1, count)
    judged = min(count, JUDGED)
    truth = true_radii(setting, units[:judged], float(np.median(radii[OURS])))
    return {
        name: Measured(
            seconds[name],
            np.concatenate(evaluations[name]),
            setting.landscape.size * np.abs(np.log(radii[name][:judged] / truth)),
        )
        for name in seconds
    }


def verdict(met: bool) -> str:
    """In a word."""
    return "met" if met else "**not met**"


def report(measured: dict[str, Measured], rounds: int, count: int) -> str:
    """One table, and the goals beneath."""
    base = measured[OURS].seconds
    lines = [
        f"# Star-domain directions on the digits network, cutoff {CUTOFF:g} nat",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()}; medians (and range) of "
        f"{rounds} interleaved rounds of {count} directions; seconds of the processor.",
        "",
        "| search | directions a second | evaluations a direction, median (mean) | milliseconds an evaluation "
        "| error in nats, median (largest) | ours is faster by | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        rates = [1.0 / second for second in found.seconds]
        rate = f"{statistics.median(rates):.4g} ({min(rates):.4g} to {max(rates):.4g})"
        middle, mean = np.median(found.evaluations), found.evaluations.mean()
        each = f"{1e3 * statistics.median(found.seconds) / mean:.3g}"
        error = f"{np.median(found.errors):.2g} ({found.errors.max():.2g})"
        ratio = statistics.median(other / mine for mine, other in zip(base, found.seconds, strict=True))
        faster, goal = f"{ratio:.1f}x", ""
        if name == OURS:
            faster, goal = "", f"at most {MOST_EVALUATIONS:g} evaluations: {verdict(middle <= MOST_EVALUATIONS)}"
        elif name == PUBLISHED:
            goal = f"at least {FASTER:g}x: {verdict(ratio >= FASTER)}"
        lines.append(f"| {name} | {rate} | {middle:g} ({mean:.1f}) | {each} | {error} | {faster} | {goal} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directions", type=int, default=256)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = read_checkpoint(data_folder() / "digits_mlp" / CHECKPOINT)
    landscape = digits_heldout(checkpoint).with_cost(kl_from_anchor)
    curvature = adam_curvature(adam_moments(checkpoint, landscape.model), landscape.parameters)
    setting = Setting(
        landscape,
        diagonal_preconditioner(curvature, eps=0.1, name="adam-second"),
        GaussianPrior.from_parameters_rms(landscape.theta),
    )
    text = report(measure(setting, asked.rounds, asked.directions), asked.rounds, asked.directions)
    print(text)
    if asked.output is not None:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
