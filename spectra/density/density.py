"""The spectral density: what Lanczos found, kept raw, and the spectral sums read from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spectra.density.caution import for_shift, negative_rule, refuse_determinant, refuse_dimension, refuse_pole
from spectra.density.smoothing import CumulativeDensity, SmoothedDensity, cumulative, smooth
from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.lanczos import (
    BREAKDOWN_ROUNDINGS,
    Deflation,
    Function,
    Tridiagonal,
    logarithm_error_bound,
    moved_by,
    no_runs,
    probe_means,
)
from spectra.members import stating

Array = NDArray[np.float64]


_NOTHING = Deflation(np.empty(0), np.empty(0), 0)
# Matrices that have no negative eigenvalue, under a cost that is convex in the outputs, but by rounding.
SEMIDEFINITE = stating("spectra.operators", "semidefinite")
# Ten times the epsilon of float32: eigenvalues nearer to zero, against the largest, have no sign.
ROUNDING = 1e-6
# Of an effective dimension: what negative eigenvalues may take away unsaid.
_TAKEN = 0.1


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Eigenvalue density of a symmetric operator, as stochastic Lanczos quadrature sees it.

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

    @classmethod
    def from_eigenvalues(
        cls,
        eigenvalues: Array,
        size: int | None = None,
        operator: str = "hessian",
        *,
        rest: float = 0.0,
        epsilon: float = 0.0,
    ) -> SpectralDensity:
        """The exact density of known eigenvalues, padded with zeros up to ``size``.

        Args:
            eigenvalues: (k,) eigenvalues, in any order.
            size: number of parameters; those beyond k have the eigenvalue ``rest``. Default k.
            operator: name of the curvature.
            rest: the eigenvalue of the others.
            epsilon: machine epsilon of what they were computed from; 0 if they are known.

        Returns:
            A density without statistical or truncation error.

        Raises:
            UserError: if ``size`` is below k.

        >>> SpectralDensity.from_eigenvalues(np.array([1.0, 3.0]), size=5).trace().value
        4.0
        """
        values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
        size = len(values) if size is None else size
        if size < len(values):
            raise UserError(f"size must be at least the number of eigenvalues {len(values)}, got {size}")
        weights = np.ones(len(values))
        if size > len(values):
            values, weights = np.append(values, rest), np.append(weights, float(size - len(values)))
        order = np.argsort(values, kind="stable")
        return cls(size, no_runs(), Deflation(values[order], weights[order], size), operator, epsilon)

    @property
    def exact(self) -> bool:
        """Whether every dimension is captured without sampling."""
        return self.deflation.captured == self.size and len(self.deflation.coarse_nodes) == 0

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

        >>> SpectralDensity.from_eigenvalues(np.array([1.0, 2.0])).integrate(np.square).value
        5.0
        """
        known = self.deflation.integrate(function)
        # Rounding moves nodes, but leaves the sums that the rule has exactly.
        rounding = 0.0 if self.complement == 0 or bound == 0.0 else self.rounding
        truncation = self.deflation.truncation(function, rounding) + self._coarse_change(function)
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

    def trace(self) -> Estimate:
        """``tr H``, unit of the cost (per squared unit of the parameters); the quadrature is exact for it."""
        return self.moment(1)

    def moment(self, order: int) -> Estimate:
        """``tr H^order``; exact quadrature for ``order < 2 * steps``."""
        if order < 0:
            raise UserError(f"order must be non-negative, got {order}")
        positive = order % 2 == 0 or self.semidefinite
        bound = 0.0 if order < 2 * self.runs.steps else None
        return self.integrate(lambda x: x**order, bound=bound, lowest=0.0 if positive else -math.inf)

    def frobenius_norm(self) -> Estimate:
        """``|H|_F = sqrt(tr H^2)``, the error carried by the delta method."""
        return self.moment(2).transform(lambda x: math.sqrt(max(x, 0.0)), lambda x: 0.5 / math.sqrt(max(x, 1e-300)))

    def logdet(self, shift: float, *, negative: str = "raise", relative: bool = False) -> Estimate:
        r"""``log det(H + shift I)``, or ``log det(I + H / shift)`` when ``relative``, in nats.

        Args:
            shift: c, unit of the eigenvalues; positive unless H is known to be positive definite.
            negative: what to do with nodes at or below ``-shift``: ``raise``, ``clip`` (eigenvalues below
                zero count as zero) or ``abs`` (their absolute value counts). Whatever is chosen is stated
                in the cautions, with the mass concerned.
            relative: subtract ``size * log(shift)``.

        Returns:
            The estimate. Its cautions say if the shift is below the resolution of the quadrature near zero
            (the primer's footnote) or inside the negative eigenvalues: then it is not to be trusted.

        Raises:
            UserError: if ``shift`` is not finite, or H + shift I is not positive definite and
                ``negative`` is ``raise``, or ``negative`` is unknown.

        >>> density = SpectralDensity.from_eigenvalues(np.array([1.0, 3.0]))
        >>> round(density.logdet(1.0).value, 6) == round(math.log(8.0), 6)
        True
        """
        rule = negative_rule(negative)
        if not math.isfinite(shift) or (relative and shift <= 0.0):
            raise UserError(f"shift must be finite{' and positive' if relative else ''}, got {shift}")
        indefinite = self.support[0] + shift <= 0.0
        if indefinite and negative == "raise":
            refuse_determinant(self, shift)
        offset = math.log(shift) if relative else 0.0
        smooth = negative == "raise" or self.support[0] >= 0.0
        bound = logarithm_error_bound(*self.outer_support, shift, self.runs.steps) if smooth else None
        nonnegative = negative != "raise" or self.semidefinite
        return self.integrate(
            lambda x: np.log(rule(x) + shift) - offset,
            cautions=for_shift(self, shift, negative),
            bound=bound,
            lowest=self.size * (math.log(shift) - offset) if nonnegative and shift > 0.0 else -math.inf,
        )

    def effective_dimension(self, shift: float, *, negative: str = "raise") -> Estimate:
        """MacKay's effective dimension ``sum_i l_i / (l_i + shift)``, from 0 to n.

        Args:
            shift: unit of the eigenvalues, positive. For a Hessian of the mean cost over N samples with
                prior precision a, ``shift = a / N``.
            negative: what to do with negative eigenvalues, as for ``logdet``.

        Returns:
            The estimate. Its cautions say if negative eigenvalues, which count below zero, take much away.

        Raises:
            UserError: if ``shift`` is not positive and finite, or under ``raise`` its pole at ``-shift`` lies inside
                the spectrum, or negative eigenvalues take away more than the others make.

        >>> SpectralDensity.from_eigenvalues(np.array([1.0, 3.0])).effective_dimension(1.0).value
        1.25
        """
        rule = negative_rule(negative)
        if not (math.isfinite(shift) and shift > 0.0):
            raise UserError(f"shift must be positive and finite, got {shift}")
        if negative == "raise" and self.support[0] <= -shift:
            refuse_pole(self, shift)
        cautions, limits = for_shift(self, shift, negative), {"lowest": 0.0, "highest": float(self.size)}
        found = self.integrate(lambda x: rule(x) / (rule(x) + shift), cautions=cautions, **limits)
        if negative != "raise" or self.support[0] >= 0.0:
            return found
        taken = -self.integrate(lambda x: np.minimum(x, 0.0) / (x + shift)).value
        if found.value < 0.0:
            refuse_dimension(self, shift, taken, found.value + taken)
        if taken > _TAKEN * found.value:
            words = f"negative eigenvalues take {taken:.3g} away from the {found.value + taken:.3g} of the others"
            found = replace(found, cautions=(*cautions, words))
        return found

    def mass_below(self, threshold: float = 0.0) -> Estimate:
        """Number of eigenvalues below ``threshold``.

        A step function converges slowly: eigenvalues within ``resolution(threshold)`` of the threshold may
        be counted on either side, which the truncation error shows only in part.

        Args:
            threshold: unit of the eigenvalues.

        Returns:
            The estimate of a count.
        """
        step = lambda x: (x < threshold).astype(np.float64)  # noqa: E731
        return self.integrate(step, lowest=0.0, highest=float(self.size))

    def resolution(self, at: float = 0.0) -> float:
        """Distance between the neighbouring nodes around ``at``: detail below it is not seen.

        Args:
            at: where, unit of the eigenvalues.

        Returns:
            The median over probes; outside of a probe's nodes the gap between its last two, or the distance to them
            if larger. What rounding leaves for an exact spectrum, inf for a single step.
        """
        if self.runs.probes == 0 or self.complement == 0:
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

    def smooth(
        self,
        width: float | None = None,
        *,
        scale: str = "symlog",
        linear_scale: float | None = None,
        limits: tuple[float, float] | None = None,
    ) -> SmoothedDensity:
        """Gaussian-smoothed view on a grid, with a band over probes; see :func:`spectra.density.smoothing.smooth`."""
        return smooth(self, width, scale=scale, linear_scale=linear_scale, limits=limits)

    def cumulative(self) -> CumulativeDensity:
        """Fraction of eigenvalues at or below each node; see :func:`spectra.density.smoothing.cumulative`."""
        return cumulative(self)

    def with_runs(self, runs: Tridiagonal) -> SpectralDensity:
        """The same density with further probes appended."""
        joined = runs if self.runs.probes == 0 else self.runs.joined(runs)
        return replace(self, runs=joined)
