"""The share of steps that Metropolis-adjusted Langevin chains accept on a quadratic, known from its spectrum."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import roots_legendre

Array = NDArray[np.float64]
# The best rate of many directions is 57 % (Roberts and Rosenthal 1998); below this chains stand still most of the time.
LEAST_ACCEPTED = 0.2
# Angles of Gauss and Legendre's rule; half as many give the same six digits from one direction to a thousand.
_ANGLES = 64


def expected_acceptance(stiffness: Array, masses: Array, step_size: float) -> float:
    r"""``(2/pi) int_0^(pi/2) prod_i (1 + (e a_i)^3 / (64 cos^2 t))^(-1/2) dt``: the mean over chains that have settled.

    On ``exp(-sum a x^2 / 2)`` a proposal y has the log ratio ``W = sum e a^2 / 8 (x^2 - y^2)``, a quadratic form of two
    normal variables a direction. ``exp(W/2)`` turns its law into a symmetric one, of characteristic function
    ``prod (1 + (e a)^3 (t^2 + 1/4) / 16)^(-1/2)``; what is accepted, ``E exp(W/2) exp(-|W|/2)``, is an integral of it.

    Args:
        stiffness: (k,) a, curvatures of the density that is sampled, 1 / parameter²; positive.
        masses: (k,) number of directions of each.
        step_size: e, parameter².

    Returns:
        The share; it tends to ``2 Phi(-s/2)``, ``s^2 = sum (e a)^3 / 16``, where many directions take part.

    Reference:
        Roberts and Rosenthal, Optimal scaling of discrete approximations to Langevin diffusions, 1998 (the limit).

    >>> round(expected_acceptance(np.array([4.0]), np.ones(1), 0.5), 4), round(2 / math.pi * math.asin(1.125**-0.5), 4)
    (0.7837, 0.7837)
    """
    nodes, weights = roots_legendre(_ANGLES)
    angles = 0.25 * math.pi * (nodes + 1.0)
    cubes = (step_size * np.asarray(stiffness)) ** 3 / 64.0
    logs = np.asarray(masses) @ np.log1p(cubes[:, None] / np.cos(angles) ** 2)
    return float(0.5 * weights @ np.exp(-0.5 * logs))


def largest_accepted_step(stiffness: Array, masses: Array, share: float) -> float:
    """The largest step size that keeps the expected acceptance at a share, and at most ``4 / a_max``.

    Past that a proposal overshoots: the chain still samples the right density, but far out it sticks.

    >>> round(largest_accepted_step(np.array([1.0]), np.full(1, 1e4), 0.2), 3), largest_accepted_step(
    ...     np.array([2.0]), np.ones(1), 0.2
    ... )
    (0.219, 2.0)
    """
    most = 4.0 / float(np.max(stiffness))
    if expected_acceptance(stiffness, masses, most) >= share:
        return most
    least = most
    while expected_acceptance(stiffness, masses, least) < share:
        least /= 4.0
    return float(brentq(lambda step: expected_acceptance(stiffness, masses, step) - share, least, most, rtol=1e-9))
