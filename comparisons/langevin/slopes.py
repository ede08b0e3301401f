"""The learning coefficient by volume: ``d log V / d log c`` from the rays of the star-domain sampler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from comparisons.sharpness_result import counted, positive
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.landscape import Landscape
from volume.chunks import at_once
from volume.preconditioners import Identity, Preconditioner
from volume.priors import Lebesgue, Prior
from volume.rays import Crossings, Rays, StarDomainSettings, draw_rays, joined, pilot_radius

Array = NDArray[np.float64]

# Half the distance in log r over which the cost's slope is taken: its error is of second order.
STEP = 1e-3
FEW = 30.0


def volume_slope(
    landscape: Landscape,
    *,
    cutoff: float = 0.01,
    directions: int = 256,
    prior: Prior | None = None,
    preconditioner: Preconditioner | None = None,
    seed: int = 0,
) -> Estimate:
    r"""``sum_i w_i s_i c / (r_i dC/dr(r_i))``, w_i each ray's share of the volume, s_i its radial integral's slope.

    s_i is ``d log int_0^r rho r^(n-1) dr / d log r``, which is n under Lebesgue measure. On a quadratic the sum is n/2.

    Args:
        landscape: the cost, of size n.
        cutoff: c, unit of the cost.
        directions: number of rays, with two costs more each than their crossing takes.
        prior: the measure; default Lebesgue.
        preconditioner: of the directions; default the identity.
        seed: of the directions, the same as the star-domain sampler's.

    Returns:
        The estimate, without unit; its error is a jackknife's over rays.

    Raises:
        UserError: if a setting is out of range, or a ray has no crossing, or its cost does not rise at it.

    Reference:
        The derivative of the estimator of Scherlis and Belrose, 2025; the slope is Watanabe's lambda as c goes to zero.

    >>> import torch
    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(2, 1, bias=False).double(), torch.eye(2).double()
    >>> landscape = Landscape(model, mean_squared_error, (x, 0 * x[:, :1]), theta=torch.zeros(2).double())
    >>> round(volume_slope(landscape, directions=8).value, 4)
    1.0
    """
    positive(cutoff=cutoff)
    counted(directions=directions)
    prior, preconditioner = prior or Lebesgue(), preconditioner or Identity()
    settings = StarDomainSettings(cutoff=cutoff, directions=directions, seed=seed)
    guess = pilot_radius(landscape, settings, prior, preconditioner)
    parts, terms = [], None
    block = at_once(landscape.size, directions)
    for first in range(0, directions, block):
        place = {"seed": seed, "stream": settings.stream, "first": first, "count": min(block, directions - first)}
        rays = draw_rays(landscape, prior, preconditioner, **place)  # type: ignore[arg-type]
        crossings = rays.crossings(cutoff, guess=guess, tolerance=1e-3 / landscape.size, scan=settings.scan)
        if bool(crossings.unbounded.any()):
            number = int(crossings.unbounded.sum())
            raise UserError(f"{number} of {len(crossings.unbounded)} rays never reach the cutoff {cutoff:g}")
        parts.append(_slopes(rays, crossings, cutoff))
        found = rays.terms(crossings, cutoff)
        terms = found if terms is None else joined(terms, found)
        del rays  # or its directions would be held beside the next ones
    assert terms is not None
    return _weighted(np.concatenate(parts), terms.log_terms, terms.effective_samples)


def _slopes(rays: Rays, crossings: Crossings, cutoff: float) -> Array:
    """``s c / (r dC/dr)`` of each ray."""
    radius, every = crossings.radius, np.arange(len(crossings.radius))
    rise = rays.costs(every, radius * np.exp(STEP)) - rays.costs(every, radius * np.exp(-STEP))
    slope = rise / (2.0 * STEP)
    if not (slope > 0.0).all():
        raise UserError(f"the cost does not rise at the crossing of {int((slope <= 0.0).sum())} of {len(slope)} rays")
    found: Array = rays.density.log_slope(radius, rays.size) * cutoff / slope
    return found


def _weighted(values: Array, log_weights: Array, effective: float) -> Estimate:
    """A weighted mean, its jackknife error, and a caution where few rays carry it."""
    weights = np.exp(log_weights - logsumexp(log_weights))
    value, count = float(weights @ values), len(values)
    cautions: tuple[str, ...] = ()
    if effective < FEW:
        cautions = (f"{effective:.3g} of {count} directions carry the slope: it is a few rays', not the volume's",)
    if count == 1 or bool((weights > 1.0 - 1e-12).any()):
        return Estimate(value, float("inf"), samples=values, cautions=cautions)
    left_out = (value - weights * values) / (1.0 - weights)
    error = float(np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum()))
    return Estimate(value, error, samples=values, cautions=cautions, freedom=max(effective - 1.0, 0.0))
