"""Closed-form log-volumes: the known cases that estimators are held against."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaincc, gammaln, logsumexp

from volume.priors import log_ball_volume

Array = NDArray[np.float64]
_SMALLEST = 1e-290
_DROP = 50.0


def log_ball(radius: float, size: int) -> float:
    """``n log R + log V_n``, the log volume of a ball of radius R in n dimensions.

    >>> round(math.exp(log_ball(2.0, 2)) / math.pi, 12)
    4.0
    """
    return log_ball_volume(size) + size * math.log(radius)


def log_ellipsoid(eigenvalues: ArrayLike, cutoff: float) -> float:
    """Log volume of ``{1/2 x^T H x <= T}`` for positive eigenvalues l (n,), radii ``sqrt(2 T / l_i)``.

    >>> round(math.exp(log_ellipsoid([1.0, 4.0], 2.0)) / math.pi, 12)  # radii 2 and 1
    2.0
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    return log_ball_volume(len(values)) + 0.5 * float(np.sum(np.log(2.0 * cutoff) - np.log(values)))


def log_power_ball(power: float, cutoff: float, scales: ArrayLike) -> float:
    """Log volume of ``{sum_i |x_i / a_i|^p <= T}`` for positive scales a (n,), Dirichlet's integral.

    Reference:
        Dirichlet, Sur une nouvelle methode pour la determination des integrales multiples, 1839.

    >>> round(math.exp(log_power_ball(1.0, 1.0, [1.0, 1.0])), 12)  # a square of diagonal 2
    2.0
    """
    a = np.asarray(scales, dtype=np.float64)
    n = len(a)
    unit = n * (math.log(2.0) + float(gammaln(1.0 + 1.0 / power))) - float(gammaln(1.0 + n / power))
    return unit + n / power * math.log(cutoff) + float(np.log(a).sum())


def log_gaussian_ball(radius: float, size: int, standard_deviation: float, distance: float = 0.0) -> float:
    r"""Log prior mass of a ball around the anchor: the chi-square distribution, non-central unless at the origin.

    ``log sum_j Poisson(j; d^2 / 2 s^2) P(n/2 + j, R^2 / 2 s^2)``, in logs at any depth. The ellipsoid
    ``{1/2 x^T H x <= T}`` is this case where all its m non-zero ``l_i s_i^2`` equal one number g: size m,
    radius ``sqrt(2 T / g)``, standard deviation 1, and the distance in standard deviations within those m directions.

    Args:
        radius: R, positive.
        size: n.
        standard_deviation: s, positive.
        distance: distance of the anchor from the origin, d.

    Returns:
        The logarithm.

    >>> round(log_gaussian_ball(1.0, 2, 1.0), 12) == round(math.log(1.0 - math.exp(-0.5)), 12)
    True
    """
    x, rate = 0.5 * (radius / standard_deviation) ** 2, 0.5 * (distance / standard_deviation) ** 2
    if rate == 0.0:
        return log_lower_gamma(size / 2.0, x)

    def term(j: int) -> float:
        return j * math.log(rate) - rate - math.lgamma(j + 1.0) + log_lower_gamma(size / 2.0 + j, x)

    low, high = _window(term, math.ceil(rate + 50.0 * math.sqrt(rate) + 100.0))
    j = np.arange(low, high + 1)
    shape = size / 2.0 + j
    # P(a, x) = P(a + 1, x) + x^a e^(-x) / Gamma(a + 1): downwards only positive terms add up.
    steps = np.append((shape * math.log(x) - x - gammaln(shape + 1.0))[:-1], log_lower_gamma(float(shape[-1]), x))
    tails = np.logaddexp.accumulate(steps[::-1])[::-1]
    return float(logsumexp(j * math.log(rate) - rate - gammaln(j + 1.0) + tails))


def _window(term: Callable[[int], float], highest: int) -> tuple[int, int]:
    """Where a log-concave sequence is within exp(-50) of its largest entry."""
    left, right = 0, highest
    while right - left > 2:
        third = (right - left) // 3
        if term(left + third) < term(right - third):
            left += third
        else:
            right -= third
    peak = max(range(left, right + 1), key=term)
    floor, ends = term(peak) - _DROP, []
    for sign, limit in ((-1, peak), (1, highest - peak)):
        reach = 1
        while reach < limit and term(peak + sign * reach) > floor:
            reach *= 2
        ends.append(peak + sign * min(reach, limit))
    return ends[0], ends[1]


def log_lower_gamma(shape: float, x: float) -> float:
    """``log P(a, x)``, the regularised lower incomplete gamma function, without underflow.

    Where P itself would underflow it is by the series ``x^a e^(-x) / Gamma(a + 1) sum_k x^k / ((a + 1) ... (a + k))``.

    >>> round(log_lower_gamma(1e4, 1.0) + 1.0 + math.lgamma(10001.0), 4)  # the first term, and 1 / 10001 more
    0.0001
    """
    below = float(gammainc(shape, x))
    if below > 0.5:
        return math.log1p(-float(gammaincc(shape, x)))
    if below > _SMALLEST:
        return math.log(below)
    leading = shape * math.log(x) - x - math.lgamma(shape + 1.0)
    total, product, first = 1.0, 1.0, shape + 1.0
    while product > 1e-18 * total:
        factors = np.cumprod(x / (first + np.arange(1000.0)))
        total += product * float(factors.sum())
        product *= float(factors[-1])
        first += 1000.0
    return leading + math.log(total)
