"""The estimators that an audit knows by name; a mapping, so that one of your own joins by one line."""

from __future__ import annotations

from spectra.members import members
from volume.audit.case import Effort, Estimator, EstimatorRow

# Those that are run by name alone come last.
_ROWS = sorted(members("volume.audit", EstimatorRow, "ESTIMATORS"), key=lambda row: row.by_name)
NAMES = tuple(row.name for row in _ROWS)
BY_NAME = tuple(row.name for row in _ROWS if row.by_name)


def estimators(*, directions: int = 200, probes: int = 8, steps: int = 32, products: int = 60) -> dict[str, Estimator]:
    """All estimators at one effort, by name; ``estimators() | {"mine": my_function}`` has one more.

    Args:
        directions: of those that sample directions.
        probes: of spectra, ours and PyHessian's.
        steps: Lanczos steps a probe.
        products: of traces; with PyHessian's stopping rule the most.

    >>> sorted(estimators())[:3]
    ['bridge', 'ellipsoid-determinant', 'ellipsoid-slice']
    """
    effort = Effort(directions, probes, steps, products)
    return {row.name: row.make(effort) for row in _ROWS}
