"""Learning coefficients that are known exactly: the cases that estimates are held against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LearningCoefficient:
    """``V(c) ~ c^lambda (-log c)^(m - 1)`` as the cutoff c goes to zero.

    Attributes:
        value: lambda.
        multiplicity: m.
    """

    value: Fraction
    multiplicity: int


def normal_crossing(powers: Sequence[int], prior_powers: Sequence[int] | None = None) -> LearningCoefficient:
    """Of ``prod x_i^(2 k_i)`` under a prior ``prod |x_i|^(h_i)``: ``min (h_i + 1) / (2 k_i)``, m how many attain it.

    Args:
        powers: (d,) k, non-negative, one positive at least.
        prior_powers: (d,) h, non-negative; default zero.

    Returns:
        The coefficient.

    Raises:
        UserError: if the lengths differ, or a power is out of range.

    Reference:
        Watanabe, Algebraic geometry and statistical learning theory, 2009.

    >>> normal_crossing([1, 1])
    LearningCoefficient(value=Fraction(1, 2), multiplicity=2)
    """
    prior = [0] * len(powers) if prior_powers is None else list(prior_powers)
    if len(prior) != len(powers) or min(powers, default=-1) < 0 or max(powers) < 1 or min(prior) < 0:
        raise UserError(
            f"powers and prior_powers must be as many, non-negative, one power positive; got {powers}, {prior}"
        )
    ratios = [Fraction(h + 1, 2 * k) for k, h in zip(powers, prior, strict=True) if k]
    least = min(ratios)
    return LearningCoefficient(least, ratios.count(least))


def sum_of_powers(powers: Sequence[int]) -> LearningCoefficient:
    """Of ``sum x_i^(2 k_i)``: ``sum 1 / (2 k_i)``; a regular quadratic has d/2.

    Args:
        powers: (d,) k, positive.

    Returns:
        The coefficient.

    Raises:
        UserError: if a power is not positive.

    >>> sum_of_powers([1, 2]).value
    Fraction(3, 4)
    """
    if min(powers, default=0) < 1:
        raise UserError(f"powers must be positive, got {powers}")
    return LearningCoefficient(sum((Fraction(1, 2 * k) for k in powers), Fraction(0)), 1)


def power_of_norm(power: int, size: int) -> LearningCoefficient:
    """Of ``|x|^(2 k)`` in d dimensions: ``d / (2 k)``.

    Args:
        power: k, positive.
        size: d, positive.

    Returns:
        The coefficient.

    >>> power_of_norm(2, 2).value
    Fraction(1, 2)
    """
    return LearningCoefficient(Fraction(size, 2 * power), 1)


def hidden_tanh(hidden: int) -> LearningCoefficient:
    """Of ``sum_h a_h tanh(b_h x)`` with H hidden units where the truth is zero.

    Args:
        hidden: H, positive.

    Returns:
        ``(H + h^2 + h) / (4 h + 2)``, ``h = floor(sqrt H)``; m is 2 where H is a square, else 1.

    Reference:
        Aoyagi and Watanabe, 2006.

    >>> hidden_tanh(1).value
    Fraction(1, 2)
    """
    root = math.isqrt(hidden)
    return LearningCoefficient(Fraction(hidden + root * root + root, 4 * root + 2), 2 if root * root == hidden else 1)


def deep_linear(widths: Sequence[int], rank: int) -> LearningCoefficient:
    r"""Of a product of matrices ``W_L ... W_1`` (squared error) where the true product has rank r.

    With ``M_i = H_i - r`` and the l + 1 smallest of them selected, S their sum, such that the largest selected is below
    the smallest other, ``S >= l max(selected)`` and ``S < l min(rest)``: ``M = ceil(S / l)``, ``a = S - (M - 1) l``,
    ``lambda = (r (H_0 + H_L) - r^2) / 2 + a (l - a) / (4 l) - l (l - 1) / 4 (S / l)^2 + 1/2 sum_{i<j} M_i M_j``.

    Args:
        widths: (L + 1,) from the inputs H_0 to the outputs H_L.
        rank: r, at most the smallest width.

    Returns:
        The coefficient, ``m = a (l - a) + 1``.

    Raises:
        UserError: if there are fewer than two matrices' widths, or the rank is out of range.

    Reference:
        Aoyagi, Consideration on the learning efficiency of multiple-layered neural networks with linear units, 2024.

    >>> deep_linear([5, 4, 5], 0)
    LearningCoefficient(value=Fraction(8, 1), multiplicity=1)
    """
    if len(widths) < 2 or not 0 <= rank <= min(widths):
        raise UserError(f"rank must lie between 0 and the smallest of at least two widths {list(widths)}, got {rank}")
    excess = sorted(width - rank for width in widths)
    count = _selected(excess)
    chosen, total = excess[: count + 1], sum(excess[: count + 1])
    ceiling = -(-total // count)
    a = total - (ceiling - 1) * count
    pairs = sum(one * two for one, two in itertools.combinations(chosen, 2))
    value = (
        Fraction(rank * (widths[0] + widths[-1]) - rank**2, 2)
        + Fraction(a * (count - a), 4 * count)
        - Fraction(count * (count - 1), 4) * Fraction(total, count) ** 2
        + Fraction(pairs, 2)
    )
    return LearningCoefficient(value, a * (count - a) + 1)


def _selected(excess: list[int]) -> int:
    """l: the l + 1 smallest are selected."""
    for count in range(1, len(excess)):
        chosen, rest = excess[: count + 1], excess[count + 1 :]
        total = sum(chosen)
        apart = not rest or chosen[-1] < rest[0]
        if apart and total >= count * chosen[-1] and (not rest or total < count * rest[0]):
            return count
    raise AssertionError("one selection always fits")


def quadratic_coefficient(
    eigenvalues: ArrayLike, *, inverse_temperature: float, localisation: float, step_size: float = 0.0
) -> float:
    r"""``nb E[L] - nb L*`` of Langevin sampling on a quadratic, at finite temperature and step size.

    ``1/2 sum nb h / (a (1 - e a / 4))``, ``a = nb h + g``: without the step, half the effective dimension.

    Args:
        eigenvalues: (n,) h of the mean cost.
        inverse_temperature: nb, samples times inverse temperature.
        localisation: g.
        step_size: e; 0 for the exact stationary value.

    Returns:
        The value; inf where the step size is past the limit 4 / a_max or some a is not positive.

    >>> quadratic_coefficient([1.0, 1.0], inverse_temperature=3.0, localisation=1.0)
    0.75
    """
    curvature = inverse_temperature * np.asarray(eigenvalues, dtype=np.float64)
    stiffness = curvature + localisation
    if stiffness.min() <= 0.0 or step_size * stiffness.max() >= 4.0:
        return math.inf
    return float(0.5 * np.sum(curvature / (stiffness * (1.0 - 0.25 * step_size * stiffness))))
