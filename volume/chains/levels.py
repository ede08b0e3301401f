"""The mass below any cutoff from the draws of all free rungs at once: one ladder, a curve of log V against T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from volume.chains.rung import Array, Rung


@dataclass(frozen=True, eq=False)
class LevelMass:
    """What each draw stands for, summed up from the cheapest on.

    Attributes:
        costs: (k,) C of all draws, ascending.
        log_masses: (k,) log of the prior's mass of all that costs no more, nats.
    """

    costs: Array
    log_masses: Array

    def __call__(self, cutoffs: Array) -> Array:
        """Log masses (q,) of what costs less than each cutoff (q,), nats; -inf where no draw does."""
        below = np.searchsorted(self.costs, cutoffs, side="left")
        return np.concatenate([[-np.inf], self.log_masses])[below]


def level_mass(rungs: Sequence[Rung], log_normalisers: Array) -> LevelMass:
    r"""The mixture of several free ensembles turned into the prior's mass of sublevel sets.

    A draw of cost C stands for ``1 / sum_k N_k exp(-b_k C) / Z_k`` of the prior's mass: it is weighed against the
    mixture of all rungs, so that no rung has to be chosen and the curve has no seams.

    Args:
        rungs: free ones, with ``N_k`` draws each; their draws may be of chains.
        log_normalisers: (rungs,) ``log Z_k``, nats.

    Returns:
        The log mass as a function of the cutoff.

    Reference:
        Ferrenberg and Swendsen, Optimized Monte Carlo data analysis, 1989; Shirts and Chodera, Statistically optimal
        analysis of samples from multiple equilibrium states, 2008.
    """
    costs = np.sort(np.concatenate([rung.costs.ravel() for rung in rungs]))
    # Draws of no finite cost are below no cutoff.
    costs = costs[np.isfinite(costs)]
    counts = np.array([rung.costs.size for rung in rungs], dtype=np.float64)
    temperatures = np.array([rung.state.inverse_temperature for rung in rungs])
    exponents = np.log(counts) - log_normalisers - np.outer(costs, temperatures)
    return LevelMass(costs, np.logaddexp.accumulate(-logsumexp(exponents, axis=1)))
