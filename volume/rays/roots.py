"""Brackets and roots of many equations at once, by scipy's elementwise solvers under the names its release has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from scipy.optimize import elementwise
except ImportError:  # scipy 1.13 and 1.14 have the same solvers, not yet public
    elementwise = None

Array = NDArray[np.float64]


def bracket_root(
    function: Callable[..., Array], left: Array, right: Array, *, least: float, most: float, args: tuple[Any, ...]
) -> tuple[tuple[Array, Array], NDArray[np.bool_]]:
    """Ends between which a function changes its sign, each equation's searched for from ends of its own.

    Args:
        function: called with x (q,) and the args, each cut to the equations still searched.
        left: (q,) left ends to start from.
        right: (q,) right ends to start from.
        least: x below which nothing is looked for.
        most: x above which nothing is looked for.
        args: further arrays (q,) of the function.

    Returns:
        Left and right ends (q,), and (q,) whether they were found.
    """
    if elementwise is not None:
        found = elementwise.bracket_root(function, left, right, xmin=least, xmax=most, args=args)
        return found.bracket, found.success
    from scipy.optimize._bracket import _bracket_root

    found = _bracket_root(function, left, right, xmin=least, xmax=most, args=args)
    return (found.xl, found.xr), found.success


def find_root(
    function: Callable[..., Array],
    bracket: tuple[Array, Array],
    *,
    args: tuple[Any, ...],
    tolerance: float | None = None,
) -> Array:
    """Roots by Chandrupatla's method.

    Args:
        function: as in ``bracket_root``.
        bracket: left and right ends (q,), between which it changes its sign.
        args: further arrays (q,) of the function.
        tolerance: allowed width of the last bracket, unit of x; None for scipy's.

    Returns:
        The roots (q,).

    Reference:
        Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function, 1997.

    >>> find_root(lambda x, square: x**2 - square, (np.zeros(2), np.full(2, 9.0)), args=(np.array([4.0, 9.0]),))
    array([2., 3.])
    """
    if elementwise is not None:
        return np.asarray(elementwise.find_root(function, bracket, args=args, tolerances={"xatol": tolerance}).x)
    from scipy.optimize._chandrupatla import _chandrupatla

    return np.asarray(_chandrupatla(function, *bracket, args=args, xatol=tolerance).x)
