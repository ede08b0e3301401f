"""The spectral measure that Lanczos leaves: nodes and masses, kept raw, and integrals against them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spectra.estimate import Estimate, from_samples
from spectra.lanczos import BREAKDOWN_ROUNDINGS, Deflation, Function, Tridiagonal, moved_by, probe_means
from spectra.members import stating

Array = NDArray[np.float64]

_NOTHING = Deflation(np.empty(0), np.empty(0), 0)
# Matrices that have no negative eigenvalue, under a cost that is convex in the outputs, but by rounding.
SEMIDEFINITE = stating("spectra.operators", "semidefinite")
# Ten times the epsilon of float32: eigenvalues nearer to zero, against the largest, have no sign.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class SpectralMeasure:
    """The eigenvalues of a symmetric operator with their masses, as stochastic Lanczos quadrature sees them.

    ``tr f(H) = sum_j deflation weight_j f(node_j) + (size - captured) * mean over probes of sum_j w_j f(t_j)``.
    An exact spectrum is the case with all dimensions captured and no probes.

    Attributes:
        size: number of parameters n.
        runs: the Lanczos coefficients of the probes (in the complement of the deflated space).
        deflation: the part known without probes.
        operator: name of the curvature, for messages.
        epsilon: machine epsilon of the products; 0 for eigenvalues that are known.
        coarseness: relative error of products that are coarser than that (half precision, autocast), else 0.
    """

    size: int
    runs: Tridiagonal
    deflation: Deflation = _NOTHING
    operator: str = "hessian"
    epsilon: float = 0.0
    coarseness: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether every dimension is captured without sampling."""
        return self.deflation.captured == self.size and len(self.deflation.coarse_nodes) == 0

    @property
    def unsampled(self) -> bool:
        """Whether dimensions are left of which nothing is known, because no probe has been drawn yet."""
        return self.runs.probes == 0 and self.complement > 0

    @property
    def complement(self) -> int:
        """Number of dimensions that the probes sample."""
        return self.size - self.deflation.captured

    @cached_property
    def _rule(self) -> tuple[Array, Array]:
        return self.runs.quadrature()

    @cached_property
    def _coarse_rule(self) -> tuple[Array, Array]:
        return self.runs.quadrature(max(1, (self.runs.steps + 1) // 2))

    @property
    def nodes(self) -> Array:
        """(probes, steps) Ritz values, ascending in each row."""
        return self._rule[0]

    @property
    def weights(self) -> Array:
        """(probes, steps) quadrature weights, each row summing to one."""
        return self._rule[1]

    @cached_property
    def support(self) -> tuple[float, float]:
        """Smallest and largest node that carries weight: inner bounds of the spectrum's ends."""
        nodes, _ = self.measure()
        return float(nodes[0]), float(nodes[-1])

    @cached_property
    def outer_support(self) -> tuple[float, float]:
        """The support widened by the end nodes' residuals: Ritz values lie inside the spectrum."""
        low, high = self.support
        if self.runs.probes and self.complement:
            below, above = self.runs.end_residuals()
            low = min(low, float((self.nodes[:, 0] - below).min()))
            high = max(high, float((self.nodes[:, -1] + above).max()))
        return low, high

    @property
    def magnitude(self) -> float:
        """Largest absolute node, the scale against which shifts are judged."""
        return max(abs(self.support[0]), abs(self.support[1]))

    @property
    def semidefinite(self) -> bool:
        """Whether it is of a matrix without negative eigenvalues, and none is seen beyond rounding."""
        return self.operator in SEMIDEFINITE and self.support[0] >= -ROUNDING * self.magnitude

    @property
    def rounding(self) -> float:
        """Distance below which rounding of the products makes eigenvalues one, and invariant what is not."""
        return BREAKDOWN_ROUNDINGS * self.epsilon * self.magnitude

    def measure(self) -> tuple[Array, Array]:
        """All nodes ascending with their masses, averaged over probes; the masses sum to ``size``."""
        parts = [(self.deflation.nodes, self.deflation.weights)]
        if self.runs.probes:
            scale = self.complement / self.runs.probes
            parts.append((self.nodes.ravel(), self.weights.ravel() * scale))
        nodes, masses = (np.concatenate(side) for side in zip(*parts, strict=True))
        kept = masses > 0.0
        nodes, masses = nodes[kept], masses[kept]
        order = np.argsort(nodes, kind="stable")
        return nodes[order], masses[order]

    def integrate(
        self,
        function: Function,
        *,
        cautions: tuple[str, ...] = (),
        bound: float | None = None,
        lowest: float = -math.inf,
        highest: float = math.inf,
    ) -> Estimate:
        """``tr f(H)`` with its statistical and its truncation error.

        Args:
            function: applied to an array of eigenvalues, elementwise.
            cautions: sentences to attach to the estimate.
            bound: a known bound on the quadrature's error per unit of mass; the smaller of it and
                the difference between all steps and half of them is reported.
            lowest: least value that the sum can have; its interval is cut there.
            highest: largest one.

        Returns:
            The estimate, in the unit of f.

        >>> from spectra.lanczos import no_runs
        >>> SpectralMeasure(2, no_runs(), Deflation(np.array([1.0, 2.0]), np.ones(2), 2)).integrate(np.square).value
        5.0
        """
        known = self.deflation.integrate(function)
        # Rounding moves nodes, but leaves the sums that the rule has exactly.
        rounding = 0.0 if self.complement == 0 or bound == 0.0 else self.rounding
        truncation = self.deflation.truncation(function, rounding) + self._coarse_change(function)
        if self.unsampled:
            cautions = (*cautions, f"no probe is done yet: the part of {self._known()} alone, what is missing unknown")
            return Estimate(known, math.inf, truncation, cautions=cautions, lowest=lowest, highest=highest)
        if self.runs.probes == 0:
            return Estimate(known, 0.0, truncation, cautions=cautions, lowest=lowest, highest=highest)
        samples = probe_means(self._rule, function)
        if np.all(self.runs.lengths < self.runs.steps):
            # Every run found a subspace that is invariant to rounding.
            change = moved_by(lambda f: float(probe_means(self._rule, f).mean()), function, rounding)
        else:
            change = self._change(function, samples)
            change = change if bound is None else min(change, bound)
            if math.isinf(change):
                cautions = (*cautions, "one Lanczos step says nothing of its own error; use at least two")
        truncation += self.complement * change
        found = from_samples(known + self.complement * samples, truncation_error=truncation, cautions=cautions)
        return replace(found, lowest=lowest, highest=highest)

    def _known(self) -> str:
        return f"the {self.deflation.captured:,} deflated of {self.size:,} dimensions"

    def _coarse_change(self, function: Function) -> float:
        """What eigenvalues that are wrong by their coarseness may add to a sum."""
        if self.coarseness == 0.0:
            return 0.0
        nodes, masses = self.measure()
        return float(masses @ np.abs(function(nodes * (1.0 + self.coarseness)) - function(nodes)))

    def _change(self, function: Function, samples: Array) -> float:
        """By how much all steps differ from half of them, per unit of mass; inf if there is nothing to halve."""
        if self.runs.steps == 1:
            return math.inf if self.size > 1 else 0.0
        return abs(float(np.mean(samples - probe_means(self._coarse_rule, function))))

    def mass_below(self, threshold: float = 0.0) -> Estimate:
        """Number of eigenvalues below ``threshold``.

        A step function converges slowly: eigenvalues within ``resolution(threshold)`` of the threshold may be counted
        on either side. A node stands for eigenvalues on both sides of it, so the truncation error is at least half the
        mass of the lighter of the two nodes around the threshold, and at least what the count changes where the masses
        of both are spread out evenly. By the inequalities of Chebyshev, Markov and Stieltjes a count is off by at most
        the whole mass of one of them.

        Args:
            threshold: unit of the eigenvalues.

        Returns:
            The estimate of a count.
        """
        step = lambda x: (x < threshold).astype(np.float64)  # noqa: E731
        found = self.integrate(step, lowest=0.0, highest=float(self.size))
        return replace(found, truncation_error=max(found.truncation_error, self._straddling(threshold)))

    def _straddling(self, threshold: float) -> float:
        """How much mass may lie on the wrong side of a threshold, for what the two nodes around it stand for."""
        if self.complement == 0 or not self.runs.probes:
            return 0.0
        changes = []
        for row, masses, length in zip(self.nodes, self.weights, self.runs.lengths, strict=True):
            if length < self.runs.steps or len(row) == 1:
                continue  # the nodes of an invariant subspace are eigenvalues; one step alone has its own caution
            beyond = 2.0 * row[[0, -1]] - row[[1, -2]]
            spread = np.cumsum(masses) - masses / 2.0
            smooth = np.interp(threshold, [beyond[0], *row, beyond[1]], [0.0, *spread, 1.0])
            around = masses[max(0, (place := int(np.searchsorted(row, threshold))) - 1) : place + 1]
            lighter = float(around.min()) / 2.0 if 0 < place < len(row) else 0.0
            changes.append(max(lighter, abs(float(smooth - masses[:place].sum()))))
        return self.complement * sum(changes) / self.runs.probes

    def resolution(self, at: float = 0.0) -> float:
        """Distance between the neighbouring nodes around ``at``: detail below it is not seen.

        Args:
            at: the point, unit of the eigenvalues.

        Returns:
            The median over probes, inf before the first; outside of a probe's nodes the gap between its last two, or
            the distance to them if larger. What rounding leaves for an exact spectrum, inf for a single step.
        """
        if self.unsampled:
            return math.inf
        if self.complement == 0:
            return self.rounding
        gaps = []
        for row, length in zip(self.nodes, self.runs.lengths, strict=True):
            if length < self.runs.steps:
                return self.rounding
            if len(row) == 1:
                return math.inf
            position = int(np.searchsorted(row, at))
            inside = 0 < position < len(row)
            # Beyond a probe's nodes what is seen is no finer than between its last two.
            end = row[1] - row[0] if position == 0 else row[-1] - row[-2]
            gaps.append(row[position] - row[position - 1] if inside else max(end, float(np.min(np.abs(row - at)))))
        return max(float(np.median(gaps)), self.rounding)
