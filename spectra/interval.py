"""The one rule for intervals, which every table, JSON object and figure follows.

Half of an interval is Student's t at the degrees of freedom of the standard error, times that error, plus the error
that more samples do not reduce. Ends are cut to the range that the quantity can have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from spectra.errors import UserError

Array = NDArray[np.float64]
LEVEL = 0.95
# The rule as captions of tables say it.
RULE = (
    "± is half of a 95 % interval: Student t over probes, chains, directions or repeats, widened by truncation; two "
    "ends where it is cut to what is possible"
)
# Ends whose distances from the value differ by less than this share of the width are written as one ±.
_SYMMETRIC = 1e-6


def quantile(freedom: float, level: float = LEVEL) -> float:
    """Standard errors from the middle of an interval to its end, by Student's t; inf below one degree of freedom.

    Raises:
        UserError: if ``level`` is not in (0, 1).

    >>> round(quantile(7), 3), round(quantile(math.inf), 3), quantile(0)
    (2.365, 1.96, inf)
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"level must lie in (0, 1), got {level}")
    return float(stdtrit(freedom, 0.5 + level / 2.0)) if freedom >= 1.0 else math.inf


def half_width(standard_error: float, freedom: float, *, truncation_error: float = 0.0, level: float = LEVEL) -> float:
    """Half of an interval, in the unit of the errors, before it is cut to a range; inf where an error is unknown.

    >>> half_width(0.0, 0.0, truncation_error=0.5), round(half_width(1.0, 1.0), 3)
    (0.5, 12.706)
    """
    times = quantile(freedom, level)
    if standard_error == 0.0:
        return truncation_error
    return math.inf if math.isnan(standard_error) else times * standard_error + truncation_error


def ends(value: float, half: float, lowest: float = -math.inf, highest: float = math.inf) -> tuple[float, float]:
    """The ends of an interval, cut to the range of the quantity, which it is where the error is unknown.

    >>> ends(3.0, 5.0, lowest=0.0), ends(math.inf, math.inf)
    ((0.0, 8.0), (-inf, inf))
    """
    if math.isinf(half):
        return lowest, highest
    return min(max(value - half, lowest), highest), max(min(value + half, highest), lowest)


def joint_freedom(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of the sum in squares of independent standard errors, each with its own; inf if none counts.

    Reference:
        Welch, The generalization of Student's problem when several different population variances are involved, 1947.

    >>> joint_freedom([(1.0, 7), (1.0, 7)]), joint_freedom([(1.0, 7), (0.0, 3)])
    (14.0, 7.0)
    """
    known = [(error, freedom) for error, freedom in parts if error > 0.0]
    if any(not math.isfinite(error) or freedom <= 0.0 for error, freedom in known):
        return 0.0
    total = sum(error**2 for error, _ in known)
    inverse = sum((error**2 / total) ** 2 / freedom for error, freedom in known)
    return 1.0 / inverse if inverse > 0.0 else math.inf


def with_ends(value: float, interval: tuple[float, float]) -> str:
    """A value with its interval: as ``±`` where it is symmetric, else with both ends.

    >>> with_ends(3.0, (1.0, 5.0)), with_ends(3.123, (0.0, 8.2)), with_ends(3.0, (0.0, math.inf))
    ('3.0 ± 2.0', '3.12 (0 to 8.2)', '3 (0 to unknown)')
    """
    low, high = interval
    below, above = value - low, high - value
    if not math.isfinite(value) or below == above or abs(above - below) <= _SYMMETRIC * min(below, above):
        return with_error(value, above)
    return f"{short(value)} ({short(low)} to {short(high)})"


def interval_label(over: str) -> str:
    """What a figure's legend says of its bars and bands, for samples such as ``8 probes``, or for none.

    >>> interval_label("8 probes"), interval_label("")
    ('95 % interval: Student t over 8 probes', '95 % interval')
    """
    return f"{LEVEL * 100:.0f} % interval{f': Student t over {over}' if over else ''}"


def over_probes(count: int) -> str:
    """What an interval is over, for its label; nothing where no probes were drawn."""
    return f"{count} probe{'s' * (count != 1)}" if count else ""


def bars(values: ArrayLike, intervals: Iterable[tuple[float, float]]) -> tuple[Array, NDArray[np.bool_]]:
    """Distances (2, k) of k points to their intervals' ends, 0 where one is unknown, and which points (k,) have both.

    >>> bars([2.0, 1.0], [(1.0, 4.0), (-math.inf, math.inf)])[0].tolist()
    [[1.0, 0.0], [2.0, 0.0]]
    """
    at = np.asarray(values, dtype=np.float64)
    reach = np.abs(np.array(list(intervals), dtype=np.float64).reshape(-1, 2).T - at)
    found = np.isfinite(reach)
    return np.where(found, reach, 0.0), np.asarray(found.all(axis=0))


def short(value: float) -> str:
    """A number to three digits, whole if it has more; ``unknown`` if it is not finite.

    >>> short(0.12345), short(4810.0), short(-math.inf)
    ('0.123', '4,810', 'unknown')
    """
    if not math.isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"


def with_error(value: float, half: float) -> str:
    """A value with half of its interval (0: exact, inf: unknown), both to the digits that the interval supports.

    >>> with_error(1234.5678, 0.0234), with_error(3.2e-7, 1.2e-9), with_error(2.0, 0.0)
    ('1234.568 ± 0.023', '(3.200 ± 0.012)e-07', '2')
    >>> with_error(-0.004, 0.56), with_error(-0.0, 0.0)
    ('0.00 ± 0.56', '0')
    >>> with_error(math.nan, 1.0), with_error(2.0, math.inf), with_error(-math.inf, 0.0)
    ('unknown', '2 ± unknown', '-infinite')
    """
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0.0 else "-infinite"
    if not math.isfinite(half):
        return f"{value + 0.0:.4g} ± unknown"
    largest = max(abs(value), half)
    if half == 0.0 or half < 1e-9 * largest:
        return f"{value + 0.0:.7g}"
    exponent = math.floor(math.log10(largest))
    plain = -3 <= exponent < 6
    scale = 1.0 if plain else 10.0**exponent
    decimals = max(0, 1 - math.floor(math.log10(half / scale)))
    # Added to zero, a minus that rounding leaves alone goes away.
    text = f"{round(value / scale, decimals) + 0.0:.{decimals}f} ± {half / scale:.{decimals}f}"
    return text if plain else f"({text})e{exponent:+03d}"
