"""Radial integrals in logs, for any number of parameters up to 1e9, and the constants of spheres."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlog1py, xlogy

from spectra.errors import UserError

Array = NDArray[np.float64]
# Points where the integrand has fallen below exp(-50) of its peak are left out: 2e-22 of a concave integral.
_DROP = 50.0
_NODES = 200
_ROWS = 2048


def log_sphere_surface(size: int) -> float:
    """Log surface area of the unit sphere in n dimensions, ``log(2 pi^(n/2) / Gamma(n/2))``.

    Args:
        size: n, at least 1 (two points then).

    Returns:
        The logarithm.

    >>> round(math.exp(log_sphere_surface(3)) / math.pi, 12)
    4.0
    """
    return math.log(2.0) + size / 2.0 * math.log(math.pi) - float(gammaln(size / 2.0))


def log_ball_volume(size: int) -> float:
    """Log volume of the unit ball in n dimensions, ``log(pi^(n/2) / Gamma(n/2 + 1))``.

    Args:
        size: n, at least 0.

    Returns:
        The logarithm.

    >>> round(math.exp(log_ball_volume(3)) / math.pi * 3, 12)
    4.0
    """
    return size / 2.0 * math.log(math.pi) - float(gammaln(size / 2.0 + 1.0))


def log_radial_integral(
    radius: ArrayLike, size: int, *, constant: ArrayLike = 0.0, linear: ArrayLike = 0.0, quadratic: ArrayLike = 0.0
) -> Array:
    r"""``log int_0^R exp(a - b r - c r^2 / 2) r^(n-1) dr`` for many (R, a, b, c) at once.

    The exponent ``h(r) = (n - 1) log r - b r - c r^2 / 2`` is concave. With p its maximum on [0, R] and
    ``r = p (1 + x)``, ``h(r) - h(p) = (n - 1) (log(1 + x) - x) + m x - c p^2 x^2 / 2``, in which
    ``m = n - 1 - b p - c p^2`` is zero unless p = R: no large numbers cancel. Gauss-Legendre of 200 nodes on either
    side of p, to where the integrand has vanished.

    Args:
        radius: (k,) R, non-negative, may be inf.
        size: n, at least 1.
        constant: (k,) a.
        linear: (k,) b, of either sign.
        quadratic: (k,) c >= 0.

    Returns:
        (k,) logarithms; inf where the integral diverges, -inf where R = 0. Relative error below 1e-10; in absolute
        terms a few roundings of ``n log p``, the largest part of the answer.

    Raises:
        UserError: if R or c is negative or not a number, or n is below 1.

    >>> float(log_radial_integral(2.0, 3)[0].round(9)) == round(math.log(8.0 / 3.0), 9)
    True
    """
    if size < 1:
        raise UserError(f"size must be at least 1, got {size}")
    R, a, b, c = (np.atleast_1d(x) for x in np.broadcast_arrays(*_floats(radius, constant, linear, quadratic)))
    for name, values in (("radius", R), ("quadratic", c)):
        if not np.all(values >= 0.0):
            raise UserError(f"{name} must not be negative, got {values[~(values >= 0.0)][0]:g}")
    if not (np.all(np.isfinite(b)) and np.all(np.isfinite(c))):
        raise UserError("linear and quadratic must be finite")
    result = np.full(R.shape, -np.inf)
    diverges = np.isinf(R) & (c == 0.0) & (b <= 0.0)
    result[diverges] = np.inf
    regular = np.flatnonzero((R > 0.0) & ~diverges)
    for start in range(0, len(regular), _ROWS):
        rows = regular[start : start + _ROWS]
        result[rows] = a[rows] + _block(R[rows], size, b[rows], c[rows])
    return result


def log_radial_slope(
    radius: ArrayLike, size: int, *, constant: ArrayLike = 0.0, linear: ArrayLike = 0.0, quadratic: ArrayLike = 0.0
) -> Array:
    """``d log(radial integral) / d log R``: the nats that a relative error of the radius costs; n under Lebesgue.

    Args:
        radius: (k,) R, positive and finite.
        size: n.
        constant: (k,) a.
        linear: (k,) b.
        quadratic: (k,) c.

    Returns:
        (k,) slopes, between 0 and, for b >= 0, n.

    >>> log_radial_slope(3.0, 7).round(9).tolist()
    [7.0]
    """
    R, a, b, c = _floats(radius, constant, linear, quadratic)
    total = log_radial_integral(R, size, constant=a, linear=b, quadratic=c)
    slope: Array = np.exp(a - b * R - c * R * R / 2.0 + size * np.log(R) - total)
    return slope


def _floats(*values: ArrayLike) -> list[Array]:
    return [np.asarray(value, dtype=np.float64) for value in values]


@cache
def _rule() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1.0) / 2.0, weights / 2.0


def _block(R: Array, size: int, b: Array, c: Array) -> Array:
    """The integral with a = 0; every entry has R > 0 and converges."""
    stationary = _stationary(size, b, c)
    inside = stationary < R
    peak = np.where(inside, stationary, R)
    # Only for n = 1 can the peak be at zero; then x counts decay lengths from there.
    at_zero = peak == 0.0
    unit = np.where(at_zero, 1.0 / (np.maximum(b, 0.0) + np.sqrt(c) + 1.0 / R), peak)
    slope = np.where(at_zero, -b * unit, np.where(inside, 0.0, size - 1.0 - b * peak - c * peak * peak))
    curvature = c * unit * unit
    lower = np.where(at_zero, 0.0, -1.0)
    upper = np.where(at_zero, R / unit, np.where(inside, R / unit - 1.0, 0.0))

    def fall(x: Array) -> Array:
        """Log of the integrand relative to its peak, at x (..., rows)."""
        bend = np.where(at_zero, 0.0, xlog1py(size - 1.0, x) - (size - 1.0) * x)
        return np.asarray(bend + slope * x - curvature * x * x / 2.0)

    first = 1.0 / (np.abs(slope) + np.sqrt(size - 1.0 + curvature) + 1e-300)
    around = log_around_peak(fall, first, np.abs(lower), np.abs(upper))
    at_peak: Array = xlogy(size - 1.0, peak) - b * peak - c * peak * peak / 2.0 + np.log(unit) + around
    return at_peak


def log_around_peak(fall: Callable[[Array], Array], first: Array, below: Array, above: Array) -> Array:
    """``log int exp(fall(x)) dx`` from ``-below`` to ``above``, of a function that falls from 0 at 0 to both sides.

    Args:
        fall: of x (..., k), each column a function of its own.
        first: (k,) a guess, not too large, of how far from 0 it has fallen much.
        below: (k,) how far it goes to the left, may be inf.
        above: (k,) how far to the right.

    Returns:
        (k,) logarithms.
    """
    nodes, weights = _rule()
    total = np.zeros_like(first)
    for sign, limit in ((-1.0, below), (1.0, above)):
        width = _width(fall, sign, first, limit)
        total += width * (weights @ np.exp(fall(sign * width * nodes[:, None])))
    return np.asarray(np.log(total))


def _stationary(size: int, b: Array, c: Array) -> Array:
    """Where ``(n - 1) log r - b r - c r^2 / 2`` is stationary: the root of ``c r^2 + b r = n - 1``, or inf."""
    root = np.sqrt(b * b + 4.0 * c * (size - 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        falling = 2.0 * (size - 1.0) / (b + root)
        rising = (root - b) / (2.0 * c)
    found = np.where(b > 0.0, falling, rising)
    # n = 1 and b = c = 0: the integrand is flat, and its end is as good a peak as any.
    return np.where(np.isnan(found), np.inf, found)


def _width(fall: Callable[[Array], Array], sign: float, first: Array, limit: Array) -> Array:
    """How far from the peak the integrand is at most exp(-50) of it, by doubling; at most ``limit``."""
    width = np.minimum(first, limit)
    for _ in range(1100):  # the exponents of float64 span 2,100 doublings; the first guess is never below the scale
        short = (width < limit) & (fall(sign * width) > -_DROP)
        if not short.any():
            break
        width = np.where(short, np.minimum(2.0 * width, limit), width)
    return width
