"""All rungs of a ladder at once: MBAR by pymbar, where points need no carrying and one cost serves every rung."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectra.errors import UserError
from volume.chains.rung import Array, Rung

# What pymbar raises, beside errors of its own, where the states do not overlap.
_FAILURES = (RuntimeError, ValueError, ArithmeticError)


def multistate_log_ratio(rungs: Sequence[Rung], guess: Array) -> tuple[float, float]:
    """``log Z_last - log Z_first`` by the multistate Bennett acceptance ratio over all draws of all rungs.

    A draw's reduced potential at another rung is ``b C + g/2 |x|^2``, the prior left out, which all share.

    Args:
        rungs: at least two sampled rungs, of one cost and one anchor.
        guess: (rungs,) log normalisers to begin at, nats, up to a constant; the solution does not depend on it.

    Returns:
        The log ratio and its standard error for independent draws, nats.

    Raises:
        UserError: if pymbar finds no solution.

    Reference:
        Shirts and Chodera, Statistically optimal analysis of samples from multiple equilibrium states, 2008.

    >>> draws = np.random.default_rng(0).chisquare(4, (2_000, 2)) / 2
    >>> empty, none = np.empty((0, 2)), np.empty(0)
    >>> from volume.chains.rung import RungState
    >>> def at(b):  # C = |x|^2 / 2 under a normal prior in four dimensions: Z = (1 + b)^-2
    ...     of = RungState(b, 0.0), None, draws / (1 + b), empty, draws, draws, empty, empty, none, none
    ...     return Rung(*of)
    >>> bool(abs(multistate_log_ratio([at(1.0), at(2.0), at(4.0)], np.zeros(3))[0] - 2 * np.log(2 / 5)) < 0.2)
    True
    """
    costs, squares = (np.concatenate([getattr(rung, name).ravel() for rung in rungs]) for name in ("costs", "squares"))
    heat = np.array([rung.state.inverse_temperature for rung in rungs])
    tied = np.array([rung.state.localisation for rung in rungs])
    potentials = heat[:, None] * costs + 0.5 * tied[:, None] * squares
    mbar = _pymbar()
    try:
        solved = mbar.MBAR(
            potentials, [rung.costs.size for rung in rungs], initial_f_k=guess[0] - guess, solver_protocol="robust"
        )
        found = solved.compute_free_energy_differences()
    except (*_FAILURES, mbar.utils.ParameterError, mbar.utils.ConvergenceError) as problem:
        raise UserError(f"pymbar finds no solution over the ladder: {problem}") from problem
    return -float(found["Delta_f"][0, -1]), float(found["dDelta_f"][0, -1])


def _pymbar() -> Any:
    """The package, imported without its advertisement for jax."""
    logging.getLogger("pymbar").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        import pymbar
    return pymbar
