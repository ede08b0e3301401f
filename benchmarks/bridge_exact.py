"""The bridge against exact answers: 200 runs over ten cases, both origins, and one of 1,000 parameters by the clock.

    python benchmarks/bridge_exact.py --output out/bridge_exact.md

An answer counts as right within three of the run's own standard errors (and of the truth's own error, where that is
a count of random points). Seeds are fixed: the same command prints the same numbers.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy import optimize, stats

from basinscope.tasks import data_folder
from spectra.landscape import Landscape
from volume.audit import VOLUME, degenerate_case, measured_case, wells_case
from volume.bridge import bridge_volume
from volume.chains import ORIGINS, BridgeSettings
from volume.priors import GaussianPrior, Prior
from volume.quadratic import ParameterModule
from volume.rays import log_power_ball


@dataclass(frozen=True)
class Case:
    """What is bridged, and the answer.

    Attributes:
        name: for the table.
        landscape: the cost.
        prior: Gaussian.
        cutoff: T.
        exact: log mass, nats.
        error: of that.
        stiff: cooling the prior would take thousands of leaps a draw: only the anchor's ladder is run.
        apart: the set is of parts that are not joined: only the prior's ladder is run.
        target: which set.
    """

    name: str
    landscape: Landscape
    prior: Prior
    cutoff: float
    exact: float
    error: float = 0.0
    stiff: bool = False
    apart: bool = False
    target: str = "sublevel"


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each case")
    parser.add_argument("--rays", action="store_true", help="only the star domains and windows")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def landscape_of(cost: object, anchor: torch.Tensor) -> Landscape:
    """``cost(theta - anchor)`` in float64."""
    data = (torch.ones(1, 1, dtype=torch.float64), anchor.unsqueeze(0))
    return Landscape(ParameterModule(anchor), lambda outputs, targets: cost(outputs - targets), data)  # type: ignore[operator]


def digits_spectrum(size: int) -> np.ndarray:
    """So many eigenvalues of the digits Fisher matrix, evenly over their ranks."""
    with h5py.File(data_folder() / "digits_mlp_fisher.h5", "r") as file:
        values = np.sort(file["deflation_nodes"][()])
    return values[::-1][np.linspace(0, len(values) - 1, size).astype(int)]


def quartic_case() -> Case:
    """No curvature at all, under a prior so wide that its density is flat over the basin to 1e-3 nats."""
    size, deviation = 12, 30.0
    flat = -0.5 * size * math.log(2.0 * math.pi * deviation**2)
    exact = log_power_ball(4.0, 0.2, np.ones(size)) + flat
    place = landscape_of(lambda x: x.pow(4).sum(-1), torch.zeros(size, dtype=torch.float64))
    return Case("quartic, n = 12", place, GaussianPrior(deviation), 0.2, exact, stiff=True)


def banana_case() -> Case:
    """Three bent dimensions, by brute force."""

    def cost(x: torch.Tensor) -> torch.Tensor:
        return 0.05 * x[..., 0].square() + 5.0 * (x[..., 1] - 0.5 * x[..., 0].square()).square() + x[..., 2].square()

    anchor = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    source = torch.Generator().manual_seed(0)
    total, inside = 4_000_000, 0
    for _ in range(4):
        points = torch.randn(total // 4, 3, generator=source, dtype=torch.float64) * 1.2 - anchor
        inside += int((cost(points) < 0.3).sum())
    place = landscape_of(cost, anchor)
    return Case("banana, n = 3", place, GaussianPrior(1.2), 0.3, math.log(inside / total), inside**-0.5)


def ridge_case(window: float, target: str) -> Case:
    """A ball in a shell, a ridge between them: what of the shell is in the set depends on the window."""
    size, height, place, width = 6, 1.2, 2.0, 0.4

    def profile(r: float) -> float:
        return 0.1 * r**2 + height * math.exp(-0.5 * ((r - place) / width) ** 2)

    def cost(x: torch.Tensor) -> torch.Tensor:
        r = (x.square().sum(-1) + 1e-12).sqrt()
        return 0.1 * r.square() + height * (-0.5 * ((r - place) / width).square()).exp()

    ends = ((0.5, 1.9), (2.1, 2.9), (2.9, 4.0))
    inner, low, high = (optimize.brentq(lambda r: profile(r) - 1.0, *pair) for pair in ends)
    low = math.inf if window == 1.0 else low / (1.0 - window)
    law = stats.chi2(size)
    mass = law.cdf(inner**2) + max(law.cdf(high**2) - law.cdf(low**2), 0.0)
    anchor = torch.zeros(size, dtype=torch.float64)
    name = f"ball in a shell, n = {size}"
    return Case(name, landscape_of(cost, anchor), GaussianPrior(1.0), 1.0, math.log(mass), apart=True, target=target)


def cases() -> Iterator[Case]:
    """The cases of the table: sublevel sets, then sets of rays."""
    known = list(sublevel_cases())
    yield from known
    # Ellipsoids off the origin, wells and power balls are star-shaped about their anchors.
    yield from (replace(one, target="star") for one in known if one.name.startswith(("degenerate", "wells", "quartic")))
    yield ridge_case(0.1, "window:0.1")
    yield ridge_case(1.0, "star")


def sublevel_cases() -> Iterator[Case]:
    """Five cases with an answer."""
    for known, title in (
        (degenerate_case(), "degenerate ellipsoid off the origin, n = 60"),
        (measured_case("digits-300", digits_spectrum(300)), "spectrum of digits, off the origin, n = 300"),
        (wells_case(), "wells, n = 20"),
    ):
        truth = known.truths[VOLUME]
        assert known.landscape is not None
        yield Case(
            title, known.landscape, known.prior, known.cutoff, truth.value, truth.error, known.landscape.size > 100
        )
    yield quartic_case()
    yield banana_case()


def main() -> None:
    """Run everything and print the table."""
    asked = arguments()
    torch.set_num_threads(1)
    lines = [
        "| case | set | exact (nat) | runs | mean error | rms error | mean standard error | within 3 |",
        "|---|" + "---|" * 7,
    ]
    within, total = 0, 0
    for case in cases():
        if asked.rays and case.target == "sublevel":
            continue
        errors, bars = [], []
        for seed in range(asked.runs):
            origin = "quadratic" if case.stiff else "prior" if case.apart else ORIGINS[seed % len(ORIGINS)]
            spread = 1.0 if origin == "quadratic" else 1.5
            settings = BridgeSettings(
                (case.cutoff,),
                target=case.target,
                origin=origin,
                draws=60,
                warm_up=20,
                work_spread=spread,
                seed=seed,
            )
            volume = bridge_volume(case.landscape, case.prior, settings).volumes[0]
            errors.append(volume.log_volume - case.exact)
            bars.append(math.hypot(volume.standard_error, case.error))
            print(f"{case.name}, {case.target}, {origin}, seed {seed}: {errors[-1]:+.3f} +- {bars[-1]:.3f}", flush=True)
        right = int((np.abs(errors) <= 3.0 * np.array(bars)).sum())
        within, total = within + right, total + len(errors)
        rms = float(np.sqrt(np.mean(np.square(errors))))
        lines.append(
            f"| {case.name} | {case.target} | {case.exact:.3f} | {len(errors)} | {np.mean(errors):+.3f} | {rms:.3f} | "
            f"{np.mean(bars):.3f} | {right} |"
        )
    lines.append(f"\n{within} of {total} runs are within three of their own standard errors.")
    known = measured_case("digits-1000", digits_spectrum(1000))
    assert known.landscape is not None
    exact = known.truths[VOLUME].value
    start = time.perf_counter()
    volume = bridge_volume(known.landscape, known.prior, BridgeSettings((known.cutoff,), seed=0)).volumes[0]
    lines.append(
        f"\nn = 1,000, spectrum of digits: {volume.log_volume:.2f} ± {volume.mass.half_width():.2f} nats "
        f"for {exact:.2f}, in {time.perf_counter() - start:.0f} s on one thread."
    )
    text = "\n".join(lines)
    print(text)
    if asked.output is not None:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
