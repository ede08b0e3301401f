"""The spectral density: the spectral sums and the views read from what Lanczos found."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from spectra.density.caution import for_shift, negative_rule, refuse_determinant, refuse_dimension, refuse_pole
from spectra.density.measure import Array, SpectralMeasure
from spectra.density.smoothing import CumulativeDensity, SmoothedDensity, cumulative, smooth
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.files import Named, Result, counted
from spectra.lanczos import Deflation, Tridiagonal, logarithm_error_bound, no_runs
from spectra.words import curvature_unit, operator_title

# Of an effective dimension: what negative eigenvalues may take away unsaid.
_TAKEN = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class SpectralDensity(SpectralMeasure, Result):
    """Eigenvalue density of a symmetric operator: the spectral measure, its sums and its views."""

    _drawn_by: ClassVar[str] = "spectra.plots:draw_density"

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

    def _title(self) -> str:
        return f"{operator_title(self.operator, first=True)} of {counted(self.size, 'parameter')}"

    def _facts(self) -> dict[str, str]:
        low, high = self.support
        trace = self.trace()
        sampled = f"{counted(self.runs.probes, 'probe')} of {counted(self.runs.steps, 'step')}"
        how = "all eigenvalues" if self.exact else sampled
        if self.unsampled:
            how = f"{self._known()}, no probes yet"
        return {"trace": trace._title(), "support": f"{low:.4g} to {high:.4g}", "from": how}

    def _cautions(self) -> tuple[str, ...]:
        return self.trace().cautions

    def records(self) -> list[dict[str, Any]]:
        """A row for each node that carries weight: of the part known without probes, then of each probe.

        ``dimensions`` is how many of the parameters a node stands for; over all rows it sums to ``size``.
        """
        found: list[dict[str, Any]] = [
            {"part": "deflated", "probe": None, "node": float(node), "weight": None, "dimensions": float(weight)}
            for node, weight in zip(self.deflation.nodes, self.deflation.weights, strict=True)
        ]
        share = self.complement / self.runs.probes if self.runs.probes else 0.0
        for probe, (nodes, weights) in enumerate(zip(self.nodes, self.weights, strict=True)):
            found += [
                {"part": "probe", "probe": probe, "node": float(x), "weight": float(w), "dimensions": float(share * w)}
                for x, w in zip(nodes, weights, strict=True)
                if w > 0.0
            ]
        return found

    def _arrays(self) -> Named:
        unit, one = {"units": curvature_unit(self.operator)}, {"units": "1"}
        return {
            "nodes": (("probe", "step"), self.nodes, unit),
            "weights": (("probe", "step"), self.weights, one),
            "deflation_nodes": (("deflated_node",), self.deflation.nodes, unit),
            "deflation_weights": (("deflated_node",), self.deflation.weights, one),
        }

    def trace(self) -> Estimate:
        """``tr H``, unit of the cost (per squared unit of the parameters); the quadrature is exact for it."""
        return self.moment(1)

    def moment(self, order: int) -> Estimate:
        """``tr H^order``; exact quadrature for ``order < 2 * steps``."""
        if order < 0:
            raise UserError(f"order must be non-negative, got {order}")
        positive = order % 2 == 0 or self.semidefinite
        least = self.deflation.integrate(lambda x: x**order) if self.unsampled else 0.0
        bound = 0.0 if order < 2 * self.runs.steps else None
        return self.integrate(lambda x: x**order, bound=bound, lowest=max(least, 0.0) if positive else -math.inf)

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

    def smooth(
        self,
        width: float | None = None,
        *,
        scale: str = "symlog",
        linear_scale: float | None = None,
        limits: tuple[float, float] | None = None,
    ) -> SmoothedDensity:
        """Gaussian-smoothed view on a grid, with a band over probes; see ``spectra.density.smoothing.smooth``."""
        return smooth(self, width, scale=scale, linear_scale=linear_scale, limits=limits)

    def cumulative(self) -> CumulativeDensity:
        """Fraction of eigenvalues at or below each node; see ``spectra.density.smoothing.cumulative``."""
        return cumulative(self)

    def with_runs(self, runs: Tridiagonal) -> SpectralDensity:
        """The same density with further probes appended."""
        runs = runs if self.runs.probes == 0 else self.runs.appended(runs)
        return replace(self, runs=runs)
