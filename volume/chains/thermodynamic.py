r"""Thermodynamic integration along a ladder: the cross-check of its links, from nothing but the rungs' own draws.

Along a path s of ensembles ``exp(-U_s)``, ``f = d log Z / ds = -E_s[U']`` and ``f' = Var_s[U'] - E_s[U'']``. The rungs
tell both, so that each segment is integrated by the trapezoid with its end correction,
``(f_0 + f_1) / 2 + (f'_0 - f'_1) / 12``, exact for cubics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from volume.chains.rung import Array, Rung, RungState


@dataclass(frozen=True)
class Integration:
    """``log Z`` at the end of a ladder by two ways that share the draws.

    Attributes:
        log_normaliser: ``log Z`` by thermodynamic integration, nats.
        standard_error: standard error of that, by jackknife over the chains, nats.
        by_links: ``log Z`` by the ratios of neighbours, nats.
    """

    log_normaliser: float
    standard_error: float
    by_links: float


def integrated_log_ratios(rungs: Sequence[Rung]) -> tuple[Array, Array]:
    """``log Z_next - log Z_here`` (rungs - 1,) by integration, and without each chain (rungs - 1, chains), nats.

    At least two sampled rungs are needed, of as many chains.

    >>> draws = np.random.default_rng(0).chisquare(4, (20_000, 2)) / 2
    >>> empty, none = np.empty((0, 2)), np.empty(0)
    >>> def at(b):  # C = |x|^2 / 2 under a normal prior in four dimensions: Z = (1 + b)^-2
    ...     of = RungState(b, 0.0), None, draws / (1 + b), empty, draws, draws, empty, empty, none, none
    ...     return Rung(*of)
    >>> math.isclose(integrated_log_ratios([at(1.0), at(1.2)])[0][0], 2 * math.log(2 / 2.2), abs_tol=0.005)
    True
    """
    whole, without = [], []
    for here, there in zip(rungs, rungs[1:], strict=False):
        every = range(here.chains)
        whole.append(_segment(here, there, list(every)))
        without.append([_segment(here, there, [c for c in every if c != left]) for left in every])
    return np.array(whole), np.array(without)


def _segment(here: Rung, there: Rung, chains: list[int]) -> float:
    ends = [_end(rung, here.state, there.state, chains) for rung in (here, there)]
    (first, bend), (last, other) = ends
    return 0.5 * (first + last) + (bend - other) / 12.0


def _end(rung: Rung, here: RungState, there: RungState, chains: list[int]) -> tuple[float, float]:
    """F and f' at one end of the way from ``here`` to ``there``, which is geometric in b and in 1 + g."""
    costs, squares = rung.costs[:, chains], rung.squares[:, chains]
    widening = math.log1p(there.localisation) - math.log1p(here.localisation)
    tied = 0.5 * (1.0 + rung.state.localisation) * squares
    if here.inverse_temperature == 0.0:  # linear in b
        heating, hot, curved = there.inverse_temperature, costs, 0.0
    else:
        heating = math.log(there.inverse_temperature) - math.log(here.inverse_temperature)
        hot, curved = rung.state.inverse_temperature * costs, heating**2
    slope = heating * hot + widening * tied
    second = curved * hot + widening**2 * tied
    return -float(slope.mean()), float(slope.var()) - float(second.mean())
