r"""The distribution function of a quadratic form of normals in logs, by the saddlepoint.

``Q = 1/2 sum_i l_i (x_i - m_i)^2`` with x standard normal has the cumulant generating function
``K(t) = sum_i [-1/2 log(1 - t l_i) + t l_i m_i^2 / (2 (1 - t l_i))]``, needed only through weighted sums over
eigenvalues. With v = 1 - t l and y = t l / v, at the saddle ``K'(t) = T``

    w^2 / 2 = t T - K(t) = 1/2 sum w (y - log(1 + y)) + 1/2 sum M y^2,

a sum of terms of one sign: exact in the far tail, where log P is -1e5, and near the mean, where it vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx

from spectra.errors import UserError
from volume.rays import bracket_root, find_root

Array = NDArray[np.float64]
# Below these w the differences 1/u - 1/w and 1/w^3 - 1/u^3 are taken from their limits at the mean, since their
# rounding grows as eps / w and eps / w^3.
_NEAR_FIRST, _NEAR_SECOND = 1e-5, 5e-3
_ERROR = 1e-3
_LARGEST_EXPONENT = 340.0  # e^(2 y) stays below the largest float64


@dataclass(frozen=True, eq=False)
class QuadraticForm:
    """Q as two measures on the eigenvalue axis, in coordinates where the normals have unit variance.

    Attributes:
        nodes: (j,) eigenvalues l >= 0, unit of Q.
        counts: (j,) how many eigenvalues each node stands for, >= 0.
        mean_nodes: (k,) eigenvalues l >= 0 at which the mean has components.
        mean_masses: (k,) squared components m^2 of the mean there, in standard deviations.
    """

    nodes: Array
    counts: Array
    mean_nodes: Array
    mean_masses: Array

    @property
    def largest(self) -> float:
        """The largest eigenvalue that carries weight."""
        parts = [self.nodes[self.counts > 0.0], self.mean_nodes[self.mean_masses > 0.0], np.zeros(1)]
        return float(np.concatenate(parts).max())

    @property
    def mean(self) -> float:
        """``E[Q] = 1/2 sum l + 1/2 sum l m^2``."""
        return 0.5 * float(self.counts @ self.nodes) + 0.5 * float(self.mean_masses @ self.mean_nodes)


@dataclass(frozen=True, eq=False)
class TailProbability:
    """``log Pr[Q <= T]`` and the saddle behind it, for each cutoff.

    Attributes:
        log_probability: (q,) nats.
        saddle: (q,) t0, unit 1 / Q; negative below the mean of Q.
        error: (q,) allowance for the error of the approximation, nats: a thousandth of the squared fourth
            standardised cumulant. On chi-square variables, central and not, of 1 to 100 degrees and at any depth, the
            error is at most 0.93 of it.
    """

    log_probability: Array
    saddle: Array
    error: Array


def log_distribution(form: QuadraticForm, cutoffs: Array) -> TailProbability:
    """``log Pr[Q <= T]`` by Lugannani and Rice, with the second-order term.

    Args:
        form: Q.
        cutoffs: (q,) T, positive.

    Returns:
        The logarithms with saddles and errors. For chi-square variables, central or not, at any depth, the error is at
        most 0.08 nat with one eigenvalue, 0.026 with 2, 0.013 with 3, 0.005 with 5 and 0.0013 from 10 on.

    Raises:
        UserError: if a cutoff is not positive and finite, or is too small for the saddle to be representable.

    Reference:
        Lugannani and Rice, Saddle point approximation for the distribution of the sum of independent random
        variables, 1980; Daniels, Tail probability approximations, 1987, for the second order.

    >>> nothing = np.empty(0)
    >>> form = QuadraticForm(np.ones(1), np.array([20.0]), nothing, nothing)
    >>> log_distribution(form, np.array([1.0])).log_probability.round(3)  # chi-square of 20 degrees: -16.010
    array([-16.01])
    """
    cutoffs = np.atleast_1d(np.asarray(cutoffs, dtype=np.float64))
    if not np.all(np.isfinite(cutoffs) & (cutoffs > 0.0)):
        raise UserError(f"cutoff must be positive and finite, got {cutoffs}")
    largest = form.largest
    if largest == 0.0:
        zero = np.zeros_like(cutoffs)
        return TailProbability(zero, zero, zero)
    sums = _Sums(form, largest)
    depth = _solve(sums, cutoffs / largest, form.mean / largest)
    return _lugannani_rice(sums, depth)


class _Sums:
    """The spectral sums of K and its derivatives, in units of the largest eigenvalue, at ``t = -expm1(depth)``."""

    def __init__(self, form: QuadraticForm, largest: float) -> None:
        bulk, mean = form.counts > 0.0, form.mean_masses > 0.0
        self.counts, self.nodes = form.counts[bulk], form.nodes[bulk] / largest
        self.masses, self.mean_nodes = form.mean_masses[mean], form.mean_nodes[mean] / largest
        self.largest = largest

    def slope(self, depth: Array) -> Array:
        """``K'(t)``."""
        rest, mean_rest = _rest(self.nodes, depth), _rest(self.mean_nodes, depth)
        bulk: Array = (self.nodes / rest) @ self.counts
        return 0.5 * bulk + 0.5 * ((self.mean_nodes / mean_rest**2) @ self.masses)

    def exponent(self, depth: Array) -> Array:
        """``t K'(t) - K(t)``, non-negative."""
        shift = -np.expm1(depth)[:, None]
        rest = _rest(self.nodes, depth)
        ratio = shift * self.nodes / rest
        mean_ratio = shift * self.mean_nodes / _rest(self.mean_nodes, depth)
        bulk: Array = _less_its_logarithm(ratio, rest) @ self.counts
        return 0.5 * bulk + 0.5 * (mean_ratio**2 @ self.masses)

    def cumulants(self, depth: Array) -> tuple[Array, Array, Array, Array]:
        """``|t| sqrt(K'')`` and the standardised cumulants of orders 3, 4 and 5 of the tilted variable."""
        shift = np.abs(np.expm1(depth))
        unit = np.maximum(1.0, shift)
        ratio = unit[:, None] * self.nodes / _rest(self.nodes, depth)
        rest = _rest(self.mean_nodes, depth)
        mean_ratio = unit[:, None] * self.mean_nodes / rest
        second, third, fourth, fifth = (
            bulk * (ratio**order @ self.counts) + mean * ((mean_ratio**order / rest) @ self.masses)
            for order, bulk, mean in ((2, 0.5, 1.0), (3, 1.0, 3.0), (4, 3.0, 12.0), (5, 12.0, 60.0))
        )
        return shift / unit * np.sqrt(second), third / second**1.5, fourth / second**2, fifth / second**2.5


def _rest(nodes: Array, depth: Array) -> Array:
    """``1 - t l = (1 - l) + l exp(depth)``, (q, j), never zero."""
    return np.asarray((1.0 - nodes) + nodes * np.exp(depth)[:, None])


def _less_its_logarithm(y: Array, rest: Array) -> Array:
    """``y - log(1 + y) = y + log(rest)`` to full relative precision: the series below 0.1 in magnitude."""
    small = np.abs(y) < 0.1
    inner = np.where(small, y, 0.0)
    series = np.zeros_like(inner)
    for order in range(17, 1, -1):
        series = series * -inner + 1.0 / order
    return np.where(small, series * inner**2, y + np.log(rest))


def _solve(sums: _Sums, cutoffs: Array, mean: float) -> Array:
    """``depth = log(1 - t)`` with ``K'(t) = T``: on logarithmic scales nearly a straight line of slope -1."""
    target = np.log(cutoffs)

    def excess(depth: Array, goal: Array) -> Array:
        return np.log(sums.slope(depth)) - goal

    guess = np.clip(np.log(mean) - target, -_LARGEST_EXPONENT / 2, _LARGEST_EXPONENT / 2)
    least, most = -_LARGEST_EXPONENT, _LARGEST_EXPONENT
    bracket, found = bracket_root(excess, guess - 1.0, guess + 1.0, least=least, most=most, args=(target,))
    if not np.all(found):
        bad = cutoffs[~found][0] * sums.largest
        raise UserError(f"cutoff {bad:g} is too far from the mean cost {mean * sums.largest:g} under the prior")
    return find_root(excess, bracket, args=(target,))


def _lugannani_rice(sums: _Sums, depth: Array) -> TailProbability:
    below = depth > 0.0
    exponent = sums.exponent(depth)
    w = np.sqrt(2.0 * exponent)
    u, third, fourth, fifth = sums.cumulants(depth)
    # The tail on the saddle's side of the mean; seen from there Q is skewed the other way below it.
    third, fifth = np.where(below, -third, third), np.where(below, -fifth, fifth)
    first, second = _orders(w, u, third, fourth, fifth)
    bracket = np.sqrt(np.pi / 2.0) * erfcx(w / np.sqrt(2.0)) + first
    # As an exponential the second order cannot turn the probability negative where few eigenvalues matter.
    log_tail = -exponent - 0.5 * np.log(2.0 * np.pi) + np.log(bracket) + second / bracket
    log_tail = np.minimum(log_tail, -1e-16)
    other = np.log1p(-np.exp(log_tail))
    error = _ERROR * fourth**2 * np.where(below, 1.0, np.exp(log_tail - other))
    saddle = -np.expm1(depth) / sums.largest
    return TailProbability(np.where(below, log_tail, other) + 0.0, saddle, error)


def _orders(w: Array, u: Array, third: Array, fourth: Array, fifth: Array) -> tuple[Array, Array]:
    """The terms beside Mills' ratio, of first and second order; their limits near the mean."""
    near_first, near_second = w < _NEAR_FIRST, w < _NEAR_SECOND
    w, u = np.where(w == 0.0, 1.0, w), np.where(u == 0.0, 1.0, u)
    first = np.where(near_first, -third / 6.0, 1.0 / u - 1.0 / w)
    w, u = np.where(near_second, 1.0, w), np.where(near_second, 1.0, u)
    skewed = fourth / 8.0 - 5.0 * third**2 / 24.0
    second = skewed / u - third / (2.0 * u**2) - 1.0 / u**3 + 1.0 / w**3
    limit = fifth / 40.0 - 5.0 * third * fourth / 48.0 + 35.0 * third**3 / 432.0
    return first, np.where(near_second, limit, second)
