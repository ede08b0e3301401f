"""The measure of ``{sum_i w(x_i) <= T}`` for one-dimensional wells, by convolution, between two rigorous bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from spectra.errors import UserError

Array = NDArray[np.float64]


def log_product_wells(
    inner_measure: Callable[[Array], Array], size: int, cutoff: float, *, cells: int = 2**15
) -> tuple[float, float]:
    r"""Log measure of ``{sum_i w(x_i) <= T}``, all n coordinates alike, and the error of that logarithm, nats.

    ``inner_measure(y)`` is the one-dimensional measure of ``{w <= y}``. Its increments over a grid of [0, T] are the
    measure of one coordinate by its cost; n of them are convolved. Counting each cell at its lower end makes the set
    too large, at its upper end too small: the middle of both logarithms is returned, and half of their distance.
    Increments are tilted by ``exp(-b y)`` on the way, so that rounding stays relative to what decides the answer.

    Raises:
        UserError: if the cutoff is not positive and finite.

    >>> value, error = log_product_wells(lambda y: 2.0 * np.sqrt(2.0 * y), 2, 0.5)  # x^2 / 2 each: the unit disc
    >>> abs(value - math.log(math.pi)) < error < 1e-4
    True
    """
    if not (math.isfinite(cutoff) and cutoff > 0.0):
        raise UserError(f"cutoff must be positive and finite, got {cutoff:g}")
    grid = np.linspace(0.0, cutoff, cells + 1)
    increments = np.diff(inner_measure(grid))
    tilt = size / (2.0 * cutoff)
    tilted = increments * np.exp(-tilt * grid[:-1])
    scale = float(tilted.sum())
    lower_ends = _power(tilted / scale, size, cells)
    # exp(+b y) undoes the tilt; the last entry of the sum of lower ends is the largest cost kept.
    weights = np.exp(tilt * (grid[:-1] - cutoff))
    offset = size * math.log(scale) + tilt * cutoff
    above = math.log(float(lower_ends @ weights)) + offset
    # Upper ends are n cells further on: what was counted up to T - n h.
    kept = cells - size
    below = math.log(float(lower_ends[:kept] @ weights[:kept])) + offset
    return 0.5 * (above + below), 0.5 * (above - below)


def _power(measure: Array, size: int, cells: int) -> Array:
    """The n-fold convolution on [0, T], by repeated squaring; entries are non-negative but for rounding."""
    result: Array | None = None
    while size:
        if size & 1:
            result = measure if result is None else np.maximum(fftconvolve(result, measure)[:cells], 0.0)
        size >>= 1
        if size:
            measure = np.maximum(fftconvolve(measure, measure)[:cells], 0.0)
    assert result is not None
    return result
