"""The best estimate of one spectral sum for a fixed number of products."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.lanczos import Array, Function, Tridiagonal, krylov_space, lanczos, probe_means, probes_of
from spectra.operators import SymmetricOperator
from spectra.plan import KRYLOV_BLOCK, KRYLOV_EXTRA, KRYLOV_SHARE

PILOTS = 3


@dataclass(frozen=True, eq=False)
class BudgetedSum:
    """A spectral sum and how its budget was split.

    Attributes:
        estimate: the sum with its errors.
        density: the evidence.
        products: products spent.
        steps: Lanczos steps a probe that were chosen.
        captured: dimension of the deflated Krylov space.
    """

    estimate: Estimate
    density: SpectralDensity
    products: int
    steps: int
    captured: int


def integrate_within(
    operator: SymmetricOperator, function: Function, products: int, *, max_steps: int = 64, seed: int = 0
) -> BudgetedSum:
    r"""``tr f(H)`` from a fixed number of products, split by what f needs.

    A quarter of the products builds a block Krylov space that is deflated. Three pilot probes of ``max_steps`` steps
    in the complement say how fast the quadrature converges for f, and what one probe's variance is: ``2 (|f|_F^2 / d -
    mean^2)`` for the sphere. Many probes of few steps m have little variance but a truncation error, which the pilots
    know and correct (multilevel Monte Carlo with two levels): ``mean over all of I_m + mean over pilots of (I_M -
    I_m)``. The m with the least predicted error is taken, and the rest of the budget goes into probes.

    Args:
        operator: H, of size n.
        function: f, elementwise on arrays.
        products: budget, at least ``16 * max_steps / 3``.
        max_steps: most Lanczos steps a probe.
        seed: seed of all probes.

    Returns:
        The sum with its errors, and the split.

    Raises:
        UserError: if the budget is too small for the Krylov space and the pilots, or f is not finite on the spectrum.

    Reference:
        Chen and Hallman, Krylov-aware stochastic trace estimation, 2023, for the deflation.
    """
    depth = max(1, int(products * KRYLOV_SHARE) // KRYLOV_BLOCK - KRYLOV_EXTRA)
    depth = min(depth, operator.size // (2 * KRYLOV_BLOCK) - KRYLOV_EXTRA)
    max_steps = min(max_steps, operator.size)
    spent = KRYLOV_BLOCK * (depth + KRYLOV_EXTRA)
    left = products - spent
    if depth < 1 or left < (PILOTS + 1) * max_steps:
        least = spent + (PILOTS + 1) * max_steps
        raise UserError(f"products must be at least {least} for {max_steps} steps a probe, got {products}")
    starts = probes_of(operator, KRYLOV_BLOCK, seed=seed, stream="krylov")
    space = krylov_space(operator, starts, depth, extra=KRYLOV_EXTRA)

    def runs(first: int, count: int, steps: int) -> Tridiagonal:
        probes = probes_of(operator, count, seed=seed, first=first)
        return lanczos(operator, space.complement(probes), steps).tridiagonal

    epsilon = torch.finfo(operator.dtype).eps
    pilots = SpectralDensity(operator.size, runs(0, PILOTS, max_steps), space.deflation(), operator.name, epsilon)
    steps, count = _best_split(pilots, function, left - PILOTS * max_steps)
    short = pilots.runs if steps == max_steps else leading(pilots.runs, steps)
    density = replace(pilots, runs=short.appended(runs(PILOTS, count, steps)) if count else short)
    spent += PILOTS * max_steps + count * steps
    return BudgetedSum(_two_levels(density, pilots, function), density, spent, steps, space.captured)


def _two_levels(density: SpectralDensity, pilots: SpectralDensity, function: Function) -> Estimate:
    """The mean over short runs, corrected by what the pilots' long runs add to their short ones."""
    long = pilots.integrate(function)
    if density.runs.steps == pilots.runs.steps:
        return density.integrate(function)
    gained = pilots.complement * (
        _means(pilots.runs, pilots.runs.steps, function) - _means(pilots.runs, density.runs.steps, function)
    )
    # The correction's own uncertainty, at 95 %, counts as truncation error beside that of the long runs.
    doubt = from_samples(gained).half_width()
    samples = density.deflation.integrate(function) + density.complement * _means(
        density.runs, density.runs.steps, function
    )
    return from_samples(samples + gained.mean(), truncation_error=long.truncation_error + doubt)


def leading(runs: Tridiagonal, steps: int) -> Tridiagonal:
    """The first ``steps`` steps of each run."""
    lengths = np.minimum(runs.lengths, steps)
    return Tridiagonal(runs.diagonal[:, :steps], runs.off_diagonal[:, :steps], lengths)


def _best_split(density: SpectralDensity, function: Function, left: int) -> tuple[int, int]:
    """Steps a probe and number of further probes with the least predicted squared error."""
    most = density.runs.steps
    reference = _means(density.runs, most, function)
    mean = float(reference.mean())
    square = float(_means(density.runs, most, lambda x: function(x) ** 2).mean())
    variance = 2.0 * max(square - mean**2, 0.0)
    best: tuple[float, int, int] | None = None
    for steps in sorted({max(1, round(most * share)) for share in 2.0 ** -np.arange(0, 7, 0.5)}):
        count = left // steps
        gained = reference - _means(density.runs, steps, function)
        # The mean square, not the variance: three pilots judge a variance badly, and a function for which short
        # runs are far off (a kink, say) is one whose correction they cannot be trusted with.
        doubt = float(np.mean(gained**2)) / PILOTS
        error = variance / ((count + PILOTS) * max(density.complement, 1)) + doubt
        if best is None or error < best[0]:
            best = (error, steps, count)
    assert best is not None
    return best[1], best[2]


def _means(runs: Tridiagonal, steps: int, function: Function) -> Array:
    return probe_means(runs.quadrature(steps), function)
