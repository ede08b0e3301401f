"""An estimate is a value with its two errors: the statistical one and the quadrature's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError
from spectra.files import Named, Result
from spectra.interval import LEVEL, ends, half_width, joint_freedom, short, with_ends

Array = NDArray[np.float64]
# A value this far outside of its range, relative to one, is inside it but for rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Result):
    """A stochastic quantity with the evidence it rests on.

    Attributes:
        value: the estimate, in the unit of the quantity.
        standard_error: standard error of ``value`` over probes; 0 for an exact value, inf where
            one probe leaves nothing to compare with.
        truncation_error: bound or estimate of the error of the quadrature (finitely many Lanczos
            steps), which more probes do not reduce.
        samples: (probes,) what each probe alone says of the quantity; empty for an exact value.
        cautions: sentences on why the value is not to be trusted; empty if nothing speaks against it.
        freedom: degrees of freedom of the standard error; None for one fewer than there are samples, or, without
            samples, for an error that is known well.
        lowest: least value that the quantity can have; intervals are cut there.
        highest: largest one.
    """

    value: float
    standard_error: float = 0.0
    truncation_error: float = 0.0
    samples: Array = field(default_factory=lambda: np.empty(0))
    cautions: tuple[str, ...] = ()
    freedom: float | None = None
    lowest: float = -math.inf
    highest: float = math.inf
    _drawn_by: ClassVar[str] = "spectra.plots:draw_estimate"

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the value."""
        return not self.cautions

    @property
    def exact(self) -> bool:
        """Whether the value carries no error but rounding: samples that happen to agree do not make it exact."""
        return self.standard_error == 0.0 and self.truncation_error == 0.0 and len(self.samples) == 0

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the standard error."""
        if self.freedom is not None:
            return self.freedom
        return len(self.samples) - 1.0 if len(self.samples) else math.inf

    def _title(self) -> str:
        return with_ends(self.value, self.interval())

    def _facts(self) -> dict[str, str]:
        if self.exact:
            return {"error": "none but rounding"}
        errors = {"standard error": self.standard_error, "truncation error": self.truncation_error}
        return {name: f"{error:.3g}" for name, error in errors.items()} | {"samples": f"{len(self.samples)}"}

    def _cautions(self) -> tuple[str, ...]:
        return self.cautions

    def records(self) -> list[dict[str, Any]]:
        """One row: the value with its errors and its 95 % interval."""
        low, high = self.interval()
        errors = {"standard_error": self.standard_error, "truncation_error": self.truncation_error}
        words = {"samples": len(self.samples), "freedom": self.degrees, "cautions": "; ".join(self.cautions)}
        return [{"value": self.value, **errors, "low95": low, "high95": high, **words}]

    def _arrays(self) -> Named:
        return {"samples": (("sample",), self.samples, {"long_name": "what each sample alone says of the quantity"})}

    def half_width(self, level: float = LEVEL) -> float:
        """Half of the confidence interval, before it is cut to the range."""
        return half_width(self.standard_error, self.degrees, truncation_error=self.truncation_error, level=level)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Confidence interval by the one rule of ``spectra.interval``, cut to the range of the quantity.

        Args:
            level: coverage aimed at, in (0, 1).

        Returns:
            Lower and upper end, in the unit of the value.

        Raises:
            UserError: if ``level`` is not in (0, 1).

        >>> exact = Estimate(2.0)
        >>> exact.interval()
        (2.0, 2.0)
        """
        return ends(self.value, self.half_width(level), self.lowest, self.highest)

    def possible(self) -> Estimate:
        """The estimate, or, where its value is none that the quantity can have, the nearest one with a caution.

        Returns:
            The estimate with a value in its range; the way to it is one more error that more probes do not reduce.

        >>> found = Estimate(0.2, 0.5, lowest=1.0).possible()
        >>> found.value, found.cautions
        (1.0, ('the estimate of 0.2 is below 1, the least possible, which stands in its place',))
        """
        nearest = min(max(self.value, self.lowest), self.highest)
        if math.isnan(self.value) or nearest == self.value:
            return self
        kind = "below {}, the least" if nearest > self.value else "above {}, the most"
        told = (
            f"the estimate of {short(self.value)} is {kind.format(short(nearest))} possible, which stands in its place"
        )
        moved = abs(nearest - self.value)
        cautions = self.cautions if moved <= ROUNDING * max(1.0, abs(nearest)) else (*self.cautions, told)
        return replace(self, value=nearest, truncation_error=self.truncation_error + moved, cautions=cautions)

    def transform(self, function: Callable[[float], float], derivative: Callable[[float], float]) -> Estimate:
        """The estimate of ``function(value)``, its errors carried to first order (delta method); it is monotone."""
        slope = abs(derivative(self.value))
        centre = function(self.value)
        lowest, highest = sorted(function(end) for end in (self.lowest, self.highest))
        return Estimate(
            value=centre,
            standard_error=slope * self.standard_error,
            truncation_error=slope * self.truncation_error,
            samples=centre + derivative(self.value) * (self.samples - self.value),
            cautions=self.cautions,
            freedom=self.freedom,
            lowest=lowest,
            highest=highest,
        )


def from_samples(samples: Array, *, truncation_error: float = 0.0, cautions: tuple[str, ...] = ()) -> Estimate:
    """The mean of independent unbiased samples (probes,) with its jackknife standard error (for a mean, s / sqrt(p)).

    With a single sample the standard error is inf and a caution says so.

    Raises:
        UserError: if there is no sample.

    >>> from_samples(np.array([1.0, 3.0])).value
    2.0
    """
    count = len(samples)
    if count == 0:
        raise UserError("an estimate needs at least one sample, got none")
    error = float(np.std(samples, ddof=1) / np.sqrt(count)) if count > 1 else float("inf")
    if count == 1:
        cautions = (*cautions, "one probe only: the statistical error is unknown; use at least two probes")
    return Estimate(float(np.mean(samples)), error, truncation_error, samples, cautions)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """``first - second`` for two estimates made with common probes (common random numbers); either may be exact.

    The samples are paired by probe, so what the probes share cancels from the standard error; truncation errors and
    cautions of both add up.

    Raises:
        UserError: if both are sampled and their numbers of probes differ.

    >>> difference(Estimate(3.0), Estimate(1.0)).value
    2.0
    """
    if len(first.samples) == 0 or len(second.samples) == 0:
        return independent(first, second)
    if len(first.samples) != len(second.samples):
        raise UserError(
            "common probes are needed for a difference: expected the same number in both, got "
            f"{len(first.samples)} and {len(second.samples)}"
        )
    paired, apart = from_samples(first.samples - second.samples), independent(first, second)
    return replace(
        apart,
        standard_error=paired.standard_error,
        samples=paired.samples,
        cautions=tuple(dict.fromkeys(apart.cautions + paired.cautions)),
        freedom=None,
    )


def independent(first: Estimate, second: Estimate) -> Estimate:
    """``first - second`` for independent estimates, without samples: their standard errors add in squares.

    >>> independent(Estimate(3.0, 3.0), Estimate(1.0, 4.0)).standard_error
    5.0
    """
    sides = (first, second)
    return Estimate(
        first.value - second.value,
        math.hypot(first.standard_error, second.standard_error),
        first.truncation_error + second.truncation_error,
        cautions=tuple(dict.fromkeys(first.cautions + second.cautions)),
        freedom=joint_freedom((side.standard_error, side.degrees) for side in sides),
        lowest=first.lowest - second.highest,
        highest=first.highest - second.lowest,
    )


def jackknife(left_out: Array) -> float:
    """The standard error from values that leave out one of m samples each, ``sqrt((m - 1) / m sum (e_i - mean e)^2)``.

    >>> values = np.array([1.0, 2.0, 4.0])
    >>> math.isclose(jackknife((values.sum() - values) / 2), values.std(ddof=1) / 3**0.5)  # of a mean: s / sqrt(m)
    True
    """
    count = len(left_out)
    return math.sqrt((count - 1) / count * float(np.square(left_out - left_out.mean()).sum()))
