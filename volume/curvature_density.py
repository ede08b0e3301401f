"""The eigenvalue density of any curvature operator, by the route that a spectrum would take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from spectra.costs import KLFromAnchor
from spectra.density import SpectralDensity, dense_spectrum, gram_spectrum
from spectra.landscape import Landscape
from spectra.operators import JacobianSandwich, SymmetricOperator
from spectra.plan import PROBES_AT_ONCE_ELSEWHERE, plan_route
from spectra.slq import deflated_space, empty_density, next_probes
from spectra.spectrum import SpectrumSettings

# The random stream of the probes, the same as a spectrum's.
STREAM = "spectrum"


def curvature_name(landscape: Landscape) -> str:
    """The curvature that determinants use: the Fisher of a KL, a likelihood's Gauss-Newton, else the Hessian."""
    if isinstance(landscape.softmax, KLFromAnchor):
        return "fisher"
    return "hessian" if landscape.likelihood is None else "gauss-newton"


def fitting_block(size: int, dtype: torch.dtype, memory: int) -> int:
    """Probes of one Lanczos block: as many as fit the memory, at four vectors a probe, at most eight.

    >>> fitting_block(10, torch.float32, 480), fitting_block(10, torch.float32, 1)
    (3, 1)
    """
    return max(1, min(PROBES_AT_ONCE_ELSEWHERE, memory // (4 * size * dtype.itemsize)))


def curvature_density(
    operator: SymmetricOperator,
    settings: SpectrumSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SpectralDensity:
    """The density of an operator, exact where that costs no more than sampling.

    Unlike ``spectra.compute.compute_spectrum`` it takes an operator, so also one in the units of a prior.

    Args:
        operator: H, of size n.
        settings: probes, steps, deflate, engine, seed, block, memory and reorthogonalise are used.
        progress: called with the products done and all products.

    Returns:
        The density with all probes done.

    Raises:
        UserError: if what was asked for does not fit the memory, or a product is not finite.

    >>> import torch
    >>> from spectra.operators import MatrixOperator
    >>> curvature_density(MatrixOperator(torch.eye(3)), SpectrumSettings()).trace().value
    3.0
    """
    plan = plan_route(operator, settings)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, plan.products), plan.products)

    if plan.route == "dense":
        return dense_spectrum(operator)
    if plan.route == "gram":
        assert isinstance(operator, JacobianSandwich)
        return replace(gram_spectrum(operator), epsilon=torch.finfo(operator.dtype).eps)
    space = deflated_space(operator, settings, plan, STREAM, tell)
    density = empty_density(operator, settings, space)
    while density.runs.probes < settings.probes:
        density = density.with_runs(next_probes(operator, settings, plan, space, density.runs.probes, STREAM, tell))
    return density
