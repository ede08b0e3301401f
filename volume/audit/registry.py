"""The estimators that an audit knows by name; a mapping, so that one of your own joins by one line."""

from __future__ import annotations

import math
from dataclasses import replace

from volume.audit.bridge import bridge
from volume.audit.case import AuditCase
from volume.audit.determinants import (
    DERIVED,
    determinant_volume,
    log_determinant,
    mass,
    own_density,
    pyhessian_density_of,
    trace,
)
from volume.audit.reading import AuditReading, Estimator
from volume.audit.samplers import PRECONDITIONERS, ellipsoid_slice, star_domain


def estimators(*, directions: int = 200, probes: int = 8, steps: int = 32, products: int = 60) -> dict[str, Estimator]:
    """All estimators at one effort.

    Args:
        directions: of those that sample directions.
        probes: of spectra, ours and PyHessian's.
        steps: Lanczos steps a probe.
        products: of traces; with PyHessian's stopping rule the most.

    Returns:
        Estimators by name; ``estimators() | {"mine": my_function}`` has one more.

    >>> sorted(estimators())[:3]
    ['bridge', 'ellipsoid-determinant', 'ellipsoid-slice']
    """
    ours, theirs = own_density(probes, steps), pyhessian_density_of(probes, steps)
    return {
        **{f"star-domain/{name}": star_domain(name, directions) for name in PRECONDITIONERS},
        "ellipsoid-slice": ellipsoid_slice(0.0, directions),
        "ellipsoid-slice-corrected": ellipsoid_slice(1.0, directions),
        "ellipsoid-determinant": determinant_volume(ours, 0.0),
        "shifted-determinant": determinant_volume(ours, 1.0),
        "shifted-determinant/derived": determinant_volume(ours, DERIVED),
        "quadratic-mass": mass(ours),
        "quadratic-mass/pyhessian": without_bar(mass(theirs)),
        "log-determinant/slq": log_determinant(ours),
        "log-determinant/pyhessian": without_bar(log_determinant(theirs)),
        **{f"trace/{name}": trace(name, products) for name in ("hutchinson", "hutch++", "xtrace")},
        "trace/pyhessian-stopping": trace("pyhessian-stopping", products),
        "bridge": bridge(),
    }


def without_bar(estimator: Estimator) -> Estimator:
    """The same estimator without an error bar, as that of a density that comes without one.

    Args:
        estimator: the estimator.

    Returns:
        Another, whose readings have no interval.
    """

    def run(case: AuditCase, seed: int) -> AuditReading:
        return replace(estimator(case, seed), standard_error=math.nan, low=math.nan, high=math.nan)

    return run


NAMES = tuple(estimators())
# Not run unless it is asked for by name: a repeat takes seconds on a small case and minutes on a checkpoint.
BY_NAME = ("bridge",)
