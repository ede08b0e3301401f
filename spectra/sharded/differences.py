"""Central differences of a function along a line: the noise is measured, the step chosen from it, the error known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# A function of the distance along a line, in this rank's part; and the norm of a vector by the ranks' parts.
Line = Callable[[float], Tensor]
Norm = Callable[[Tensor], float]
# Differences of the third order leave of a smooth function nothing, of noise sqrt(20) times its deviation.
_ORDER = 3
_VALUES = 6
# Distance between the values that the noise is measured on, over the first step.
_CLOSE = 1e-2
# The step grows by this, so many times at most, until the differences' own error shows above the noise.
_GROWTH, _GROWINGS = 4.0, 4
_SHOWS = 4.0


@dataclass(frozen=True)
class Step:
    """A step and what central differences by it are off by, found along one line.

    Attributes:
        length: length h of the displacement.
        noise: norm of the noise of one value of the function.
        rounding: error by the noise, over the norm of the derivative.
        truncation: error by the step's length, over the norm of the derivative.
    """

    length: float
    noise: float
    rounding: float
    truncation: float

    @property
    def error(self) -> float:
        """Relative error of the derivative."""
        return math.hypot(self.rounding, self.truncation)


def central(line: Line, step: float) -> Tensor:
    """``(f(h) - f(-h)) / 2h``."""
    return (line(step) - line(-step)) / (2.0 * step)


def noise_of(line: Line, norm: Norm, spacing: float) -> float:
    """Norm of the noise of one value of a function, from differences of high order of values that lie close.

    Args:
        line: the function along a line.
        norm: the norm of a vector.
        spacing: distance between the values.

    Returns:
        The norm of its standard deviations.

    Reference:
        More and Wild, Estimating computational noise, 2011.

    >>> import torch
    >>> noise_of(lambda at: torch.tensor([at * at]), lambda part: float(part.norm()), 0.5)
    0.0
    """
    table = [line(spacing * place) for place in range(_VALUES)]
    for _ in range(_ORDER):
        table = [after - before for before, after in zip(table[:-1], table[1:], strict=True)]
    squares = [norm(difference) ** 2 for difference in table]
    return math.sqrt(sum(squares) / len(squares) / math.comb(2 * _ORDER, _ORDER))


def chosen_step(line: Line, norm: Norm, first: float) -> Step:
    r"""The step that balances the noise against the third derivative: ``(3 s / (sqrt 2 T))^(1/3)``.

    A central difference is off by ``s / (sqrt 2 h)`` where each value has noise of norm s, and by ``h^2 T / 6`` where
    T is the norm of the third derivative of ``line``, which the differences by h and 2 h tell.

    Args:
        line: the function along a line of unit direction.
        norm: the norm of a vector.
        first: a step of the right magnitude.

    Returns:
        The step, and the error of differences by it as found at it.

    Reference:
        More and Wild, Estimating derivatives of noisy simulations, 2012.
    """
    noise = noise_of(line, norm, _CLOSE * first)
    step, bend = first, 0.0
    for _ in range(_GROWINGS):
        apart = norm(central(line, 2.0 * step) - central(line, step))
        seen = _SHOWS * noise / step
        bend = 2.0 * max(apart, seen) / step**2
        if apart > seen or noise == 0.0:
            break
        step *= _GROWTH
    best = (3.0 * noise / (math.sqrt(2.0) * bend)) ** (1.0 / 3.0) if noise and bend else step
    best = min(max(best, _CLOSE * first), step)
    near, far = central(line, best), central(line, 2.0 * best)
    size = norm(near) or 1.0
    return Step(best, noise, noise / (math.sqrt(2.0) * best) / size, norm(far - near) / 3.0 / size)
