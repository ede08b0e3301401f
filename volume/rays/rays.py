"""Rays from the anchor: directions, the prior and the cost along them, and what each says of the volume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spectra.lanczos import draw_probes
from volume.chunks import pieces, squared_lengths
from volume.preconditioners import Preconditioner
from volume.priors import Prior, RayDensity, log_sphere_surface
from volume.rays.cost_surface import CostSurface
from volume.rays.crossings import FARTHEST, Crossings, RayCosts, first_crossings, ray_costs
from volume.result import VolumeEstimate

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rays:
    """A block of rays from one anchor.

    Attributes:
        costs: above the anchor's, by row and radius, the correction included.
        log_norms: (k,) log |v| of each preconditioned direction before it was made a unit vector.
        single: whether radii are rounded to float32, as theta is.
        density: the prior along the rays.
        limit: (k,) how far to look on each.
        size: number of parameters n.
        name: of the preconditioner.
    """

    costs: RayCosts
    log_norms: Array
    single: bool
    density: RayDensity
    limit: Array
    size: int
    name: str

    def crossings(
        self, cutoff: float, *, guess: ArrayLike, tolerance: float, scan: int, noise: float = 0.0
    ) -> Crossings:
        """Where each ray first reaches the cutoff; see ``volume.rays.first_crossings``."""
        return first_crossings(
            self.costs,
            len(self.limit),
            cutoff,
            limit=self.limit,
            guess=guess,
            tolerance=tolerance,
            scan=scan,
            noise=noise,
            single=self.single,
        )

    def terms(self, crossings: Crossings, cutoff: float) -> VolumeEstimate:
        """What each ray says of the log-volume, given its crossing of the cutoff."""
        density, size = self.density, self.size
        # A ray that never crosses counts to the end of the prior's support: for ever under Lebesgue measure.
        radius = np.where(crossings.unbounded, density.extent, crossings.radius)
        terms = log_sphere_surface(size) + density.log_integral(radius, size) - size * self.log_norms
        slope = density.log_slope(crossings.radius, size)
        return VolumeEstimate(
            log_terms=terms,
            evaluations=crossings.evaluations,
            unbounded=crossings.unbounded,
            monotone=crossings.monotone,
            radial_error=np.where(crossings.unbounded, 0.0, slope * crossings.error),
            size=size,
            cutoff=cutoff,
            method=f"star-domain, {self.name}",
        )


def draw_rays(
    landscape: CostSurface,
    prior: Prior,
    preconditioner: Preconditioner,
    *,
    seed: int,
    stream: str,
    first: int,
    count: int,
    correction: Tensor | None = None,
) -> Rays:
    """Rays number ``first`` to ``first + count - 1`` of a stream.

    Args:
        landscape: the cost, of size n.
        prior: the measure.
        preconditioner: P; a direction is ``v = z P``, z uniform on the sphere.
        seed: seed of the directions.
        stream: name of the random stream.
        first: number of the first ray.
        count: how many.
        correction: (n,) c, unit of the curvature: ``1/2 sum_i c_i x_i^2`` is added to the cost, x the displacement from
            the anchor (and not from the origin, as a landscape's ``l2`` has it).

    Returns:
        The rays.
    """
    units, log_norms = unit_rows(landscape, preconditioner, seed=seed, stream=stream, first=first, count=count)
    density = prior.ray(landscape.theta, units)
    stiffness = None if correction is None else _stiffness(units, correction)
    # Where the prior has no mass left, or as far as makes sense.
    farthest = FARTHEST * max(1.0, float(squared_lengths(landscape.theta[None]).sqrt()))
    limit = np.minimum(density.reach(landscape.size), farthest)
    costs = ray_costs(landscape, units, stiffness)
    single = landscape.dtype != torch.float64
    return Rays(costs, log_norms, single, density, limit, landscape.size, preconditioner.name)


def unit_rows(
    surface: CostSurface, preconditioner: Preconditioner, *, seed: int, stream: str, first: int, count: int
) -> tuple[Tensor, Array]:
    """Directions number ``first`` to ``first + count - 1`` of a stream: ``u = v / |v|``, ``v = z P``.

    Args:
        surface: whose size, dtype and device they have.
        preconditioner: P.
        seed: seed of the directions.
        stream: name of the random stream.
        first: number of the first direction.
        count: how many.

    Returns:
        Rows u (count, n), and log |v| (count,): of the number that v was divided by, for z of length exactly one. A
        relative error e of either is n e nats, so both are summed in float64.
    """
    rows = draw_probes(
        surface.size, count, seed=seed, first=first, stream=stream, dtype=surface.dtype, device=surface.device
    )
    rows /= math.sqrt(surface.size)
    drawn = squared_lengths(rows).log() / 2.0
    rows = preconditioner.apply(rows)
    norms = squared_lengths(rows).sqrt().to(rows.dtype)
    rows /= norms.unsqueeze(1)
    return rows, (norms.double().log() - drawn).cpu().numpy()


def _stiffness(units: Tensor, correction: Tensor) -> Array:
    """``sum_i c_i u_i^2`` of each row."""
    found = units.new_zeros(len(units), dtype=correction.dtype)
    at = correction.to(units.device)
    for part in pieces(units.shape[1]):
        found += units[:, part].to(at.dtype).square() @ at[part]
    return found.cpu().double().numpy()
