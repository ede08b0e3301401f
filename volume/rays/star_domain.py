"""The star-domain sampler: volume of the points whose whole segment from the anchor stays below the cutoff."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from spectra.errors import UserError, require_counts
from spectra.landscape import Landscape
from volume.chunks import at_once, squared_lengths
from volume.preconditioners import Identity, Preconditioner
from volume.priors import Lebesgue, Prior
from volume.rays.cost_surface import CostSurface
from volume.rays.rays import Rays, draw_rays
from volume.rays.shared_directions import alone, over_ranks
from volume.result import VolumeEstimate

PILOTS = 4
_HALF_DECADE = 10.0**0.5
EPS_CANDIDATES = tuple(10.0**power for power in range(-6, 2))


@dataclass(frozen=True)
class StarDomainSettings:
    """Everything that decides the numbers, apart from landscape, prior and preconditioner.

    Attributes:
        cutoff: T, unit of the cost, positive.
        directions: number of directions.
        nats: error allowed in each log term from its crossing.
        scan: radii looked at below each crossing, for rays that are not monotone.
        seed: seed of the directions.
        stream: name of the random stream; another one gives fresh directions.
        block: directions solved together, and that a kill loses at most; fewer of a large model, whose directions would
            not fit the memory.
        noise: rounding noise of the cost, its unit: crossings are not sought more finely, and their errors include it.
    """

    cutoff: float = 0.01
    directions: int = 1000
    nats: float = 0.1
    scan: int = 2
    seed: int = 0
    stream: str = "directions"
    block: int = 64
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("cutoff", "nats"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise UserError(f"{name} must be positive and finite, got {value}")
        require_counts(self, {"directions": 1, "block": 1})
        if not (math.isfinite(self.noise) and self.noise >= 0.0):
            raise UserError(f"noise must be non-negative and finite, got {self.noise}")

    def rays(
        self,
        surface: CostSurface,
        prior: Prior,
        preconditioner: Preconditioner,
        correction: Tensor | None,
        first: int,
        count: int,
    ) -> Rays:
        """Rays of so many directions from the first on, by these settings' seed and stream."""
        return draw_rays(
            surface,
            prior,
            preconditioner,
            correction=correction,
            seed=self.seed,
            stream=self.stream,
            first=first,
            count=count,
        )

    def next_block(self, landscape: CostSurface, done: int) -> int:
        """How many directions to solve next, 0 if all are: each rank follows as many as fit its memory."""
        ranks = landscape.ranks.count if isinstance(landscape, Landscape) else 1
        block = min(self.block, at_once(landscape.size, self.block) * ranks)
        return max(0, min(block - done % block, self.directions - done))


def star_domain_volume(
    landscape: CostSurface,
    settings: StarDomainSettings | None = None,
    *,
    prior: Prior | None = None,
    preconditioner: Preconditioner | None = None,
    correction: Tensor | None = None,
    resume: VolumeEstimate | None = None,
    on_block: Callable[[VolumeEstimate], None] | None = None,
) -> VolumeEstimate:
    r"""Unbiased Monte Carlo estimate of the measure of the star domain around the anchor.

    ``log V = log |S^(n-1)| + log mean_i [ int_0^r(u_i) rho(theta* + r u_i) r^(n-1) dr / |v_i|^n ]`` with z uniform on
    the sphere, ``v = z P``, ``u = v / |v|`` and P of determinant one. The terms are unbiased, their mean is dominated
    by its largest: the log is biased low, and is read as a lower bound unless many directions carry it.

    Args:
        landscape: the cost, of size n; its value at the anchor is subtracted.
        settings: cutoff, number of directions and precision.
        prior: the measure; default Lebesgue.
        preconditioner: P; default the identity.
        correction: (n,) c, unit of the curvature: the domain is that of ``C + 1/2 sum_i c_i x_i^2``, x the displacement
            from the anchor; default none.
        resume: an earlier estimate with the same settings and fewer directions; its terms are kept to the bit.
        on_block: called with the partial estimate after each block of directions.

    Returns:
        The estimate with all directions.

    Raises:
        UserError: if the cost is not a number on some ray, a setting is out of range, or the preconditioner is for
            another number of parameters.

    Reference:
        Scherlis and Belrose, Estimating the probability of sampling a trained neural network at random, 2025.
    """
    settings = settings or StarDomainSettings()
    prior, preconditioner = prior or Lebesgue(), preconditioner or Identity()
    if preconditioner.size not in (None, landscape.size):
        raise UserError(
            f"preconditioner {preconditioner.name} must be for the {landscape.size} parameters of the landscape, got "
            f"one for {preconditioner.size}"
        )
    guess = pilot_radius(landscape, settings, prior, preconditioner, correction)

    def solved(surface: CostSurface, first: int, count: int) -> tuple[VolumeEstimate]:
        rays = settings.rays(surface, prior, preconditioner, correction, first, count)
        tolerance = settings.nats / surface.size
        crossings = rays.crossings(
            settings.cutoff, guess=guess, tolerance=tolerance, scan=settings.scan, noise=settings.noise
        )
        return (rays.terms(crossings, settings.cutoff),)

    estimate = resume
    done = 0 if resume is None else len(resume.log_terms)
    while count := settings.next_block(landscape, done):
        (found,) = over_ranks(landscape, solved, done, count)
        estimate = found if estimate is None else concatenated(estimate, found)
        done += count
        if on_block is not None:
            on_block(estimate)
    assert estimate is not None
    return estimate


def search_eps(
    landscape: CostSurface,
    build: Callable[[float], Preconditioner],
    settings: StarDomainSettings,
    *,
    prior: Prior | None = None,
    directions: int = 32,
) -> float:
    """The eps whose preconditioner gives the largest estimate on directions of their own.

    Powers of ten are tried first, then half a decade to either side of the best of them. By Markov's inequality the
    larger of two estimates is the more accurate one; because the directions are not those of the final estimate,
    choosing does not bias it.

    Args:
        landscape: the cost.
        build: eps -> preconditioner.
        settings: settings as for the estimate; its directions are not used.
        prior: the measure.
        directions: how many each, the same for all.

    Returns:
        The best of those tried.
    """
    tried = replace(settings, directions=directions, stream="eps-search")

    def volume(eps: float) -> float:
        return star_domain_volume(landscape, tried, prior=prior, preconditioner=build(eps)).log_volume

    coarse = max(EPS_CANDIDATES, key=volume)
    return max((coarse, coarse * _HALF_DECADE, coarse / _HALF_DECADE), key=volume)


def pilot_radius(
    landscape: CostSurface,
    settings: StarDomainSettings,
    prior: Prior,
    preconditioner: Preconditioner,
    correction: Tensor | None = None,
) -> float:
    """A first guess for all rays, from a few of their own stream: the same after a resumption.

    Args:
        landscape: the cost.
        settings: cutoff and seed are used.
        prior: the measure.
        preconditioner: preconditioner of the directions.
        correction: correction as in ``star_domain_volume``.

    Returns:
        The median radius of the pilots.

    Raises:
        UserError: if the cutoff is so small that rays cross it at once.
    """
    start = 1e-2 * max(float(squared_lengths(landscape.theta[None]).sqrt()), 1e-6)
    count, radii = at_once(landscape.size, PILOTS), []
    for first in range(0, PILOTS, count):
        pilots = draw_rays(
            alone(landscape),
            prior,
            preconditioner,
            correction=correction,
            seed=settings.seed,
            stream="pilots",
            first=first,
            count=min(count, PILOTS - first),
        )
        radii.append(pilots.crossings(settings.cutoff, guess=start, tolerance=0.05, scan=0).radius)
        del pilots  # its directions, before the next ones are drawn
    found = float(np.median(np.concatenate(radii)))
    if not found > 0.0:
        raise UserError(
            f"cutoff {settings.cutoff:g} is too small: rays cross it nowhere but at the anchor; use a larger one"
        )
    return found


def concatenated(first: VolumeEstimate, second: VolumeEstimate) -> VolumeEstimate:
    """The directions of one estimate followed by those of another, with the cautions and the name of the first."""
    return replace(
        first,
        log_terms=np.concatenate([first.log_terms, second.log_terms]),
        evaluations=np.concatenate([first.evaluations, second.evaluations]),
        unbounded=np.concatenate([first.unbounded, second.unbounded]),
        monotone=np.concatenate([first.monotone, second.monotone]),
        radial_error=np.concatenate([first.radial_error, second.radial_error]),
    )
