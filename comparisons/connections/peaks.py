"""The highest point of a curve that is known at some places: how high, where, and how much higher it may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# How much more a curve may bend between two places than it does around them.
SAFETY = 2.0
# Places nearer than this share of the whole are not told apart.
NEAREST = 1e-6


@dataclass(frozen=True)
class Peak:
    """The highest point of a curve.

    Attributes:
        height: the highest value found.
        error: how much higher the curve may rise between the places, where it bends no more than ``SAFETY`` times as
            much as around them.
        place: where the highest value is.
        low: least place at which the curve may be that high.
        high: greatest such place.
    """

    height: float
    error: float
    place: float
    low: float
    high: float


def peak(places: Array, values: Array) -> Peak:
    """The highest point of a curve.

    Args:
        places: (k,) ascending, at least three.
        values: (k,) the curve there.

    Returns:
        The highest value, its place, and what more is possible between the places.

    >>> x = np.linspace(0.0, 1.0, 21)
    >>> found = peak(x, x * (1.0 - x))
    >>> found.height, found.place, found.error < 1e-3
    (0.25, 0.5, True)
    """
    bounds = highest_between(places, values)
    best = int(values.argmax())
    possible = np.flatnonzero(bounds >= values[best])
    return Peak(
        float(values[best]),
        float(max(bounds.max() - values[best], 0.0)),
        float(places[best]),
        float(min(places[possible].min(initial=places[best]), places[best])),
        float(max(places[possible + 1].max(initial=places[best]), places[best])),
    )


def highest_between(places: Array, values: Array) -> Array:
    """What a curve can rise to within each interval (k - 1,).

    A curve with ``|f''| <= M`` lies below its chord plus ``M/2 (x - a)(b - x)``. M is ``SAFETY`` times the largest
    second difference of those three points in a row that hold the interval or touch it.
    """
    width, rise = np.diff(places), np.diff(values)
    slopes = rise / width
    bends = np.abs(2.0 * np.diff(slopes) / (places[2:] - places[:-2]))
    # Interval i lies in the triples i - 1 and i, and touches i - 2 and i + 1.
    padded = np.pad(bends, 2, constant_values=0.0)
    most = SAFETY * np.max([padded[shift : shift + len(width)] for shift in range(4)], axis=0)
    arch = most * width**2 / 2.0
    inside = np.abs(rise) < arch
    middle = (values[:-1] + values[1:]) / 2.0
    arched = middle + arch / 4.0 + np.divide(rise**2, 4.0 * arch, out=np.zeros_like(rise), where=inside)
    return np.where(inside, arched, np.maximum(values[:-1], values[1:]))


def to_look_at(places: Array, curves: Array, tolerance: float) -> Array:
    """The middles of intervals in which one of several curves may rise above its highest value by more than this.

    Args:
        places: (k,) ascending.
        curves: (m, k) values of each curve.
        tolerance: in the curves' unit, positive.

    Returns:
        New places, those that promise most first; none once all highest points are known within the tolerance.
    """
    promise = np.max([highest_between(places, values) - values.max() for values in curves], axis=0)
    promise[np.diff(places) <= NEAREST * (places[-1] - places[0])] = 0.0
    order = np.argsort(-promise, kind="stable")
    middles: Array = ((places[:-1] + places[1:]) / 2.0)[order]
    found: Array = middles[promise[order] > tolerance]
    return found
