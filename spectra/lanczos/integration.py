"""Integrals of a function against weighted nodes: a probe's rule, and the part that needs no probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


def weighted_sum(nodes: Array, weights: Array, function: Function) -> float:
    """The sum over the nodes that carry weight, so that a function may be infinite elsewhere.

    Raises:
        UserError: if the function is not finite at a node that carries weight.

    >>> weighted_sum(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.square)
    13.0
    """
    used = weights > 0.0
    if not used.any():
        return 0.0
    with np.errstate(all="ignore"):
        values = np.asarray(function(nodes[used]), dtype=np.float64)
    if not np.isfinite(values).all():
        worst = float(nodes[used][~np.isfinite(values)][0])
        raise UserError(f"the function to integrate is not finite at {worst:.6g}, a point of the spectrum")
    return float(weights[used] @ values)


def probe_means(rule: tuple[Array, Array], function: Function) -> Array:
    """The mean of a function under each probe's rule.

    Args:
        rule: nodes and weights, (probes, steps) each.
        function: elementwise.

    Returns:
        (probes,) means.

    Raises:
        UserError: if the function is not finite at a node that carries weight.
    """
    return np.array([weighted_sum(nodes, weights, function) for nodes, weights in zip(*rule, strict=True)])


def moved_by(integral: Callable[[Function], float], function: Function, rounding: float) -> float:
    """By how much an integral changes where all nodes are moved by rounding, to either side.

    Args:
        integral: gives the integral of a function.
        function: elementwise.
        rounding: how far the nodes may be off.

    Returns:
        The larger change; inf where the function is not finite so near to a node.

    >>> moved_by(lambda f: float(f(np.array([1.0]))[0]), np.square, 0.5)
    1.25
    """
    if rounding == 0.0:
        return 0.0
    try:
        ends = [integral(lambda x, by=sign * rounding: function(x + by)) for sign in (-1.0, 1.0)]  # type: ignore[misc]
    except UserError:
        return math.inf
    middle = integral(function)
    return max(abs(end - middle) for end in ends)


@dataclass(frozen=True, eq=False)
class Deflation:
    """The part of the spectrum that is known without probes: ``tr Q^T f(H) Q`` for a basis Q.

    Attributes:
        nodes: (d,) points at which f is evaluated; eigenvalues where the part is exact.
        weights: (d,) non-negative masses, summing to ``captured``; all one where exact.
        captured: number of columns of Q: dimensions of parameter space taken out of the sampling.
        coarse_nodes: (e,) the same from fewer Lanczos steps, for the truncation error; empty if exact.
        coarse_weights: (e,) masses of the coarse nodes.
    """

    nodes: Array
    weights: Array
    captured: int
    coarse_nodes: Array = field(default_factory=lambda: np.empty(0))
    coarse_weights: Array = field(default_factory=lambda: np.empty(0))

    def integrate(self, function: Function) -> float:
        """``sum_j weight_j f(node_j)``."""
        return weighted_sum(self.nodes, self.weights, function)

    def truncation(self, function: Function, rounding: float = 0.0) -> float:
        """Difference to the coarse rule; where the part is exact, what nodes that are off by ``rounding`` change."""
        if len(self.coarse_nodes) == 0:
            return moved_by(self.integrate, function, rounding)
        return abs(self.integrate(function) - weighted_sum(self.coarse_nodes, self.coarse_weights, function))
