"""Rank correlations of two columns, ties as ties; and of two given a third."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from comparisons.statistics.resampling import kendalls_of, spearmans_of

Array = NDArray[np.float64]
Number = TypeVar("Number", float, Array)
# Elements of the sign matrices held at once.
CHUNK = 4_000_000


def kendall(x: Array, y: Array) -> float:
    """Kendall's tau_b by counting pairs; nan if either is constant.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])).__round__(6)
    0.333333
    """
    return float(kendalls_of(x, y, np.ones((1, len(x))))[0])


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; nan if either is constant."""
    return float(spearmans_of(x, y, np.ones((1, len(x))))[0])


def kendalls(x: Array, y: Array) -> Array:
    """Kendall's tau_b of each of the rows (rows, k)."""
    found = []
    # The sign matrices of a chunk of rows are held at once.
    step = max(1, CHUNK // x.shape[1] ** 2)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        one, two = (np.sign(rows[part, :, None] - rows[part, None, :]) for rows in (x, y))
        scale = np.sqrt((one**2).sum((1, 2)) * (two**2).sum((1, 2)))
        with np.errstate(invalid="ignore"):
            found.append((one * two).sum((1, 2)) / scale)
    return np.concatenate(found)


def partial(xy: Number, xz: Number, yz: Number) -> Number:
    """``(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))``: the correlation of x and y given z.

    Of Pearson's coefficients it is the correlation of what is left of both after regression on z; so it is of ranks
    with Spearman's; of Kendall's it is his partial tau. It is nan where z decides one of them.

    Reference:
        Kendall, Partial rank correlation, 1942.

    >>> partial(0.5, 0.0, 0.7).__round__(6), partial(0.5, 0.5, 1.0)
    (0.70014, nan)
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (1.0 - np.square(xz)) * (1.0 - np.square(yz))
        # A z that decides x or y leaves rounding and no more.
        found = np.where(left > 1e-12, np.subtract(xy, xz * yz) / np.sqrt(left), np.nan)
    return float(found) if np.ndim(found) == 0 else found  # type: ignore[return-value]
