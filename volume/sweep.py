"""Log-volumes across cutoffs, and their slope: half the number of dimensions that bound the basin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError
from volume.method_result import MethodResult

Array = NDArray[np.float64]
MOST_CUTOFFS = 200


@dataclass(frozen=True, eq=False)
class CutoffSweep:
    """What the methods say at each of several cutoffs, from one spectrum and one set of directions.

    Attributes:
        cutoffs: (q,) T, unit of the cost, ascending.
        results: one result a cutoff by method; the directions of a sampled method are the same at all of them.
        failures: why a method has none, a sentence, by method.
    """

    cutoffs: Array
    results: Mapping[str, tuple[MethodResult, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def log_volumes(self, method: str) -> Array:
        """(q,) log-volumes, nats."""
        return np.array([result.log_volume for result in self.results[method]])

    def half_widths(self, method: str) -> Array:
        """(q,) halves of the 95 % intervals, nats."""
        return np.array([result.half_width for result in self.results[method]])

    def intervals(self, method: str) -> Array:
        """(q, 2) ends of the 95 % intervals, nats."""
        return np.array([result.known.interval() for result in self.results[method]]).reshape(-1, 2)

    def slopes(self, method: str) -> Array:
        """(q,) ``d log V / d log T``, dimensionless: n/2 where the cost is quadratic and the measure Lebesgue's.

        By second-order differences in log T, at the ends too, so exact where log V is a parabola in it; nan where a
        volume is infinite, or where there is one cutoff alone. A volume does not fall with its cutoff: 0 at the least.
        """
        values = self.log_volumes(method)
        if len(values) < 2:
            return np.full(len(values), np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        logs = np.log(self.cutoffs)
        found = np.gradient(values, logs, edge_order=1 if len(values) == 2 else 2)
        return np.asarray(np.maximum(found, 0.0))

    def half_effective_dimensions(self, method: str) -> Array:
        """(q,) ``N_eff(c) / 2`` at each cutoff's own shift c, the slope that the spectrum alone tells; nan without."""
        found = [result.figures.get("effective_dimension", math.nan) for result in self.results[method]]
        return np.array(found) / 2.0

    def directions(self, method: str) -> int:
        """How many directions are done; 0 for a determinant."""
        sampled = self.results[method][0].sampled if method in self.results else None
        return 0 if sampled is None else len(sampled.log_terms)


def parse_sweep(text: str) -> Array:
    """Cutoffs at equal ratios.

    Args:
        text: ``LOW:HIGH:COUNT``, so many cutoffs from one to the other, both included.

    Returns:
        (COUNT,) cutoffs, ascending.

    Raises:
        UserError: if it is not that, LOW and HIGH are not positive and ascending, or COUNT is not from 2 to 200.

    >>> parse_sweep("1e-3:10:5").round(9).tolist()
    [0.001, 0.01, 0.1, 1.0, 10.0]
    """
    form = "sweep cutoffs must be LOW:HIGH:COUNT with 0 < LOW < HIGH and a whole COUNT of cutoffs"
    try:
        first, last, number = text.split(":")
        low, high, count = float(first), float(last), int(number)
    except ValueError:
        raise UserError(f"{form}, such as 1e-6:1e2:9; got {text!r}") from None
    if not (0.0 < low < high < math.inf and 2 <= count <= MOST_CUTOFFS):
        raise UserError(f"{form} from 2 to {MOST_CUTOFFS}; got {text!r}")
    return np.geomspace(low, high, count)
