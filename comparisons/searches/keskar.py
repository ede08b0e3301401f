"""Keskar's sharpness: how far the cost rises within a small box around the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from comparisons.sharpness_result import CountedCost, Sharpness, counted, positive, slope_caution
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator

Array = NDArray[np.float64]
# Steps from corner to corner at most, after the searches.
CORNERS = 10


@dataclass(frozen=True, eq=False)
class _Box:
    """The region searched: displacements ``lift(y)`` with ``|y_i| <= reach_i``.

    Attributes:
        reach: (p,) half widths, unit of the parameters.
        lift: y (p,) to a displacement (n,).
        lower: a gradient (n,) to that in y (p,).
    """

    reach: Tensor
    lift: Callable[[Tensor], Tensor]
    lower: Callable[[Tensor], Tensor]


def keskar_sharpness(
    landscape: Landscape,
    *,
    epsilon: float = 1e-3,
    subspace: int | None = None,
    iterations: int = 10,
    starts: int = 5,
    seed: int = 0,
) -> Sharpness:
    r"""``100 (max_{y in C} f(x + A y) - f(x)) / (1 + f(x))``, maximised by L-BFGS-B.

    ``C: |y_i| <= epsilon (|(A^+ x)_i| + 1)``. Full space: A is the identity. Subspace: A (n, p) has independent
    standard normal entries, and ``A^+`` is its pseudo-inverse. The paper starts at y = 0, which at a stationary point
    is where the search also ends, with the value 0: here further starts at random corners of the box, scaled to a
    tenth of it, are searched too, and the best counts; from it the search goes on from corner to corner of the box,
    where the maximum of a convex cost is.

    Args:
        landscape: the cost, of size n.
        epsilon: size of the box; the paper has 1e-3 and 5e-4.
        subspace: p, at most n; the paper has 100. None is the full space.
        iterations: iterations of L-BFGS-B from each start; the paper has 10. At most twice as many costs and gradients.
        starts: searches in all, the first from y = 0.
        seed: seed of A and of the starting points.

    Returns:
        The sharpness; ``samples`` has what each start found, the first of them being the paper's value.

    Raises:
        UserError: if a setting is out of range, or the cost is -1 or less.

    Reference:
        Keskar et al., On large-batch training for deep learning, 2017.

    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(1, 1, bias=False).double(), torch.ones(1, 1).double()
    >>> at = torch.tensor([0.0]).double()
    >>> found = keskar_sharpness(Landscape(model, mean_squared_error, (x, 0 * x), theta=at), epsilon=0.1)
    >>> [round(found.value, 9), float(found.samples[0])]  # 100 epsilon^2; nothing from y = 0
    [1.0, 0.0]
    """
    positive(epsilon=epsilon)
    counted(iterations=iterations, starts=starts)
    if not 1.0 + landscape.anchor_cost > 0.0:
        raise UserError(
            f"the measure divides by 1 plus the cost, which must be positive; it is {landscape.anchor_cost:g}"
        )
    if subspace is not None and not 1 <= subspace <= landscape.size:
        raise UserError(f"subspace must lie between 1 and the number of parameters {landscape.size}, got {subspace}")
    box = _whole(landscape, epsilon) if subspace is None else _subspace(landscape, epsilon, subspace, seed)
    cost = CountedCost(landscape)
    climb = _Climb(cost, box)
    rises = np.array([_search(climb, _start(box, seed, start), iterations) for start in range(starts)])
    if starts > 1:
        _corners(climb)
    best = climb.highest
    slope = float((box.reach * box.lower(cost.gradient()).abs()).double().sum())
    scale = 100.0 / (1.0 + landscape.anchor_cost)
    return Sharpness(
        value=scale * best,
        samples=scale * rises,
        cost_evaluations=cost.costs,
        gradient_evaluations=cost.gradients,
        cautions=slope_caution(slope, best) + _stuck(rises),
    )


def _whole(landscape: Landscape, epsilon: float) -> _Box:
    return _Box(epsilon * (landscape.theta.abs() + 1.0), lambda y: y, lambda slope: slope)


def _subspace(landscape: Landscape, epsilon: float, dimension: int, seed: int) -> _Box:
    theta = landscape.theta
    random = generator(seed, "keskar-subspace", device=theta.device)
    shape = (dimension, landscape.size)
    basis = torch.randn(shape, generator=random, dtype=torch.float64, device=theta.device).to(theta)
    gram = (basis @ basis.T).double()
    coordinates = torch.linalg.solve(gram, (basis @ theta).double()).to(theta)
    return _Box(epsilon * (coordinates.abs() + 1.0), lambda y: y @ basis, lambda slope: basis @ slope)


def _start(box: _Box, seed: int, number: int) -> Tensor:
    """Start number 0 is y = 0, as published; the others are random corners of a box a tenth as wide."""
    if number == 0:
        return torch.zeros_like(box.reach)
    device = box.reach.device
    random = generator(seed, "keskar-start", number, device=device)
    corner = torch.randint(2, box.reach.shape, generator=random, device=device)
    return 0.1 * box.reach * (2.0 * corner.to(box.reach) - 1.0)


@dataclass
class _Climb:
    """The rise as a function on [-1, 1]^p, and the highest point seen.

    Attributes:
        cost: whose rise.
        box: the region.
        highest: the largest rise seen.
        where: its point (p,), in units of the box.
    """

    cost: CountedCost
    box: _Box
    highest: float = 0.0
    where: Tensor | None = None

    def at(self, point: Tensor) -> tuple[float, Tensor]:
        """Rise and slope at a point (p,) in units of the box."""
        theta = self.cost.landscape.theta + self.box.lift(self.box.reach * point)
        rise = float(self.cost.rises(theta.unsqueeze(0))[0])
        if not np.isfinite(rise):
            raise UserError(f"the cost within the box is not finite ({rise}); use a smaller epsilon")
        if rise > self.highest:
            self.highest, self.where = rise, point
        return rise, self.box.reach * self.box.lower(self.cost.gradient(theta))


def _search(climb: _Climb, start: Tensor, iterations: int) -> float:
    """One run of L-BFGS-B; returns the largest rise that it saw."""
    scale, best = 0.0, 0.0

    def falling(point: Array) -> tuple[float, Array]:
        nonlocal scale, best
        rise, slope = climb.at(torch.from_numpy(point).to(climb.box.reach))
        best = max(best, rise)
        # In a box the first step is as long as the slope: in units of the cost it would be 1e-6 of the box.
        scale = scale or float(slope.double().abs().max())
        unit = scale or 1.0
        return -rise / unit, -slope.cpu().double().numpy() / unit

    first = (start / climb.box.reach).cpu().double().numpy()
    bounds = optimize.Bounds(-np.ones(len(first)), np.ones(len(first)))
    # A line search that cannot go on, for rounding, is cut short by the count of costs.
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 0.0, "gtol": 0.0}
    optimize.minimize(falling, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return best


def _corners(climb: _Climb) -> None:
    """From the highest point to the corner that its slope points at, as long as that is higher."""
    for _ in range(CORNERS):
        if climb.where is None:
            return
        before = climb.highest
        _, slope = climb.at(climb.where)
        climb.at(torch.where(slope == 0.0, climb.where, slope.sign()))
        if not climb.highest > before:
            return


def _stuck(rises: Array) -> tuple[str, ...]:
    if len(rises) == 1 and rises[0] <= 0.0:
        return ("started at y = 0 alone, the search found nothing: a stationary point is where it ends; use starts=5",)
    return ()
