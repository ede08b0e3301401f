"""Holds the core of a curvature against finite differences: the last guard against a derivative that is silently wrong.

A custom ``autograd.Function`` whose backward pass detaches what it should not, say, has a right gradient and a wrong
second derivative, and nothing in torch complains.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.randomness import generator
from spectra.unreached import UnreachedParametersError

# An eighth of the batch at most, so that the check costs a few gradients, but more than one row.
ROWS, SHARE = 16, 8
# Lengths of the central difference over that of theta. In float64 the first is right to 1e-6 for a smooth function;
# the second is for models that compute in float32 inside, the last for those with kinks, which it seldom crosses.
STEPS = (1e-5, 1e-3, 1e-7)
# The differences' own error stays far below the first; a wrong rule of one layer shows far above it. The second says
# when two of the differences agree so well that the fault is the core's.
AGREES, REPRODUCED = 1e-3, 1e-2
# A float64 copy of the model, its gradients and a few vectors.
_VECTORS = 8


class Confirmable(Protocol):
    """A curvature that can say what its core differentiates."""

    landscape: Landscape
    theta: Tensor
    memory: int
    name: str

    def differentiated(
        self, landscape: Landscape, theta: Tensor, direction: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The core's derivative along a direction on another landscape, and the function of theta it is that of."""
        ...


def confirm(curvature: Confirmable) -> tuple[str, ...]:
    """Compares the core with central differences on a few rows, in a float64 copy.

    Args:
        curvature: what is about to be used.

    Returns:
        Sentences on what could not be confirmed; none where the two agree.

    Raises:
        UserError: if the differences agree with one another and the core does not agree with them, or the gradient
            leaves parameters out.
    """
    need = _VECTORS * 8 * curvature.landscape.size
    if need > curvature.memory / 16:
        return (f"not held against finite differences: a float64 copy would take {need / 1e9:.2g} GB",)
    try:
        errors, differences = _compared(curvature)
    except UnreachedParametersError as problem:
        raise UserError(f"the {curvature.name} cannot be trusted: {problem}") from problem
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as problem:
        return (f"not held against finite differences: a float64 copy of the model fails ({type(problem).__name__})",)
    if errors[-1] <= AGREES:
        return ()
    least = min(errors)
    if any(_apart(one, two) <= REPRODUCED for one, two in combinations(differences, 2)) and least > REPRODUCED:
        raise UserError(
            f"the {curvature.name} cannot be trusted: its products differ from finite differences by {least:.2g} of "
            "their norm, so a second derivative of the model is wrong (a custom autograd.Function whose backward pass "
            "cannot itself be differentiated?)"
        )
    return (f"finite differences confirm the {curvature.name} only to {least:.2g}: the model is not smooth there",)


def _compared(curvature: Confirmable) -> tuple[list[float], list[Tensor]]:
    """Errors of the core against the differences of each step, up to the first that agrees; and those differences."""
    rows = next(curvature.landscape.share()).rows
    landscape = curvature.landscape.sample(min(ROWS, max(2, rows // SHARE)))
    theta = curvature.theta.to(landscape.theta)
    direction = torch.randn(landscape.size, generator=generator(0, "confirm"), dtype=torch.float64).to(theta)
    direction /= direction.norm()
    known, function = curvature.differentiated(landscape, theta, direction)
    length = float(theta.norm()) or 1.0
    errors, differences = [], []
    for step in STEPS:
        ahead, behind = function(theta + step * length * direction), function(theta - step * length * direction)
        found = (ahead - behind) / (2.0 * step * length)
        rounding = 1e2 * torch.finfo(torch.float64).eps * float(ahead.norm()) / (step * length)
        differences.append(found)
        errors.append(0.0 if float((found - known).norm()) <= rounding else _apart(known, found))
        if errors[-1] <= AGREES:
            break
    return errors, differences


def _apart(one: Tensor, two: Tensor) -> float:
    scale = max(float(one.norm()), float(two.norm()), torch.finfo(torch.float64).tiny)
    return float((one - two).norm()) / scale
