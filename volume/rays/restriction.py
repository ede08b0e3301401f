"""Points of a star domain, drawn from the prior restricted to it: averages over the basin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator
from volume.chunks import at_once
from volume.preconditioners import Identity, Preconditioner
from volume.priors import GaussianPrior, Prior, RayDensity, log_sphere_surface
from volume.rays.rays import unit_rows
from volume.rays.roots import find_root
from volume.rays.star_domain import StarDomainSettings
from volume.result import VolumeEstimate

Array = NDArray[np.float64]
# A crossing this many powers of e below where the prior ends is not looked for: its ball holds nothing.
_DEEPEST = 600.0
_BLOCK = 64
# Of the random numbers that the sampler of the volume drew its directions from.
STREAM = StarDomainSettings.stream


@dataclass(frozen=True, eq=False)
class RestrictedPrior:
    """The prior restricted to a star domain: a share for each direction, and a density of the radius along it.

    Attributes:
        landscape: whose anchor the rays start at.
        preconditioner: preconditioner of the directions.
        seed: seed of the directions.
        radius: (k,) where each ray leaves the basin, unit of the parameters; inf if it never does.
        log_terms: (k,) log mass of the basin that each direction alone says, nats.
        density: density of the prior along the rays.
        along: (k,) ``u . theta*``, unit of the parameters.
    """

    landscape: Landscape
    preconditioner: Preconditioner
    seed: int
    radius: Array
    log_terms: Array
    density: RayDensity
    along: Array

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return self.landscape.size

    def shares(self, log_terms: Array | None = None) -> Array:
        """(k,) share of each direction; of (b, k) log terms by row."""
        terms = self.log_terms if log_terms is None else log_terms
        found: Array = np.exp(terms - logsumexp(terms, axis=-1, keepdims=True))
        return found

    def radial_moments(self) -> tuple[Array, Array]:
        """(k,) means of r and of r^2 along each ray, for r of density ``rho(r) r^(n-1)`` on [0, R]."""
        logs = [self.density.log_integral(self.radius, self.size + power) for power in (0, 1, 2)]
        return np.exp(logs[1] - logs[0]), np.exp(logs[2] - logs[0])

    def draw(self, count: int) -> tuple[Tensor, NDArray[np.int64]]:
        """Points (count, n), and the direction (count,) of each, by systematic resampling of the shares."""
        points, chosen = zip(*self.draws(count), strict=True)
        return torch.cat(points), np.concatenate(chosen)

    def draws(self, count: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """The same as ``draw``, as many points at a time as ``volume.chunks.at_once`` allows.

        Args:
            count: how many in all.

        Yields:
            Points (b, n), and the direction (b,) that each lies on.
        """
        source = generator(self.seed, f"{STREAM}/basin-points", 0)
        levels = torch.rand(count + 1, generator=source, dtype=torch.float64).clamp_min(1e-300).numpy()
        places = (np.arange(count) + levels[0]) / count
        chosen = np.minimum(np.searchsorted(np.cumsum(self.shares()), places), len(self.radius) - 1)
        ray = self.density.taken(chosen)
        whole = ray.log_integral(self.radius[chosen], self.size)
        reach = np.minimum(self.radius, self.density.reach(self.size))[chosen]
        radii = _solve(whole + np.log(levels[1:]), self.size, ray, reach)
        block = at_once(self.size, count)
        for begin in range(0, count, block):
            here = slice(begin, begin + block)
            found = torch.empty(len(chosen[here]), self.size, dtype=self.landscape.dtype, device=self.landscape.device)
            for row, place, radius in zip(found, chosen[here], radii[here], strict=True):
                # Without a name: it would outlive its turn, beside the next direction and its draw.
                torch.mul(self._direction(int(place)), float(radius), out=row).add_(self.landscape.theta)
            yield found, chosen[here]

    def _direction(self, place: int) -> Tensor:
        return _directions(self.landscape, self.preconditioner, self.seed, place, 1)[0][0]


def restricted_prior(
    landscape: Landscape,
    estimate: VolumeEstimate,
    prior: Prior,
    *,
    preconditioner: Preconditioner | None = None,
    seed: int = 0,
) -> RestrictedPrior:
    """The prior restricted to the basin, from the directions of a volume estimate.

    The directions are drawn again from their seed, and each crossing is found from its log term, which is monotone in
    it: the cost is not evaluated.

    Args:
        landscape: the cost that the estimate is of.
        estimate: volume estimate of its star domain.
        prior: proper prior that the estimate was made under.
        preconditioner: preconditioner that the directions were made with; default the identity.
        seed: seed of the directions.

    Returns:
        The distribution.

    Raises:
        UserError: if the estimate is of another size.
    """
    if estimate.size != landscape.size:
        raise UserError(f"the estimate must be of the landscape's size {landscape.size}, got {estimate.size}")
    chosen, size = preconditioner or Identity(), landscape.size
    offsets, rays, alongs = [], [], []
    block = at_once(size, _BLOCK)
    for first in range(0, len(estimate.log_terms), block):
        count = len(estimate.log_terms[first : first + block])
        rows, log_norms = _directions(landscape, chosen, seed, first, count)
        offsets.append(log_sphere_surface(size) - size * log_norms)
        rays.append(prior.ray(landscape.theta, rows))
        alongs.append(GaussianPrior(1.0).ray(landscape.theta, rows).linear)
    # Of a direction only numbers are left, so the radii of all are found together.
    offset, along, density = np.concatenate(offsets), np.concatenate(alongs), type(rays[0]).joined(rays)
    solved = _solve(estimate.log_terms - offset, size, density, density.reach(size))
    radius = np.where(estimate.unbounded, density.extent, solved)
    terms = offset + density.log_integral(radius, size)
    return RestrictedPrior(landscape, chosen, seed, radius, terms, density, along)


def _directions(
    landscape: Landscape, preconditioner: Preconditioner, seed: int, first: int, count: int
) -> tuple[Tensor, Array]:
    return unit_rows(landscape, preconditioner, seed=seed, stream=STREAM, first=first, count=count)


def _solve(levels: Array, size: int, ray: RayDensity, reach: Array) -> Array:
    """Radii at which the log radial integral reaches the levels; the reach itself where it never does."""
    result: Array = np.exp((levels - ray.at(np.zeros(len(levels))) + math.log(size)) / size)
    rows = np.flatnonzero(~ray.flat)
    if len(rows) == 0:
        return np.minimum(result, reach)
    top = np.log(np.where(np.isfinite(reach[rows]), reach[rows], 1e300))

    def gap(x: Array, row: NDArray[np.int64]) -> Array:
        row = row.astype(np.int64)
        return ray.taken(row).log_integral(np.exp(x), size) - levels[row]

    ends = gap(top, rows)
    inside = ends > 0.0
    found = top.copy()
    if inside.any():
        bracket = (top[inside] - _DEEPEST, top[inside])
        found[inside] = find_root(gap, bracket, args=(rows[inside],), tolerance=1e-14)
    result[rows] = np.exp(found)
    return np.minimum(result, reach)
