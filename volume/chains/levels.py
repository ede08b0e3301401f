"""The mass below any cutoff from the draws of all free rungs at once: one ladder, a curve of log V against T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from volume.chains.rung import Array, Rung


@dataclass(frozen=True, eq=False)
class LevelMass:
    """What each draw stands for, summed up from the cheapest on.

    Attributes:
        levels: (k,) what decides whether a draw is in the set, ascending: its cost, or the highest on its ray.
        log_weights: (k,) log of the prior's mass that each draw stands for, nats.
    """

    levels: Array
    log_weights: Array

    def __call__(self, cutoffs: Array) -> Array:
        """Log masses (q,) of what costs less than each cutoff (q,), nats; -inf where no draw does."""
        return np.concatenate([[-np.inf], self._log_masses])[self._below(cutoffs)]

    def effective(self, cutoff: float) -> float:
        """How many draws of equal weight the mass below a cutoff rests on."""
        weights = self.log_weights[: int(self._below(np.array([cutoff]))[0])]
        return float(np.exp(2.0 * logsumexp(weights) - logsumexp(2.0 * weights))) if len(weights) else 0.0

    def _below(self, cutoffs: Array) -> NDArray[np.int64]:
        return np.searchsorted(self.levels, cutoffs, side="left")

    @cached_property
    def _log_masses(self) -> Array:
        return np.logaddexp.accumulate(self.log_weights)


def level_mass(rungs: Sequence[Rung], log_normalisers: Array) -> LevelMass:
    r"""The mixture of several free ensembles turned into the prior's mass of sublevel sets.

    A draw of cost C stands for ``1 / sum_k N_k exp(-b_k C) / Z_k`` of the prior's mass: it is weighed against the
    mixture of all rungs, so that no rung has to be chosen and the curve has no seams. Where another number than C
    decides what is in the set, the sum goes over the draws that it lets in: the step is exact whatever C is.

    Args:
        rungs: free ones, with ``N_k`` draws each; their draws may be of chains.
        log_normalisers: (rungs,) ``log Z_k``, nats.

    Returns:
        The log mass as a function of the cutoff.

    Reference:
        Ferrenberg and Swendsen, Optimized Monte Carlo data analysis, 1989; Shirts and Chodera, Statistically optimal
        analysis of samples from multiple equilibrium states, 2008.
    """
    levels, costs = (np.concatenate([getattr(r, name).ravel() for r in rungs]) for name in ("deciding", "costs"))
    # Draws of no finite cost are below no cutoff.
    usable = np.isfinite(costs) & np.isfinite(levels)
    order = np.argsort(levels[usable], kind="stable")
    levels, costs = levels[usable][order], costs[usable][order]
    counts = np.array([rung.costs.size for rung in rungs], dtype=np.float64)
    temperatures = np.array([rung.state.inverse_temperature for rung in rungs])
    exponents = np.log(counts) - log_normalisers - np.outer(costs, temperatures)
    return LevelMass(levels, -logsumexp(exponents, axis=1))
