"""Average-case sharpness: how far the cost rises on average under Gaussian noise on the parameters."""

from __future__ import annotations

import numpy as np
import torch

from comparisons.searches.worst import Scaling, scales
from comparisons.sharpness_result import CountedCost, Sharpness, counted, positive
from spectra.errors import UserError
from spectra.estimate import from_samples
from spectra.landscape import Landscape
from spectra.model import generator

BLOCK = 16


def average_case(
    landscape: Landscape,
    *,
    deviation: float = 0.01,
    scaling: Scaling = "plain",
    pairs: int = 50,
    seed: int = 0,
) -> Sharpness:
    r"""``E f(x + s T z) - f(x)``, z standard normal; on a quadratic ``s^2 / 2 tr(T H T)``.

    Draws come in pairs z and -z: the slope at the checkpoint, and all odd orders, cancel within a pair.

    Args:
        landscape: the cost.
        deviation: s, the standard deviation (not the variance) of the noise, in units of T.
        scaling: T, as for ``comparisons.searches.worst_case``.
        pairs: number of pairs of draws, two costs each.
        seed: seed of the noise; more pairs extend the sequence.

    Returns:
        The sharpness, unit of the cost; ``samples`` has the mean of each pair.

    Raises:
        UserError: if a setting is out of range, or the cost is not finite at a draw.

    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(1, 1, bias=False).double(), torch.ones(1, 1).double()
    >>> landscape = Landscape(model, mean_squared_error, (x, 0 * x), theta=torch.tensor([0.0]).double())
    >>> found = average_case(landscape, deviation=0.5, pairs=400)
    >>> bool(abs(found.value - 0.25) < 4 * found.standard_error)  # s^2
    True
    """
    positive(deviation=deviation)
    counted(pairs=pairs)
    scale, cost = deviation * scales(landscape, scaling), CountedCost(landscape)
    means = []
    for first in range(0, pairs, BLOCK):
        rows = torch.stack([_draw(landscape, seed, pair) for pair in range(first, min(first + BLOCK, pairs))])
        rises = cost.rises(torch.cat([landscape.theta + scale * rows, landscape.theta - scale * rows]))
        means.append(rises.reshape(2, -1).mean(0))
    samples = np.concatenate(means)
    if not np.isfinite(samples).all():
        raise UserError(f"the cost at deviation {deviation:g} is not finite; use a smaller deviation")
    estimate = from_samples(samples)
    return Sharpness(
        value=estimate.value,
        standard_error=estimate.standard_error,
        samples=samples,
        cost_evaluations=cost.costs,
    )


def _draw(landscape: Landscape, seed: int, pair: int) -> torch.Tensor:
    theta = landscape.theta
    random = generator(seed, "average-case", pair, device=theta.device)
    return torch.randn(theta.shape, generator=random, dtype=torch.float64, device=theta.device).to(theta)
