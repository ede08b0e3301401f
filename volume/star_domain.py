"""The star-domain sampler: volume of the points whose whole segment from the anchor stays below the cutoff."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectra.lanczos import dots
from spectra.landscape import Landscape
from spectra.probes import draw_probes
from volume.crossings import FARTHEST, Crossings, first_crossings, ray_costs
from volume.preconditioners import Identity, Preconditioner
from volume.priors import Lebesgue, Prior
from volume.radial import log_radial_integral, log_radial_slope, log_sphere_surface
from volume.ray_density import RayDensity
from volume.result import VolumeEstimate

Array = NDArray[np.float64]
PILOTS = 4
EPS_CANDIDATES = tuple(10.0**power for power in range(-6, 2))


@dataclass(frozen=True)
class StarDomainSettings:
    """Everything that decides the numbers, apart from landscape, prior and preconditioner.

    Attributes:
        cutoff: T, unit of the cost, positive.
        directions: number of directions.
        nats: error allowed in each log term from its crossing.
        scan: radii looked at below each crossing, for rays that are not monotone.
        seed: of the directions.
        stream: name of the random stream; another one gives fresh directions.
        block: directions solved together, and that a kill loses at most.
    """

    cutoff: float = 0.01
    directions: int = 1000
    nats: float = 0.1
    scan: int = 2
    seed: int = 0
    stream: str = "directions"
    block: int = 64

    def __post_init__(self) -> None:
        for name in ("cutoff", "nats"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("directions", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def star_domain_volume(
    landscape: Landscape,
    settings: StarDomainSettings | None = None,
    *,
    prior: Prior | None = None,
    preconditioner: Preconditioner | None = None,
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
        resume: an earlier estimate with the same settings and fewer directions; its terms are kept to the bit.
        on_block: called with the partial estimate after each block of directions.

    Returns:
        The estimate with all directions.

    Raises:
        ValueError: if the cost is not a number on some ray, or a setting is out of range.

    Reference:
        Scherlis and Belrose, Estimating the probability of sampling a trained neural network at random, 2025.
    """
    settings = settings or StarDomainSettings()
    prior, preconditioner = prior or Lebesgue(), preconditioner or Identity()
    guess = _pilot_radius(landscape, settings, prior, preconditioner)
    estimate = resume
    done = 0 if resume is None else len(resume.log_terms)
    while done < settings.directions:
        count = min(settings.block - done % settings.block, settings.directions - done)
        found = _terms(landscape, settings, prior, preconditioner, guess, done, count)
        estimate = found if estimate is None else _joined(estimate, found)
        done += count
        if on_block is not None:
            on_block(estimate)
    assert estimate is not None
    return estimate


def search_eps(
    landscape: Landscape,
    build: Callable[[float], Preconditioner],
    settings: StarDomainSettings,
    *,
    prior: Prior | None = None,
    candidates: tuple[float, ...] = EPS_CANDIDATES,
    directions: int = 32,
) -> float:
    """The eps whose preconditioner gives the largest estimate on directions of their own.

    By Markov's inequality the larger of two estimates is the more accurate one; because the directions are not those of
    the final estimate, choosing does not bias it.

    Args:
        landscape: the cost.
        build: eps -> preconditioner.
        settings: as for the estimate; its directions are not used.
        prior: the measure.
        candidates: values of eps to try.
        directions: how many each.

    Returns:
        The best candidate.
    """
    tried = replace(settings, directions=directions, stream="eps-search")
    volumes = [
        star_domain_volume(landscape, tried, prior=prior, preconditioner=build(eps)).log_volume for eps in candidates
    ]
    return candidates[int(np.argmax(volumes))]


def _directions(
    landscape: Landscape,
    preconditioner: Preconditioner,
    settings: StarDomainSettings,
    first: int,
    count: int,
    stream: str,
) -> tuple[Tensor, Array]:
    """Unit rows u (count, n) and log |v| of each."""
    rows = draw_probes(
        landscape.size,
        count,
        seed=settings.seed,
        first=first,
        stream=stream,
        dtype=landscape.dtype,
        device=landscape.device,
    )
    rows = preconditioner.apply(rows / math.sqrt(landscape.size))
    norms = dots(rows, rows).sqrt()
    return rows / norms.to(rows.dtype).unsqueeze(1), norms.log().cpu().numpy()


def _limit(landscape: Landscape, density: RayDensity) -> Array:
    """How far to look on each ray: to where the prior has no mass left, or as far as makes sense."""
    farthest = FARTHEST * max(1.0, float(landscape.theta.double().norm()))
    return np.minimum(density.reach(landscape.size), farthest)


def _pilot_radius(
    landscape: Landscape, settings: StarDomainSettings, prior: Prior, preconditioner: Preconditioner
) -> float:
    """A first guess for all rays, from a few of their own stream: the same after a resumption."""
    rows, _ = _directions(landscape, preconditioner, settings, 0, PILOTS, "pilots")
    limit = _limit(landscape, prior.ray(landscape.theta, rows))
    start = 1e-2 * max(float(landscape.theta.double().norm()), 1e-6)
    found = first_crossings(
        ray_costs(landscape, rows), PILOTS, settings.cutoff, limit=limit, guess=start, tolerance=0.05, scan=0
    )
    return float(np.median(found.radius))


def _terms(
    landscape: Landscape,
    settings: StarDomainSettings,
    prior: Prior,
    preconditioner: Preconditioner,
    guess: float,
    first: int,
    count: int,
) -> VolumeEstimate:
    size = landscape.size
    rows, log_norms = _directions(landscape, preconditioner, settings, first, count, settings.stream)
    density = prior.ray(landscape.theta, rows)
    crossings = first_crossings(
        ray_costs(landscape, rows),
        count,
        settings.cutoff,
        limit=_limit(landscape, density),
        guess=guess,
        tolerance=settings.nats / size,
        scan=settings.scan,
    )
    ray = {"constant": density.constant, "linear": density.linear, "quadratic": density.quadratic}
    # A ray that never crosses counts to the end of the prior's support: for ever under Lebesgue measure.
    radius = np.where(crossings.unbounded, density.extent, crossings.radius)
    terms = log_sphere_surface(size) + log_radial_integral(radius, size, **ray) - size * log_norms
    return VolumeEstimate(
        log_terms=terms,
        evaluations=crossings.evaluations,
        unbounded=crossings.unbounded,
        monotone=crossings.monotone,
        radial_error=_radial_error(crossings, size, ray),
        size=size,
        cutoff=settings.cutoff,
        method=f"star-domain, {preconditioner.name}",
    )


def _radial_error(crossings: Crossings, size: int, ray: dict[str, Array]) -> Array:
    """Nats that each crossing's error costs; none where the ray does not cross."""
    slope = log_radial_slope(crossings.radius, size, **ray)
    return np.where(crossings.unbounded, 0.0, slope * crossings.error)


def _joined(first: VolumeEstimate, second: VolumeEstimate) -> VolumeEstimate:
    return replace(
        first,
        log_terms=np.concatenate([first.log_terms, second.log_terms]),
        evaluations=np.concatenate([first.evaluations, second.evaluations]),
        unbounded=np.concatenate([first.unbounded, second.unbounded]),
        monotone=np.concatenate([first.monotone, second.monotone]),
        radial_error=np.concatenate([first.radial_error, second.radial_error]),
    )
