"""The star-domain sampler at many cutoffs: each direction is drawn once, and followed outwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectra.landscape import Landscape
from volume.preconditioners import Preconditioner
from volume.priors import Prior
from volume.rays import (
    CostSurface,
    Crossings,
    Rays,
    StarDomainSettings,
    concatenated,
    over_ranks,
    pilot_radius,
)
from volume.result import VolumeEstimate

Array = NDArray[np.float64]
# Radii apart by more than this many tolerances do not differ by the solver's error alone.
_TELL = 10.0


def sample_cutoffs(
    landscape: Landscape,
    cutoffs: Array,
    settings: StarDomainSettings,
    *,
    prior: Prior,
    preconditioner: Preconditioner,
    correction: Tensor | None = None,
    resume: tuple[VolumeEstimate, ...] = (),
    on_block: Callable[[tuple[VolumeEstimate, ...]], None] | None = None,
) -> tuple[VolumeEstimate, ...]:
    """``star_domain_volume`` at each cutoff, with common directions.

    The crossing of one cutoff, moved as on a paraboloid, is the first guess for the next. A first crossing cannot lie
    beyond that of a larger cutoff: where the scan of the larger one found a bump, the smaller one's is moved there.

    Args:
        landscape: the cost, of size n.
        cutoffs: (q,) T, ascending.
        settings: as for the sampler; its cutoff is not used.
        prior: the measure.
        preconditioner: P, for all cutoffs.
        correction: as for the sampler.
        resume: earlier estimates of the same cutoffs and settings with fewer directions.
        on_block: called with the estimates so far after each block of directions.

    Returns:
        One estimate a cutoff.

    Raises:
        UserError: if the cost is not a number on some ray.
    """
    lowest = replace(settings, cutoff=float(cutoffs[0]))
    guess = pilot_radius(landscape, lowest, prior, preconditioner, correction)

    def solved(surface: CostSurface, first: int, count: int) -> tuple[VolumeEstimate, ...]:
        rays = settings.rays(surface, prior, preconditioner, correction, first, count)
        crossings = _followed(rays, cutoffs, guess, settings)
        return tuple(rays.terms(at, float(T)) for at, T in zip(crossings, cutoffs, strict=True))

    estimates, done = resume, len(resume[0].log_terms) if resume else 0
    while count := settings.next_block(landscape, done):
        found = over_ranks(landscape, solved, done, count)
        estimates = tuple(map(concatenated, estimates, found)) if estimates else found
        done += count
        if on_block is not None:
            on_block(estimates)
    return estimates


def _followed(rays: Rays, cutoffs: Array, guess: float, settings: StarDomainSettings) -> list[Crossings]:
    """Crossings of ascending cutoffs, each found from the one before."""
    tolerance = settings.nats / rays.size
    start: Array = np.full(len(rays.limit), guess)
    found: list[Crossings] = []
    for number, cutoff in enumerate(cutoffs):
        found.append(
            rays.crossings(float(cutoff), guess=start, tolerance=tolerance, scan=settings.scan, noise=settings.noise)
        )
        if number + 1 < len(cutoffs):
            start = found[-1].radius * np.sqrt(cutoffs[number + 1] / cutoff)
    for number in range(len(found) - 2, -1, -1):
        found[number] = _before(found[number], found[number + 1], tolerance)
    return found


def _before(crossings: Crossings, larger: Crossings, tolerance: float) -> Crossings:
    """Crossings held to those of a larger cutoff."""
    early = crossings.radius > larger.radius * (1.0 + _TELL * tolerance)
    # Noise in the cost puts crossings out of order too, but not by more than it says of its error.
    early &= np.log(crossings.radius / larger.radius) > crossings.error + larger.error
    return replace(
        crossings,
        radius=np.where(early, larger.radius, crossings.radius),
        error=np.where(early, larger.error, crossings.error),
        unbounded=crossings.unbounded & ~early,
        monotone=crossings.monotone & ~early,
    )
