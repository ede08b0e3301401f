"""What is known of a case and of which set, and one answer of an estimator that is audited."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError
from spectra.interval import ends, half_width
from spectra.words import curvature_unit

Array = NDArray[np.float64]
# A product with the curvature counts as so many gradients (measured: 1.2 to 2.8, see the design's table).
PRODUCT_GRADIENTS = 2.0
VOLUME, TRACE, DETERMINANT = "log-volume", "trace", "log-determinant"
QUANTITIES = (VOLUME, TRACE, DETERMINANT)
# The sets whose volume an estimator claims to measure: all that costs less than the cutoff, and of that what straight
# lines from the anchor reach. The second lies in the first. They are the same where the cost never falls on the way.
SUBLEVEL, STAR = "sublevel", "star"
SETS = {SUBLEVEL: "the sublevel set", STAR: "the star domain"}
BOTH = "both"
UNITS = {VOLUME: "nat", TRACE: curvature_unit("hessian"), DETERMINANT: "nat"}


@dataclass(frozen=True)
class Truth:
    """A number that is known, and how.

    Attributes:
        value: in the unit of its quantity.
        error: standard error of the value, or a bound on its error; 0 for a closed form.
        how: where it comes from, in words.
        freedom: degrees of freedom of the error; inf for one that is known well, and for a bound.
        of: the set whose log-volume it is: one of ``SETS``, or ``both`` where they are the same by construction; empty
            for another quantity, and in a file from before this was recorded.
    """

    value: float
    error: float
    how: str
    freedom: float = math.inf
    of: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.error) and self.error >= 0.0):
            raise UserError(f"a truth must be finite, its error not negative; got {self.value:g} with {self.error:g}")

    def says_of(self, claimed: str) -> bool:
        """Whether it is the truth of a set, one of ``SETS``."""
        return self.of in (claimed, BOTH)

    @property
    def half_width(self) -> float:
        """Half of its 95 % interval."""
        return half_width(self.error, self.freedom)


class NotApplicable(UserError):  # noqa: N818  # not an error of anybody: the estimator has nothing to say here
    """An estimator does not apply to a case; the message says why."""


@dataclass(frozen=True, eq=False)
class AuditReading:
    """What an estimator says of a case once.

    Attributes:
        value: the estimate, in the unit of its quantity.
        standard_error: what it says of its own error; nan if nothing.
        low: lower end of its own 95 % interval; by default from the standard error.
        high: upper end.
        quantity: one of ``QUANTITIES``.
        gradients: gradient evaluations spent, a product with the curvature counted as two.
        evaluations: cost evaluations spent.
        log_terms: (k,) what each direction alone says, nats, if it is a mean over directions; else empty.
        effective_samples: how many of them carry the estimate; nan where there are none.
        consistent: whether more directions would bring it to the truth, or to something else.
        freedom: degrees of freedom of the standard error; inf for one that is known well.
        claims: the set whose volume it claims to measure, one of ``SETS``; empty in files from before that was kept.

    >>> AuditReading(1.0, 0.5).covers(1.9), AuditReading(1.0, 0.5).covers(2.1)
    (True, False)
    """

    value: float
    standard_error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    quantity: str = VOLUME
    gradients: float = 0.0
    evaluations: float = 0.0
    log_terms: Array = field(default_factory=lambda: np.empty(0))
    effective_samples: float = math.nan
    consistent: bool = True
    freedom: float = math.inf
    claims: str = SUBLEVEL

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise UserError(f"quantity must be one of {', '.join(QUANTITIES)}; got {self.quantity!r}")
        if self.claims not in (*SETS, ""):
            raise UserError(f"claims must be one of {', '.join(SETS)}; got {self.claims!r}")
        if math.isnan(self.low) and math.isnan(self.high) and math.isfinite(self.standard_error):
            low, high = ends(self.value, half_width(self.standard_error, self.freedom))
            object.__setattr__(self, "low", low)
            object.__setattr__(self, "high", high)

    @property
    def has_interval(self) -> bool:
        """Whether it comes with an error bar."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def covers(self, truth: float, slack: float = 0.0) -> bool:
        """Whether the interval, widened by ``slack`` on both sides, holds the truth."""
        return self.low - slack <= truth <= self.high + slack
