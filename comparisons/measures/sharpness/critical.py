"""The critical sharpness: the curvature that the next step of gradient descent, or of Adam, meets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from comparisons.evidence import GRADIENTS_PER_EVALUATION, Evidence, Tally, adam_preconditioner
from comparisons.flatness import Measure, Reading
from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from comparisons.sharpness_result import Sharpness
    from spectra.landscape import Landscape

GUESSES = 200
TOLERANCE = 1e-3
# A fall of the cost below this many of its roundings is not seen.
_SEEN = 10.0
# A guess goes beyond what the quadratic says by this share of it, so that it lies on the other side.
_BEYOND = 0.02
# No guess is larger or smaller than the one before by more than this factor.
_STRIDE = 16.0
# So many costs are expected along a direction.
_COSTS = 7.0


def critical_sharpness(
    landscape: Landscape, *, preconditioner: Tensor | None = None, guesses: int = GUESSES
) -> Sharpness:
    r"""``2 / h``, h the smallest step at which ``C(theta - h P^-1 grad C)`` is above ``C(theta)``.

    Each cost along the direction d, with the slope, gives a parabola, and the parabola the next guess of h; once two
    guesses lie on two sides of h it is found between them to 0.1 %. On a cost that is a quadratic to a few percent this
    takes six or seven costs. Where the cost falls and rises several times along d, h is one of these places. On a
    quadratic cost the value is ``d^T H d / d^T g``, the directional sharpness, which is never above the largest
    eigenvalue of ``P^-1 H``.

    Args:
        landscape: the cost.
        preconditioner: (n,) diagonal P > 0 of the optimizer; None for gradient descent, whose P is one.
        guesses: at most so many until two sides of h are known.

    Returns:
        The sharpness, unit of the cost over that of the parameters squared, and over that of P; its search error is
        that of h.

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

    counted(guesses=guesses)
    cost = CountedCost(landscape)
    slope = cost.gradient()
    direction = slope if preconditioner is None else (slope.double() / preconditioner.to(slope.device)).to(slope)
    fall = float(direction.double() @ slope.double())
    least = _SEEN * torch.finfo(slope.dtype).eps * abs(landscape.anchor_cost)

    def rise(step: float) -> float:
        found = float(cost.rises((landscape.theta - step * direction)[None])[0])
        return found if math.isfinite(found) else math.inf

    first = _first_step(direction, float(landscape.theta.double().norm()))
    low, high = _two_sides(rise, fall, first, least, guesses)
    # The rise over the step is a straight line on a quadratic cost; beyond what is finite it is as high as is needed.
    step = brentq(lambda at: min(rise(at) / at, fall), low, high, rtol=TOLERANCE)
    noise = least / _SEEN / (step * fall)
    return Sharpness(
        value=2.0 / step,
        search_error=2.0 / step * (TOLERANCE + noise),
        cost_evaluations=cost.costs,
        gradient_evaluations=cost.gradients,
    )


def _first_step(direction: Tensor, norm: float) -> float:
    """The step that moves the parameters by a hundredth of their norm."""
    length = float(direction.double().norm())
    if not length > 0.0:
        raise UserError(
            "the gradient at the checkpoint is zero: no step follows it, and there is no critical sharpness"
        )
    return 0.01 * (norm or 1.0) / length


def _two_sides(
    rise: Callable[[float], float], fall: float, step: float, least: float, guesses: int
) -> tuple[float, float]:
    """A step that does not raise the cost, and a larger one that does; ``fall`` is what a small step lowers it by."""
    low, high = 0.0, math.inf
    for _ in range(guesses):
        found = rise(step)
        low, high = (low, step) if found > 0.0 else (step, high)
        if high < math.inf and (low or high) * fall <= least:
            raise UserError(
                "no step along the gradient lowers the cost beyond its rounding: the checkpoint is stationary, and has "
                "no critical sharpness"
            )
        if low > 0.0 and high < math.inf:
            return low, high
        # Half of the curvature of the parabola through the costs at zero and at the step; of rounding there is none.
        bend = (found / step + fall) / step if found > 0.0 or step * fall > least else 0.0
        told = fall / bend if bend > 0.0 else math.inf
        told *= 1.0 - _BEYOND if found > 0.0 else 1.0 + _BEYOND
        step = min(max(told, step / _STRIDE), step / 2.0) if found > 0.0 else max(min(told, step * _STRIDE), step * 1.1)
    raise UserError(f"no step along the gradient, of {guesses} ever larger ones, raises the cost: it has no bound")


def _read(evidence: Evidence, name: str, preconditioned: bool) -> Reading:
    def build(tally: Tally) -> Sharpness:
        preconditioner = adam_preconditioner(evidence) if preconditioned else None
        found = critical_sharpness(evidence.landscape, preconditioner=preconditioner)
        tally.evaluations += found.cost_evaluations
        tally.gradients += found.gradient_evaluations
        return found

    found = evidence.item(name, build)
    return Reading(found.value, truncation_error=found.search_error)


def along_the_gradient(evidence: Evidence) -> Reading:
    """The critical sharpness of gradient descent."""
    return _read(evidence, "critical-sharpness", preconditioned=False)


def along_adams_direction(evidence: Evidence) -> Reading:
    """The critical sharpness of Adam, its direction the gradient of all data over P, without the momentum."""
    return _read(evidence, "critical-sharpness-adam", preconditioned=True)


_SOURCE, _PERMUTATION = "Kalra et al. 2026", frozenset({"permutation"})

MEASURES = (
    Measure(
        "critical-sharpness",
        "critical sharpness, gradient step",
        "sharpness",
        "cost / parameter²",
        _SOURCE,
        "smaller",
        _PERMUTATION,
        ("gradients",),
        along_the_gradient,
        work=lambda _, __: {"critical-sharpness": 1.0 + _COSTS * GRADIENTS_PER_EVALUATION},
    ),
    Measure(
        "critical-sharpness-adam",
        "critical sharpness, Adam's step",
        "sharpness",
        "1 / parameter",
        _SOURCE,
        "smaller",
        _PERMUTATION,
        ("gradients", "optimizer"),
        along_adams_direction,
        work=lambda _, __: {"critical-sharpness-adam": 1.0 + _COSTS * GRADIENTS_PER_EVALUATION},
    ),
)
