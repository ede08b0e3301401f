"""What control variates take off the error of a sampled log-determinant, against a dense eigendecomposition.

    python benchmarks/determinant_controls.py data/digits_mlp/clean_seed0_step00640.pt --seeds 16

All estimates spend 400 products with the Gauss-Newton matrix, which is held dense so that the seeds are cheap; the
Kronecker factors take 20 gradients beside them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from basinscope.tasks.uci_digits import digits
from spectra.checkpoint import read_checkpoint
from spectra.density import controlled, kronecker_controls, trace_controls
from spectra.lanczos import probes_of
from spectra.operators import GaussNewton, KroneckerFactored, MatrixOperator
from spectra.plan import sampled_plan, with_block
from spectra.slq import deflated_space, empty_density, next_probes
from spectra.spectrum import SpectrumSettings

PRODUCTS, STEPS = 400, 25
SHARES = (1e-1, 1e-2, 1e-3, 1e-4)


def estimates(operator: MatrixOperator, factored: KroneckerFactored, shifts: list[float], seed: int) -> list[dict]:
    """Each estimate of ``log det(I + G / c)`` by its name, for each shift c."""
    usual = SpectrumSettings(operator="gauss-newton", steps=STEPS, seed=seed, block=8)
    plain, *_ = density_of(operator, replace(usual, steps=2 * STEPS, deflate=0))
    density, probes, space = density_of(operator, usual)
    trace = factored.integrate(lambda x: x)
    found = []
    for shift in shifts:
        sampled = density.logdet(shift, relative=True)
        controls = kronecker_controls(factored, probes, lambda x, c=shift: (x / c).log1p(), space)
        found.append(
            {
                "plain": plain.logdet(shift, relative=True).value,
                "deflated": sampled.value,
                "deflated, kronecker": controlled(sampled, controls).value,
                "deflated, trace": controlled(sampled, trace_controls(density, trace)).value,
                "kronecker alone": factored.integrate(lambda x, c=shift: (x / c).log1p()),
            }
        )
    return found


def density_of(operator: MatrixOperator, settings: SpectrumSettings):
    """A density of as many products as all others, with its probes and the space that they leave out."""
    settings = with_block(settings, operator)
    plan = sampled_plan(operator, settings)
    space = deflated_space(operator, settings, plan, "spectrum")
    spent = 0 if space is None else len(space.projected)
    settings = replace(settings, probes=(PRODUCTS - spent) // settings.steps)
    density = empty_density(operator, settings, space)
    while density.runs.probes < settings.probes:
        density = density.with_runs(next_probes(operator, settings, plan, space, density.runs.probes, "spectrum"))
    probes = probes_of(operator, settings.probes, seed=settings.seed, stream="probes/spectrum")
    return density, probes if space is None else space.complement(probes), space


def main() -> None:
    """Prints root mean square errors in nats, a row a shift."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seeds", type=int, default=16)
    given = parser.parse_args()
    landscape = digits(read_checkpoint(given.checkpoint))
    dense = GaussNewton(landscape).to_dense()
    values = np.maximum(torch.linalg.eigvalsh(dense.double()).numpy(), 0.0)
    operator, factored = MatrixOperator(dense, name="gauss-newton"), KroneckerFactored(landscape)
    shifts = [share * float(values.max()) for share in SHARES]
    seeds = [estimates(operator, factored, shifts, seed) for seed in range(given.seeds)]
    for place, (share, shift) in enumerate(zip(SHARES, shifts, strict=True)):
        exact = float(np.log1p(values / shift).sum())
        print(f"c = {share:g} of the largest eigenvalue: {exact:.2f} nats")
        for name in seeds[0][place]:
            errors = np.array([seed[place][name] for seed in seeds]) - exact
            print(f"  {name:22s} rms error {np.sqrt((errors**2).mean()):8.3g}")


if __name__ == "__main__":
    main()
