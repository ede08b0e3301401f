"""The learning coefficient by volume at a temperature: the slope of log V over all cutoffs that count there."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats
from scipy.special import logsumexp, roots_legendre

from comparisons.sharpness_result import Array, counted, positive
from comparisons.words import RAY_NODES
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.lanczos import draw_probes
from spectra.landscape import Landscape
from volume.rays import ray_costs

# Of the localisation's mass that is left out at each end of a ray.
TAIL = 1e-12
FEW = 30.0
LOWEST_SHARE = 0.01


def tempered_slope(
    landscape: Landscape, *, inverse_temperature: float, localisation: float, directions: int = 128, seed: int = 0
) -> Estimate:
    r"""``E[d log V / d log c]`` over cutoffs c of weight ``exp(-nb c) V(c)``, from rays without any chain.

    V(c) is the mass of ``{L - L* < c}`` under ``N(w*, 1/g)``. By parts, that mean of the slope is exactly ``nb E[L -
    L*]``, which chains at the inverse temperature nb and the localisation g sample: on random rays it is a sum of
    integrals over the radius. It has no step size, no burn-in and no minibatches, and suffers where few rays carry it.

    Args:
        landscape: the cost L, of size n.
        inverse_temperature: nb.
        localisation: g, positive.
        directions: number of rays, each with 48 costs.
        seed: seed of the directions.

    Returns:
        The estimate, without unit; its error is that of a ratio of means over rays.

    Raises:
        UserError: if a setting is out of range, or a cost is not finite.

    Reference:
        Watanabe, Algebraic geometry and statistical learning theory, 2009 (V and Z as Laplace transforms).

    >>> import torch
    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(2, 1, bias=False).double(), torch.eye(2).double()
    >>> landscape = Landscape(model, mean_squared_error, (x, 0 * x[:, :1]), theta=torch.zeros(2).double())
    >>> round(tempered_slope(landscape, inverse_temperature=3.0, localisation=1.0, directions=4).value, 6)
    0.75
    """
    positive(inverse_temperature=inverse_temperature, localisation=localisation)
    counted(directions=directions)
    size = landscape.size
    radii, log_weights = _radii(size, localisation)
    rows = draw_probes(
        size, directions, seed=seed, stream="tempered-slope", dtype=landscape.dtype, device=landscape.device
    )
    costs, every = ray_costs(landscape, rows / math.sqrt(size)), np.arange(directions)
    rises = inverse_temperature * np.stack([costs(every, np.full(directions, radius)) for radius in radii], 1)
    if not np.isfinite(rises).all():
        raise UserError(f"the cost is not finite on {int((~np.isfinite(rises)).any(1).sum())} of {directions} rays")
    return _ratio(log_weights - rises, rises)


def _radii(size: int, localisation: float) -> tuple[Array, Array]:
    """Radii (nodes,) that carry ``r^(n-1) exp(-g r^2 / 2)``, and their log weights."""
    law = stats.chi(size)
    low, high = float(law.ppf(TAIL)), float(law.isf(TAIL))
    nodes, weights = roots_legendre(RAY_NODES)
    # Radii by the square of the nodes: closer together near the checkpoint, where a steep cost's mass is.
    share = 0.5 * (nodes + 1.0)
    at = low + (high - low) * share**2
    return at / math.sqrt(localisation), np.log(weights * share) + law.logpdf(at)


def _ratio(exponents: Array, rises: Array) -> Estimate:
    """Mean of rises (directions, nodes) under weights exp(exponents), with its error over directions."""
    weights = np.exp(exponents - logsumexp(exponents))
    carried, count = weights.sum(1), len(weights)
    value = float((weights * rises).sum())
    cautions = []
    effective = 1.0 / float(np.square(carried).sum())
    if effective < FEW and count >= FEW:
        cautions.append(f"{effective:.3g} of {count} directions carry the slope: it is a few rays'; more directions")
    if float(weights[:, 0].sum()) > LOWEST_SHARE:
        cautions.append("the mass lies nearer to the checkpoint than the localisation's rays reach; raise localisation")
    if count == 1:
        return Estimate(value, math.inf, cautions=tuple(cautions))
    spread = (weights * rises).sum(1) - value * carried
    error = math.sqrt(count / (count - 1.0) * float(np.square(spread).sum()))
    return Estimate(value, error, cautions=tuple(cautions), freedom=max(effective - 1.0, 0.0))
