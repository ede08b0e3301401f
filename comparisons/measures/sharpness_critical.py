"""The critical sharpness: the curvature that gradient descent meets in its next step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from comparisons.evidence import GRADIENTS_PER_EVALUATION, Evidence, Tally
from comparisons.flatness import Measure, Reading
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.sharpness_result import Sharpness
    from spectra.landscape import Landscape

DOUBLINGS = 200
TOLERANCE = 1e-3
# A fall of the cost below this many of its roundings is not seen.
_SEEN = 10.0


def critical_sharpness(landscape: Landscape, *, doublings: int = DOUBLINGS) -> Sharpness:
    r"""``2 / h``, h the smallest step at which ``C(theta - h grad C)`` is above ``C(theta)``.

    A step is doubled, or halved, until it and its half are on two sides of h, and h is found between them to 0.1 %.
    Where the cost falls and rises several times along the gradient, it is one of these places. On a quadratic cost it
    is ``g^T H g / |g|^2``, the gradient's own curvature, and never above the largest eigenvalue.

    Args:
        landscape: the cost.
        doublings: at most so many.

    Returns:
        The sharpness, unit of the cost over that of the parameters squared; its search error is that of h.

    Raises:
        UserError: if the gradient is zero to rounding, so that no step lowers the cost, or no step raises it.

    Reference:
        Kalra et al., A scalable measure of loss landscape curvature for analyzing the training dynamics of LLMs, 2026.

    >>> from spectra.costs import mean_squared_error
    >>> from spectra.landscape import Landscape
    >>> import torch
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    >>> landscape = Landscape(model, mean_squared_error, (x, x), theta=torch.zeros(1))  # (theta - 1)^2
    >>> round(critical_sharpness(landscape).value, 2)
    2.0
    """
    import torch
    from scipy.optimize import brentq

    from comparisons.sharpness_result import CountedCost, Sharpness, counted

    counted(doublings=doublings)
    cost = CountedCost(landscape)
    slope = cost.gradient()
    square = float(slope.double().square().sum())
    least = _SEEN * torch.finfo(slope.dtype).eps * abs(landscape.anchor_cost)

    def rise(step: float) -> float:
        found = float(cost.rises((landscape.theta - step * slope)[None])[0])
        return found if math.isfinite(found) else math.inf

    low = _first_step(square, float(landscape.theta.double().norm()))
    if rise(low) > 0.0:
        while (fall := low * square) > least and rise(low) > 0.0:
            low /= 2.0
    else:
        for _ in range(doublings):
            if rise(2.0 * low) > 0.0:
                break
            low *= 2.0
        else:
            raise UserError(f"no step along the gradient, doubled {doublings} times, raises the cost: it has no bound")
        fall = low * square
    if fall <= least:
        raise UserError(
            "no step along the gradient lowers the cost beyond its rounding: the checkpoint is stationary, and has no "
            "critical sharpness"
        )
    # The rise over the step is a straight line on a quadratic cost; beyond what is finite it is as high as is needed.
    step = brentq(lambda at: min(rise(at) / at, square), low, 2.0 * low, rtol=TOLERANCE)
    noise = least / _SEEN / (step * square)
    return Sharpness(
        value=2.0 / step,
        search_error=2.0 / step * (TOLERANCE + noise),
        cost_evaluations=cost.costs,
        gradient_evaluations=cost.gradients,
    )


def _first_step(square: float, norm: float) -> float:
    """The step that moves the parameters by a hundredth of their norm."""
    if not square > 0.0:
        raise UserError(
            "the gradient at the checkpoint is zero: no step follows it, and there is no critical sharpness"
        )
    return 0.01 * (norm or 1.0) / math.sqrt(square)


def _reading(evidence: Evidence) -> Reading:
    def build(tally: Tally) -> Sharpness:
        found = critical_sharpness(evidence.landscape)
        tally.evaluations += found.cost_evaluations
        tally.gradients += found.gradient_evaluations
        return found

    found = evidence.item("critical-sharpness", build)
    return Reading(found.value, truncation_error=found.search_error)


MEASURES = (
    Measure(
        "critical-sharpness",
        "critical sharpness, gradient step",
        "sharpness",
        "cost / parameter²",
        "Kalra et al. 2026",
        "smaller",
        frozenset({"permutation"}),
        ("gradients",),
        _reading,
        # A gradient, and some eight costs along it.
        work=lambda _, __: {"critical-sharpness": 1.0 + 8.0 * GRADIENTS_PER_EVALUATION},
    ),
)
