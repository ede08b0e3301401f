"""A volume estimate: log terms of directions, what they add up to, and how far that can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.files import Named, Result, counted

Array = NDArray[np.float64]
BOOTSTRAPS = 1000


@dataclass(frozen=True, eq=False, repr=False)
class VolumeEstimate(Result):
    """A log-volume from independent directions: ``log V = log mean exp(log_terms)``.

    Attributes:
        log_terms: (k,) what each direction alone says of the log-volume, nats; inf for a direction without end
            under Lebesgue measure.
        evaluations: (k,) cost evaluations spent on each.
        unbounded: (k,) whether the cost stayed below the cutoff as far as the prior has mass.
        monotone: (k,) whether the scan of the ray saw nothing above the cutoff before the crossing.
        radial_error: (k,) error of each log term from the crossing's error, nats.
        size: number of parameters n.
        cutoff: T, unit of the cost.
        method: what made it.
        cautions: sentences on why not to trust it, beyond what the terms themselves show.
    """

    log_terms: Array
    evaluations: NDArray[np.int64]
    unbounded: NDArray[np.bool_]
    monotone: NDArray[np.bool_]
    radial_error: Array
    size: int
    cutoff: float
    method: str
    cautions: tuple[str, ...] = ()
    _drawn_by: ClassVar[str] = "volume.plots:draw_terms"

    def _title(self) -> str:
        directions, cutoff = counted(len(self.log_terms), "direction"), f"cutoff {self.cutoff:g}"
        return f"{self.method}, {directions}, {counted(self.size, 'parameter')}, {cutoff}"

    def _facts(self) -> dict[str, str]:
        bound, effective = f"at least {self.lower_bound():.6g} (95 %)", f"{self.effective_samples:.3g}"
        return {"log V": f"{self.estimate._title()} nat, {bound}", "effective samples": effective}

    def _cautions(self) -> tuple[str, ...]:
        return self.cautions if self.effective_samples >= 30 else (*self.cautions, self.verdict)

    def records(self) -> list[dict[str, Any]]:
        """A row for each direction."""
        columns = {name: values.tolist() for name, (_, values, _) in self._arrays().items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _arrays(self) -> Named:
        units = {"log_terms": "nat", "radial_error": "nat"}
        names = ("log_terms", "evaluations", "unbounded", "monotone", "radial_error")
        return {name: (("direction",), getattr(self, name), {"units": units.get(name, "1")}) for name in names}

    @cached_property
    def log_volume(self) -> float:
        """Log of the mean of the terms, nats."""
        return float(logsumexp(self.log_terms) - math.log(len(self.log_terms)))

    @property
    def bits(self) -> float:
        """``-log2`` of the volume: the description length that a prior's mass stands for."""
        return -self.log_volume / math.log(2.0)

    @cached_property
    def standard_error(self) -> float:
        """Standard error of ``log_volume`` by bootstrap over directions; far too small if one direction dominates."""
        if len(self.log_terms) < 2 or not math.isfinite(self.log_volume):
            return math.inf
        generator = np.random.default_rng(0)
        picks = generator.integers(0, len(self.log_terms), (BOOTSTRAPS, len(self.log_terms)))
        return float(np.std(logsumexp(self.log_terms[picks], axis=1), ddof=1))

    @property
    def estimate(self) -> Estimate:
        """The log-volume with its error, whose degrees of freedom are the directions that carry it, less one."""
        known = math.isfinite(self.log_volume)
        freedom = max(self.effective_samples - 1.0, 0.0) if known else 0.0
        return Estimate(self.log_volume, self.standard_error, cautions=self.cautions, freedom=freedom)

    def lower_bound(self, confidence: float = 0.95) -> float:
        """A bound that the true log-volume exceeds with the confidence given, whatever the terms' distribution.

        The mean of non-negative unbiased terms exceeds k times the truth with probability at most 1/k (Markov).

        Args:
            confidence: confidence level in (0, 1).

        Returns:
            ``log_volume - log(1 / (1 - confidence))``, nats.

        Raises:
            UserError: if ``confidence`` is not in (0, 1).
        """
        if not 0.0 < confidence < 1.0:
            raise UserError(f"confidence must lie in (0, 1), got {confidence}")
        return self.log_volume + math.log1p(-confidence)

    @cached_property
    def weights(self) -> Array:
        """(k,) share of each direction in the sum."""
        with np.errstate(invalid="ignore"):
            shares = np.exp(self.log_terms - logsumexp(self.log_terms))
        return np.where(np.isnan(shares), 1.0 / max(1, int(np.isinf(self.log_terms).sum())), shares)

    @property
    def largest_share(self) -> float:
        """Share of the largest term."""
        return float(self.weights.max())

    @property
    def effective_samples(self) -> float:
        """``1 / sum w^2``: how many directions carry the estimate."""
        return float(1.0 / (self.weights**2).sum())

    @property
    def verdict(self) -> str:
        """What the estimate is worth, in words."""
        if math.isinf(self.log_volume) and self.log_volume > 0:
            return f"infinite: {int(self.unbounded.sum())} of {len(self.log_terms)} directions have no end; use a prior"
        share, effective = self.largest_share, self.effective_samples
        if share > 0.5:
            return f"one direction carries {share:.0%} of the estimate: this is a lower bound, not an estimate"
        if effective < 30:
            return f"{effective:.3g} of {len(self.log_terms)} directions carry the estimate: read it as a lower bound"
        return f"{effective:.3g} of {len(self.log_terms)} directions carry the estimate"
