"""Worst-case sharpness: the largest rise of the cost within a ball, plain or measured in units of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from comparisons.evidence import split
from comparisons.sharpness_result import CountedCost, Sharpness, counted, positive, slope_caution
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator

Scaling = Literal["plain", "adaptive", "asam"]
# Added to the weights' absolute values by ASAM's published code.
ASAM_OFFSET = 0.01


def worst_case(
    landscape: Landscape,
    *,
    radius: float = 0.05,
    scaling: Scaling = "plain",
    steps: int = 20,
    starts: int = 2,
    seed: int = 0,
) -> Sharpness:
    r"""``max_{|z| <= rho} f(x + T z) - f(x)`` by projected ascent; one step is SAM's or ASAM's as published.

    The first start is z = 0. From there one step gives ``d = rho T^2 g / |T g|``, the published perturbation
    (``rho g / |g|`` for SAM); ``steps=1, starts=1`` measures just that, which is no worst case at a minimum. Each
    further step moves by rho along the normalised gradient in z and projects back onto the ball: on a quadratic this
    is a power iteration. Further starts are random points of the sphere, for at a stationary point the first has no
    direction to go. The highest point seen counts. Because the ball is searched in z, a weight that is zero stays as
    it is under the adaptive scaling, and nothing is divided by it.

    Args:
        landscape: the cost.
        radius: rho; 0.05 is SAM's, 0.5 ASAM's.
        scaling: T: ``plain`` 1; ``adaptive`` |x|; ``asam`` |x| + 0.01 on weights, and 1 on parameters with fewer than
            two dimensions (biases, norms' scales).
        steps: gradients from each start.
        starts: how many; the first is the checkpoint itself.
        seed: seed of the random starting points.

    Returns:
        The sharpness, unit of the cost; ``samples`` has what each start found.

    Raises:
        UserError: if a setting is out of range.

    Reference:
        Foret et al., Sharpness-aware minimization, 2021; Kwon et al., ASAM, 2021.

    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(1, 1, bias=False).double(), torch.ones(1, 1).double()
    >>> landscape = Landscape(model, mean_squared_error, (x, 0 * x), theta=torch.tensor([0.0]).double())
    >>> round(worst_case(landscape, radius=0.1).value, 9)  # rho^2
    0.01
    """
    positive(radius=radius)
    counted(steps=steps, starts=starts)
    scale = scales(landscape, scaling)
    cost = CountedCost(landscape)
    slope = scale * cost.gradient()
    first_order = radius * float(slope.double().norm())
    origin = torch.zeros_like(scale)
    begins = [_stepped(origin, slope, radius)]
    streams = [generator(seed, "worst-case", start, device=origin.device) for start in range(1, starts)]
    begins += [_on_sphere(origin, radius, random) for random in streams]
    taken = [steps - 1] + [steps] * (starts - 1)
    rises = np.array([_climb(cost, scale, z, radius, left) for z, left in zip(begins, taken, strict=True)])
    best = float(rises.max())
    published = steps == 1 and starts == 1
    return Sharpness(
        value=best,
        search_error=best - float(np.sort(rises)[-2]) if starts > 1 else 0.0,
        samples=rises,
        cost_evaluations=cost.costs,
        gradient_evaluations=cost.gradients,
        cautions=_one_step(first_order) if published else slope_caution(first_order, best),
    )


def m_sharpness(
    landscape: Landscape,
    *,
    size: int = 128,
    radius: float = 0.05,
    scaling: Scaling = "plain",
    steps: int = 1,
    seed: int = 0,
) -> Sharpness:
    """The worst case of each batch of m samples alone, averaged over batches.

    Args:
        landscape: the cost, on data kept in memory.
        size: m; the last batch may be smaller, and counts by its weight.
        radius: rho, as for ``worst_case``.
        scaling: T, as for ``worst_case``.
        steps: gradients from each start, as for ``worst_case``; more than one step starts at random as well.
        seed: seed of the random starting points.

    Returns:
        The sharpness, unit of the cost; ``samples`` has that of each batch.

    Raises:
        UserError: if a setting is out of range, or the data is not kept in memory.

    Reference:
        Foret et al., Sharpness-aware minimization, 2021, section 4.2.
    """
    counted(size=size, steps=steps)
    parts, starts = split(landscape, size), 1 if steps == 1 else 2
    found = [worst_case(part, radius=radius, scaling=scaling, steps=steps, starts=starts, seed=seed) for part in parts]
    return averaged(landscape, parts, found)


def averaged(landscape: Landscape, parts: Sequence[Landscape], found: Sequence[Sharpness]) -> Sharpness:
    """The mean of what searches found on parts of a landscape's data, each by its weight, and their joint price."""
    weights = np.array([part.total_weight for part in parts])
    rises = np.array([one.value for one in found])
    share = weights / landscape.total_weight
    return Sharpness(
        value=float(np.average(rises, weights=weights)),
        search_error=float(np.average([one.search_error for one in found], weights=weights)),
        samples=rises,
        cost_evaluations=float(sum(share * [one.cost_evaluations for one in found])),
        gradient_evaluations=float(sum(share * [one.gradient_evaluations for one in found])),
    )


def scales(landscape: Landscape, scaling: Scaling) -> Tensor:
    """The non-negative T (n,) by which a unit of z moves each parameter, as ``worst_case`` has it."""
    if scaling not in get_args(Scaling):
        raise UserError(f"scaling must be one of {', '.join(get_args(Scaling))}; got {scaling!r}")
    if scaling == "plain":
        return torch.ones_like(landscape.theta)
    if scaling == "adaptive":
        return landscape.theta.abs()
    tensors = landscape.parameters.unflatten(landscape.theta)
    return landscape.parameters.flatten(
        {name: one.abs() + ASAM_OFFSET if one.dim() >= 2 else torch.ones_like(one) for name, one in tensors.items()}
    )


def _climb(cost: CountedCost, scale: Tensor, z: Tensor, radius: float, steps: int) -> float:
    """Highest rise on the way of projected ascent from z."""
    anchor = cost.landscape.theta
    path = [z]
    for _ in range(steps):
        path.append(_stepped(path[-1], scale * cost.gradient(anchor + scale * path[-1]), radius))
    rises = cost.rises(anchor + scale * torch.stack(path))
    if not np.isfinite(rises).all():
        raise UserError(f"the cost within the radius {radius:g} is not finite; use a smaller radius")
    return max(float(rises.max()), 0.0)


def _stepped(z: Tensor, slope: Tensor, radius: float) -> Tensor:
    length = slope.double().norm().to(slope)
    # A subnormal slope would divide to infinity.
    if not float(length) > torch.finfo(slope.dtype).tiny:
        return z
    moved: Tensor = z + radius * (slope / length)
    norm = float(moved.double().norm())
    return moved if norm <= radius else moved.mul(radius / norm)


def _on_sphere(like: Tensor, radius: float, random: torch.Generator) -> Tensor:
    z = torch.randn(like.shape, generator=random, dtype=torch.float64, device=like.device)
    return z.mul(radius / float(z.norm())).to(like)


def _one_step(first_order: float) -> tuple[str, ...]:
    if first_order > 0.0:
        return ()
    return ("the gradient at the checkpoint is zero: one step has no direction and finds 0; use steps=20, starts=2",)
