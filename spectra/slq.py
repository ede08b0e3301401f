"""Stochastic Lanczos quadrature of any symmetric operator, deflated by a block Krylov space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from spectra.density import SpectralDensity
from spectra.lanczos import KrylovSpace, Tridiagonal, krylov_space, lanczos, no_runs, starts_of
from spectra.operators import SymmetricOperator
from spectra.plan import KRYLOV_BLOCK, KRYLOV_EXTRA, Plan, sampled_plan, with_block
from spectra.spectrum import SpectrumSettings

Tell = Callable[[int], None]


def slq_density(
    operator: SymmetricOperator, settings: SpectrumSettings | None = None, *, stream: str = "spectrum"
) -> SpectralDensity:
    """The density of an operator by sampling, whatever its size.

    Args:
        operator: H, any symmetric operator of size n.
        settings: probes, steps, deflate, seed, block, memory and reorthogonalise are used.
        stream: name of the random stream; the same name, seed and size give the same probes.

    Returns:
        The density, with all probes done.

    Raises:
        UserError: if what was asked for does not fit the memory or the size, or a product is not finite.

    Reference:
        Ubaru, Chen and Saad 2017 for the quadrature; Chen and Hallman 2023 for the deflation.

    >>> import torch
    >>> from spectra.operators import MatrixOperator
    >>> density = slq_density(MatrixOperator(torch.eye(40)), SpectrumSettings(probes=2, steps=4))
    >>> round(density.trace().value, 3)
    40.0
    """
    settings = with_block(settings or SpectrumSettings(), operator)
    plan = sampled_plan(operator, settings)
    space = deflated_space(operator, settings, plan, stream)
    density = empty_density(operator, settings, space)
    while density.runs.probes < settings.probes:
        density = density.with_runs(next_probes(operator, settings, plan, space, density.runs.probes, stream))
    return density


def empty_density(
    operator: SymmetricOperator, settings: SpectrumSettings, space: KrylovSpace | None
) -> SpectralDensity:
    """The density before its first probe: what the Krylov space alone says."""
    runs, epsilon = no_runs(min(settings.steps, operator.size)), torch.finfo(operator.dtype).eps
    density = SpectralDensity(
        operator.size, runs, operator=operator.name, epsilon=epsilon, coarseness=operator.coarseness
    )
    return density if space is None else replace(density, deflation=space.deflation())


def deflated_space(
    operator: SymmetricOperator,
    settings: SpectrumSettings,
    plan: Plan,
    stream: str,
    tell: Tell | None = None,
    on_part: Callable[[KrylovSpace], None] | None = None,
) -> KrylovSpace | None:
    """The Krylov space that the plan deflates, None if it deflates nothing; deterministic in the seed."""
    if plan.depth == 0:
        return None
    starts = starts_of(operator, KRYLOV_BLOCK, seed=settings.seed, stream=f"krylov/{stream}")
    return krylov_space(operator, starts, plan.depth, extra=KRYLOV_EXTRA, progress=tell, on_part=on_part)


def next_probes(
    operator: SymmetricOperator,
    settings: SpectrumSettings,
    plan: Plan,
    space: KrylovSpace | None,
    first: int,
    stream: str,
    tell: Tell | None = None,
) -> Tridiagonal:
    """The Lanczos runs of the next block of probes, from number ``first`` to the end of its block."""
    count = min(settings.block - first % settings.block, settings.probes - first)

    def starts() -> Tensor:
        probes = starts_of(operator, count, seed=settings.seed, first=first, stream=f"probes/{stream}")
        return probes if space is None else space.complement(probes)

    run = lanczos(operator, starts(), settings.steps, reorthogonalise=plan.reorthogonalise, progress=tell)
    return run.tridiagonal
