"""One cell of a calibration: its chains, what was predicted for them, and why it is not to be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from comparisons.calibration.axes import LARGEST_FALL
from comparisons.calibration.outlook import CellOutlook
from comparisons.langevin import LEAST_ACCEPTED, Chains
from spectra.estimate import Estimate
from spectra.interval import quantile

Array = NDArray[np.float64]
# Share of the value that the step size may add.
LARGEST_BIAS = 0.1
# Vehtari et al. 2021 ask for 1.01 of a final result; above 1.05 chains visibly disagree.
LARGEST_SCALE_REDUCTION = 1.05
# Of a two-sided test of drift over the chains of a cell: a grid has many cells.
DRIFT_LEVEL = 1e-3
# A drift below this share of the value is none, however sure.
LEAST_DRIFT = 0.05


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting of the grid.

    Attributes:
        place: its place: of the inverse temperature, the localisation and the step size.
        chains: chains of all its calls, call after call.
        calls: number of calls.
        outlook: what the spectrum predicts for it.
    """

    place: tuple[int, int, int]
    chains: Chains
    calls: int
    outlook: CellOutlook

    @cached_property
    def estimate(self) -> Estimate:
        """``nb (E L - L*)``; its samples are the calls, and its error is that between them."""
        nb, chains = self.chains.inverse_temperature, self.chains
        means = np.full(chains.failed.shape, np.nan)
        means[~chains.failed] = chains.chain_means if chains.kept.size else np.nan
        calls = np.array(
            [one[np.isfinite(one)].mean() for one in means.reshape(self.calls, -1) if np.isfinite(one).any()]
        )
        if not len(calls):
            return Estimate(math.nan, math.inf)
        error = float(nb * calls.std(ddof=1) / math.sqrt(len(calls))) if len(calls) > 1 else math.inf
        return Estimate(float(nb * calls.mean()), error, samples=nb * calls, cautions=self.reasons)

    @cached_property
    def error_of_one_call(self) -> float:
        """Standard error that one call alone would report, from the effective sample size of its draws."""
        nb, size = self.chains.inverse_temperature, self.chains.effective_samples
        if not (math.isfinite(size) and size > 0.0):
            return math.nan
        return float(nb * np.std(self.chains.kept, ddof=1) / math.sqrt(size / self.calls))

    @property
    def failed_share(self) -> float:
        """Share of chains that left the finite numbers or ran away."""
        return float(self.chains.failed.mean())

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why the cell is not sound, each in a few words; first what was known before it was run."""
        return tuple(self.problems.values())

    @cached_property
    def problems(self) -> dict[str, str]:
        """The same by kind."""
        ahead, chains, found = self.outlook, self.chains, {}
        limit = ahead.prediction.step_limit
        if not math.isfinite(ahead.fall) or not ahead.lowered <= LARGEST_FALL:
            bound = math.isfinite(ahead.fall) and math.isfinite(ahead.lowered)
            found["no minimum"] = (
                f"the slope at the checkpoint takes {ahead.lowered:.0%} of the value away"
                if bound
                else "negative curvature is not bound by the localisation"
            )
        if chains.step_size >= limit:
            found["past the limit"] = f"the step size is {chains.step_size / limit:.2g} times the limit"
        elif not ahead.bias <= LARGEST_BIAS and math.isfinite(ahead.bias):
            found["biased"] = f"the step size adds {ahead.bias:.0%}"
        if ahead.burn_in > chains.burn_in:
            found["burn-in"] = f"{_steps(ahead.burn_in)} steps of burn-in are needed, {chains.burn_in:,} were made"
        return found | self._seen(chains)

    def _seen(self, chains: Chains) -> dict[str, str]:
        """What the chains themselves show."""
        failed, many = int(chains.failed.sum()), len(chains.failed)
        if failed:
            found = {"failed": f"{failed} of {many} chains ran away"}
            if failed == many:
                return found
        else:
            found = {}
        if chains.mean_rise < 0.0:
            found["negative"] = f"the cost is below the checkpoint's at {chains.negative_share:.0%} of the steps"
        if chains.scale_reduction > LARGEST_SCALE_REDUCTION:
            found["R-hat"] = f"the chains disagree, R-hat {chains.scale_reduction:.2f}"
        change, error = chains.drift
        freedom = chains.kept.shape[0] - 1
        moved = freedom >= 1 and error > 0.0 and abs(change) > LEAST_DRIFT * abs(chains.mean_rise)
        if moved and abs(change) / error > quantile(freedom, 1.0 - DRIFT_LEVEL):
            found["drift"] = f"the second half lies {change / chains.mean_rise:+.0%} off the first"
        if chains.sampler == "mala" and chains.mean_acceptance < LEAST_ACCEPTED:
            found["rejected"] = f"only {chains.mean_acceptance:.0%} of the steps are accepted"
        return found

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems


def _steps(count: float) -> str:
    return f"{count:,.0f}" if math.isfinite(count) else "infinitely many"
