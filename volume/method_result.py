"""What one method says of a volume: an estimate by sampling or by a determinant, read in the same way."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectra.estimate import Estimate
from spectra.interval import with_ends, with_error
from spectra.members import stated, stating
from volume.result import VolumeEstimate

if TYPE_CHECKING:
    pass

METHODS = tuple(stated("volume.methods"))
# A determinant knows the error of its sum, not that of the paraboloid it stands on.
UNTESTED = "nothing speaks against it, given that the cost is quadratic as far as the cutoff, which is not tested here"
TESTED = "nothing speaks against it: at points typical of this mass the true cost is the quadratic one to {:.0%}"
# Errors below this are not shown, nats: nobody reads a log-volume to more.
_SHOWN = 0.005
# A chosen k this many times away from the derived one is worth a sentence.
_TELL_RATIO = 3.0
# Nats that a crossing's error may add to the largest term before it is worth a sentence.
_TELL_RADIAL = 1.0


def stating_methods(flag: str, methods: Collection[str] = METHODS) -> tuple[str, ...]:
    """Those methods whose row in ``volume.methods`` states an option, such as ``sampled``.

    Args:
        flag: name of the option.
        methods: some of ``METHODS``, and perhaps others, which are left out.

    Returns:
        Their names.

    >>> stating_methods("shifted", ("star-domain", "shifted-determinant"))
    ('shifted-determinant',)
    """
    found = stating("volume.methods", flag)
    return tuple(method for method in methods if method in found)


@dataclass(frozen=True, eq=False)
class MethodResult:
    """One method's log-volume with its evidence.

    Attributes:
        method: one of ``METHODS``.
        measure: name of the prior whose mass it is, or ``lebesgue``.
        sampled: terms of the directions, for a sampled method; else None.
        estimate: log-volume with its errors, for a determinant; else None.
        figures: other numbers by name, such as ``derived_k`` and ``effective_dimension``.
        preconditioner: of the directions; empty for a determinant.
        eps: of the preconditioner; nan if it has none.
        failure: why there is no volume, a sentence; empty if there is one.
    """

    method: str
    measure: str
    sampled: VolumeEstimate | None = None
    estimate: Estimate | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    preconditioner: str = ""
    eps: float = math.nan
    failure: str = ""

    @property
    def caption(self) -> str:
        """A sentence on what it is made of, as the method's row has it; empty if that says nothing."""
        return str(stated("volume.methods")[self.method].constants.get("caption", "")).format(**self.figures)

    @property
    def kind(self) -> str:
        """``mass`` under a prior, or ``volume`` under Lebesgue measure."""
        return "volume" if self.measure == "lebesgue" else "mass"

    @property
    def known(self) -> Estimate:
        """The log-volume with its error, nats; of a sampled method too small if few directions carry it."""
        if self.failure:
            return Estimate(math.nan, math.inf)
        found = self.estimate if self.sampled is None else self.sampled.estimate
        assert found is not None
        # The logarithm of a probability is not positive.
        return replace(found, highest=0.0).possible() if self.kind == "mass" else found

    @property
    def log_volume(self) -> float:
        """Log-volume, nats."""
        return self.known.value

    @property
    def log10_volume(self) -> float:
        """The same to the base of ten."""
        return self.log_volume / math.log(10.0)

    @property
    def bits(self) -> float | None:
        """``-log2`` of a mass, the code length of the basin under the prior; None for a Lebesgue volume."""
        return None if self.kind == "volume" else -self.log_volume / math.log(2.0)

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval, nats, before it is cut at zero for a mass."""
        return self.known.half_width()

    @property
    def text(self) -> str:
        """The log-volume with its error, as tables and figures say it."""
        value = self.log_volume
        if not math.isfinite(value):
            return with_error(value, 0.0)
        if self.sampled is not None and not self.trusted:
            # The bootstrap's error means nothing where few directions carry the sum.
            return f"{value:.1f}"
        return f"{value:.2f}" if self.half_width < _SHOWN else with_ends(value, self.known.interval())

    @property
    def lower_bound(self) -> float | None:
        """Bound at 95 % confidence of a sampled method, nats; None for a determinant."""
        return None if self.sampled is None else min(self.sampled.lower_bound(0.95), self.known.highest)

    def record(self) -> dict[str, Any]:
        """The result as a row of a data frame; a sampled method's numbers are None for a determinant."""
        known, sampled = self.known, self.sampled
        low, high = known.interval()
        return {
            "method": self.method,
            "kind": self.kind,
            "measure": self.measure,
            "log_volume": self.log_volume,
            "standard_error": known.standard_error,
            "truncation_error": known.truncation_error,
            "low95": low,
            "high95": high,
            "lower_bound95": self.lower_bound,
            "trusted": self.trusted,
            "directions": None if sampled is None else len(sampled.log_terms),
            "effective_samples": None if sampled is None else sampled.effective_samples,
            "largest_share": None if sampled is None else sampled.largest_share,
            "verdict": self.verdict,
        }

    @property
    def trusted(self) -> bool:
        """Whether the number is an estimate with an error, and not merely a bound."""
        if self.sampled is not None:
            return self.sampled.effective_samples >= 30 and math.isfinite(self.sampled.log_volume)
        return self.estimate is not None and self.known.trusted

    @property
    def verdict(self) -> str:
        """What it is worth, in words."""
        if self.failure:
            return f"no value: {self.failure}"
        if self.sampled is None:
            return "; ".join(_of_determinant(self))
        return "; ".join([*_of_sample(self.sampled), *self.known.cautions, *_corrected(self)])


def _of_sample(sampled: VolumeEstimate) -> list[str]:
    words = [sampled.verdict]
    count, endless = len(sampled.log_terms), int(sampled.unbounded.sum())
    if endless and math.isfinite(sampled.log_volume):
        words.append(f"{endless} of {count} directions never reach the cutoff where the prior has mass")
    bent = int((~sampled.monotone).sum())
    if bent:
        words.append(f"{bent} of {count} directions are not monotone: their first crossing counts")
    largest = float(sampled.radial_error[int(sampled.log_terms.argmax())])
    if largest > _TELL_RADIAL:
        words.append(f"the crossing of the largest term may be off by {largest:.2g} nats")
    return words


def _derived(k: float) -> str:
    return f"{k:.3g}" if math.isfinite(k) else "none"


def _corrected(result: MethodResult) -> list[str]:
    k = result.figures.get("k")
    return [] if k is None else [f"the volume where the cost plus k/2 |x|^2 / s^2, k = {k:.3g}, is below the cutoff"]


def _of_determinant(result: MethodResult) -> list[str]:
    words = list(result.known.cautions)
    k, derived = result.figures.get("k"), result.figures.get("derived_k")
    if k is not None and derived is not None:
        ratio = k / derived if derived > 0.0 else math.inf
        if not 1.0 / _TELL_RATIO < ratio < _TELL_RATIO:
            told = f"k = {k:.3g} was chosen, the prior's mass derives {_derived(derived)} at this cutoff"
            dimension = result.figures.get("effective_dimension")
            if dimension is not None:
                told += f": the shift, not the curvature, decides all but {dimension:.3g} dimensions"
            words.append(told)
    tested = result.figures.get("cost_ratio")
    return words or [UNTESTED if tested is None else TESTED.format(abs(tested - 1.0))]


def from_sample(
    method: str, sampled: VolumeEstimate, measure: str, preconditioner: str, eps: float, k: float | None = None
) -> MethodResult:
    """The result of a sampled method.

    Args:
        method: one that samples.
        sampled: terms of the directions.
        measure: name of the prior.
        preconditioner: of the directions.
        eps: of the preconditioner, nan if it has none.
        k: of the correction ``k / 2 sum_i x_i^2 / s_i^2`` that was added to the cost; None if none was.

    Returns:
        The result.
    """
    figures = {} if k is None else {"k": k}
    named = replace(sampled, method=f"{method}, {preconditioner}")
    return MethodResult(method, measure, sampled=named, figures=figures, preconditioner=preconditioner, eps=eps)
