"""The ratio of two ensembles' normalisers from the works of carrying points both ways (Bennett's acceptance ratio).

This is MBAR for two states. Neighbouring rungs are taken two by two because carrying a point to another
rung needs its cost there, and rungs that are no neighbours share too little for that to pay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from spectra.errors import UserError
from volume.chains.rung import IMPOSSIBLE, Array

# Of neighbours, below which a ratio is not to be trusted and another rung is put between them. pymbar asks for 0.03 of
# an element of its overlap matrix, which is 1/2 where two ensembles are the same; this overlap is 1 there.
LEAST_OVERLAP = 2 * 0.03
# Mean acceptance of Bennett's ratio below which a link rests on next to nothing.
_NO_OVERLAP = 1e-6


@dataclass(frozen=True, eq=False)
class Link:
    """``log Z_next - log Z_here`` of two neighbouring rungs.

    Attributes:
        log_ratio: nats.
        without: (chains,) the same without each chain in turn.
        standard_error: standard error for independent draws, nats; chains that move slowly have a larger one.
        overlap: overlap of the two ensembles, 0 to 1: mean over both of ``2 p_here p_next`` scaled to one where they
            are the same; below ``LEAST_OVERLAP`` the ratio is not to be trusted.
    """

    log_ratio: float
    without: Array
    standard_error: float
    overlap: float


def link(onward: Array, backward: Array) -> Link:
    """The ratio from works.

    Args:
        onward: (kept, chains) of points of this rung carried to the next, nats.
        backward: (kept', chains) of points of the next carried to this.

    Returns:
        The log ratio with its errors.

    Raises:
        UserError: if the rungs do not overlap at all.

    Reference:
        Bennett, Efficient estimation of free energy differences, 1976; Jarzynski, Targeted free energy perturbation,
        2002; Shirts and Chodera, Statistically optimal analysis of samples from multiple equilibrium states, 2008.

    >>> same = np.full((5, 4), 2.0)
    >>> link(same, -same).log_ratio  # every point carried at the same work
    -2.0
    """
    difference, error = _bennett(onward, backward)
    chains = onward.shape[1]
    without = [_bennett(np.delete(onward, c, 1), np.delete(backward, c, 1))[0] for c in range(chains)]
    return Link(-difference, -np.array(without), error, _shared(onward, backward, difference))


def overlap(onward: Array, backward: Array) -> float:
    """``Link.overlap`` from works (kept, chains) of carrying points both ways; 0 where no ratio can be told."""
    try:
        difference, _ = _bennett(onward, backward)
    except UserError:
        return 0.0
    return _shared(onward, backward, difference)


def _shared(onward: Array, backward: Array, difference: float) -> float:
    forward = expit(-(onward - difference)), expit(-(backward + difference))
    return 2.0 * float(np.mean([(p * (1.0 - p)).mean() for p in forward])) * 2.0


def _bennett(onward: Array, backward: Array) -> tuple[float, float]:
    """Free energy difference ``-log ratio`` and its standard error for independent works."""
    shift = math.log(onward.size / backward.size)

    def excess(difference: float) -> float:
        return float(expit(-(shift + onward - difference)).sum() - expit(shift - backward - difference).sum())

    # Monotone in the difference, which lies between the extremes of both kinds of works.
    low = min(float(onward.min()), float(-backward.max())) - abs(shift) - 1.0
    high = max(float(onward.max()), float(-backward.min())) + abs(shift) + 1.0
    if high >= IMPOSSIBLE or low <= -IMPOSSIBLE:
        possible = np.concatenate([onward[onward < IMPOSSIBLE].ravel(), -backward[backward < IMPOSSIBLE].ravel()])
        low, high = float(possible.min()) - abs(shift) - 50.0, float(possible.max()) + abs(shift) + 50.0
    difference = float(brentq(excess, low, high, xtol=1e-10))
    forward = expit(-(shift + onward - difference))
    reverse = expit(shift - backward - difference)
    means = forward.mean(), reverse.mean()
    if min(means) < _NO_OVERLAP:
        raise UserError("neighbouring rungs of the bridge do not overlap: use more draws or a smaller work_spread")
    spread = forward.var() / (onward.size * means[0] ** 2) + reverse.var() / (backward.size * means[1] ** 2)
    return difference, math.sqrt(float(spread))
