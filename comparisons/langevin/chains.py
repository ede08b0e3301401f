"""Langevin chains as they were: traces, failures, acceptance, and what they say of convergence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Chains:
    """Chains of one run, started at the checkpoint.

    Attributes:
        rises: (chains, steps) cost above the anchor's at each step, burn-in included, each on the step's minibatch less
            the anchor's cost on the same rows; nan from where a chain failed.
        burn_in: steps that are not used.
        step_size: e.
        inverse_temperature: nb.
        localisation: g.
        acceptance: (chains, checks) Metropolis acceptance probability of a proposal with the full gradient from the
            chain's state, at steps after the burn-in; nan where a chain had failed.
        gradient_evaluations: gradients over all data that it took, minibatches counted as their share.
        sampler: one of ``SAMPLERS``.
        factors: (chains, 2) smallest and largest factor by which the preconditioner multiplies a direction's step, the
            latter 1; None without one.
        sample_sums: (chains, 3, samples) sums over draws of each sample's rise r, of r^2 and exp(-r); None where they
            were not asked for.
        sample_draws: number of draws in these sums.
        dimension: number of parameters that moved.
    """

    rises: Array
    burn_in: int
    step_size: float
    inverse_temperature: float
    localisation: float
    acceptance: Array
    gradient_evaluations: float
    sampler: str = "sgld"
    factors: Array | None = None
    sample_sums: Array | None = None
    sample_draws: int = 0
    dimension: int = 0

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """(chains,) which left the finite numbers, or the region that localisation allows."""
        return np.asarray(~np.isfinite(self.rises).all(axis=1))

    @cached_property
    def kept(self) -> Array:
        """(chains, draws) rises of the chains that did not fail, after the burn-in."""
        return self.rises[~self.failed, self.burn_in :]

    @property
    def mean_rise(self) -> float:
        """Mean of what is kept, unit of the cost."""
        return float(self.kept.mean()) if self.kept.size else float("nan")

    @property
    def chain_means(self) -> Array:
        """(kept chains,) mean of each, unit of the cost."""
        return np.asarray(self.kept.mean(axis=1))

    @cached_property
    def effective_samples(self) -> float:
        """Effective sample size of the mean, over all kept chains."""
        return _number("ess", self.kept, "mean") if self._enough else float("nan")

    @cached_property
    def scale_reduction(self) -> float:
        """Rank-normalised split R-hat; near 1 where chains agree with one another and with their own halves."""
        return _number("rhat", self.kept, "rank") if self._enough else float("nan")

    @property
    def _enough(self) -> bool:
        return bool(self.kept.shape[0] > 0 and self.kept.shape[1] >= 4)

    @property
    def standard_error(self) -> float:
        """Of the mean rise: over chains if there are four at least, else from the effective sample size."""
        chains = self.kept.shape[0]
        if chains >= 4:
            return float(np.std(self.chain_means, ddof=1) / np.sqrt(chains))
        if not self._enough:
            return float("inf")
        return float(np.std(self.kept, ddof=1) / np.sqrt(self.effective_samples))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the standard error."""
        chains = self.kept.shape[0]
        return chains - 1.0 if chains >= 4 else max(self.effective_samples - 1.0, 0.0) if self._enough else 0.0

    @property
    def mean_acceptance(self) -> float:
        """Mean acceptance probability over the checks; nan without any."""
        found = self.acceptance[np.isfinite(self.acceptance)]
        return float(found.mean()) if found.size else float("nan")

    @property
    def negative_share(self) -> float:
        """Share of the kept steps whose (minibatch) cost is below the anchor's."""
        return float((self.kept < 0.0).mean()) if self.kept.size else float("nan")

    @property
    def drift(self) -> tuple[float, float]:
        """Second half less first half of the kept steps, unit of the cost, and its standard error over chains."""
        middle = self.kept.shape[1] // 2
        if self.kept.shape[0] < 2 or middle == 0:
            return 0.0, float("inf")
        change = self.kept[:, middle:].mean(axis=1) - self.kept[:, :middle].mean(axis=1)
        return float(change.mean()), float(np.std(change, ddof=1) / np.sqrt(len(change)))


def _number(diagnostic: str, draws: Array, method: str) -> float:
    """One of arviz's diagnostics of draws (chains, draws); nan where all draws are the same."""
    from arviz_stats.base.array import array_stats  # slow to import

    with np.errstate(invalid="ignore", divide="ignore"):
        return float(getattr(array_stats, diagnostic)(draws, method=method))
