"""The prior's mass of the quadratic basin ``{1/2 x^T H x <= T}``, and the shift that it derives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra.density import IndefiniteError, SpectralDensity, for_shift, negative_rule
from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.interval import short
from spectra.lanczos import Tridiagonal, logarithm_error_bound
from spectra.split import leading
from spectra.words import operator_title
from volume.quadratic.measure import AnchorMeasure
from volume.quadratic.saddlepoint import QuadraticForm, TailProbability, log_distribution

Array = NDArray[np.float64]
# Negative eigenvalues smaller than this share of the largest are rounding: products may be in float32.
_ROUNDING = 10.0 * float(np.finfo(np.float32).eps)
# An error of the approximation itself that is worth a sentence, nats.
_TELL = 0.05
_TELL_TRUNCATION = 1.0


@dataclass(frozen=True, eq=False)
class QuadraticMass:
    """``log Pr[1/2 x^T H x <= T]`` under a Gaussian prior, x the displacement from the anchor.

    Attributes:
        cutoff: T, nats.
        standard_deviation: s of the prior in the coordinates of the density.
        log_mass: the logarithm, nats; its truncation error includes ``approximation_error``.
        saddle: t0, per nat; negative where the cutoff is below the mean cost under the prior.
        shift: c = 1 / (b s^2) with b = -t0, unit of the curvature: log_mass is a determinant shifted by it. inf where
            the cutoff is above the mean cost: no shift gives such a mass.
        effective_dimension: ``N_eff(c) = sum_i l_i / (l_i + c)``.
        mean_cost: the quadratic cost averaged over the prior, nats.
        approximation_error: allowance for the saddlepoint's own error, nats.
        negative: the rule that was applied to negative eigenvalues.
        negative_count: about how many eigenvalues it concerned.
    """

    cutoff: float
    standard_deviation: float
    log_mass: Estimate
    saddle: float
    shift: float
    effective_dimension: Estimate
    mean_cost: float
    approximation_error: float
    negative: str
    negative_count: float

    @property
    def derived_k(self) -> float:
        """``k = c s^2``, the primer's free number, dimensionless; ``2 T / N_eff(c)`` for an anchor at the origin."""
        return self.shift * self.standard_deviation**2

    @property
    def verdict(self) -> str:
        """One sentence: the mass with its errors, and whether anything speaks against it."""
        low, high = self.log_mass.interval()
        doubt = "; ".join(self.log_mass.cautions) or "nothing speaks against it"
        return (
            f"log mass {self.log_mass.value:.6g} nats (95 % interval {low:.6g} to {high:.6g}) at cutoff "
            f"{self.cutoff:g}, derived k {short(self.derived_k)}: {doubt}"
        )


def quadratic_mass(
    density: SpectralDensity,
    anchor: AnchorMeasure,
    cutoffs: ArrayLike,
    *,
    standard_deviation: float = 1.0,
    negative: str = "raise",
) -> tuple[QuadraticMass, ...]:
    r"""The mass of the quadratic basin under ``theta ~ N(0, s^2 I)``, by saddlepoint, for many cutoffs.

    Everything follows from ``K(t) = sum_i [-1/2 log(1 - t s^2 l_i) + t l_i m_i^2 / (2 (1 - t s^2 l_i))]``, that is from
    the density and one Lanczos run started at the anchor. For one standard deviation a parameter, take both in the
    units of ``volume.prior_units.prior_units``. The standard error is the jackknife's over probes, and its
    pseudo-values are the samples of the estimate, so ``spectra.estimate.difference`` pairs checkpoints by probe.

    Args:
        density: spectral density of the curvature H, unit cost per squared unit of the parameters.
        anchor: the anchor's measure on the eigenvalue axis of the same H.
        cutoffs: (q,) T, nats.
        standard_deviation: s, unit of the parameters.
        negative: what to do with negative eigenvalues: ``raise``, ``clip`` (they cost nothing) or ``abs``.

    Returns:
        One mass a cutoff.

    Raises:
        UserError: if a cutoff or s is not positive and finite, or H is indefinite under the rule ``raise``.

    >>> from volume.quadratic.measure import at_origin
    >>> density = SpectralDensity.from_eigenvalues(np.ones(20))
    >>> mass = quadratic_mass(density, at_origin(), 1.0)[0]
    >>> round(mass.log_mass.value, 3), round(mass.effective_dimension.value, 2)  # chi-square: -16.010
    (-16.01, 18.0)
    """
    if not (math.isfinite(standard_deviation) and standard_deviation > 0.0):
        raise UserError(f"standard_deviation must be positive and finite, got {standard_deviation:g}")
    basin = _Basin(density, anchor, standard_deviation, negative)
    basin.refuse_indefinite()
    targets = np.atleast_1d(np.asarray(cutoffs, dtype=np.float64))
    whole = basin.tails(targets)
    # pseudo-values of the jackknife: (q, probes)
    pseudo = basin.pseudo_values(targets, whole.log_probability)
    with np.errstate(divide="ignore"):
        shifts = np.where(whole.saddle < 0.0, 1.0 / (np.abs(whole.saddle) * standard_deviation**2), np.inf)
    truncation = basin.truncation(targets, whole.log_probability, shifts) + whole.error
    return tuple(
        QuadraticMass(
            cutoff=float(targets[i]),
            standard_deviation=standard_deviation,
            log_mass=_estimate(
                float(whole.log_probability[i]),
                pseudo[i],
                float(truncation[i]),
                basin.cautions(float(targets[i]), float(shifts[i]), float(whole.error[i])),
            ),
            saddle=float(whole.saddle[i]),
            shift=float(shifts[i]),
            effective_dimension=basin.effective_dimension(float(shifts[i])),
            mean_cost=basin.form().mean,
            approximation_error=float(whole.error[i]),
            negative=negative,
            negative_count=basin.negative_count,
        )
        for i in range(len(targets))
    )


def _estimate(value: float, pseudo: Array, truncation: float, cautions: tuple[str, ...]) -> Estimate:
    if len(pseudo) == 0:
        return Estimate(value, 0.0, truncation, cautions=cautions, highest=0.0).possible()
    # The logarithm of a probability.
    estimate = replace(from_samples(pseudo, truncation_error=truncation, cautions=cautions), highest=0.0)
    if truncation > max(_TELL_TRUNCATION, 3.0 * estimate.standard_error):
        advice = (
            f"the quadrature's error of about {truncation:.3g} nats outweighs that of the probes: more Lanczos steps"
        )
        estimate = replace(estimate, cautions=(*estimate.cautions, advice))
    # The jackknife's value would be the mean of the pseudo-values; the plain one is kept, which is nearly that.
    return replace(estimate, value=value).possible()


@dataclass(frozen=True, eq=False)
class _Basin:
    """The quadratic form of a density and an anchor, and of what is left of them without a probe or half the steps."""

    density: SpectralDensity
    anchor: AnchorMeasure
    standard_deviation: float
    negative: str

    def eigenvalues(self, nodes: Array) -> Array:
        """Nodes after the rule for negative ones, of which those that are rounding are zero under every rule."""
        rule = negative_rule("clip" if self.negative == "raise" else self.negative)
        return np.where(np.abs(nodes) <= self.rounding, np.maximum(nodes, 0.0), rule(nodes))

    @property
    def rounding(self) -> float:
        return _ROUNDING * self.density.magnitude

    @property
    def negative_count(self) -> float:
        nodes, masses = self.density.measure()
        return float(masses[nodes < -self.rounding].sum())

    @property
    def _about_negative(self) -> str:
        return f"{'' if self.density.exact else 'about '}{short(self.negative_count)}"

    def refuse_indefinite(self) -> None:
        negative_rule(self.negative)
        if self.negative == "raise" and self.negative_count > 0.0:
            raise IndefiniteError(
                f"the {operator_title(self.density.operator)} is not positive semidefinite: {self._about_negative} of "
                f"{self.density.size:,} eigenvalues are negative (smallest node "
                f"{self.density.support[0]:.3g}), so the quadratic basin is no ellipsoid",
                "state a rule for negative eigenvalues (clip or abs), or use a Gauss-Newton or Fisher matrix",
            )

    def form(self, density: SpectralDensity | None = None, anchor: AnchorMeasure | None = None) -> QuadraticForm:
        square = self.standard_deviation**2
        nodes, counts = (density or self.density).measure()
        at = anchor or self.anchor
        return QuadraticForm(
            self.eigenvalues(nodes) * square, counts, self.eigenvalues(at.nodes) * square, at.masses / square
        )

    def tails(
        self, cutoffs: Array, density: SpectralDensity | None = None, anchor: AnchorMeasure | None = None
    ) -> TailProbability:
        return log_distribution(self.form(density, anchor), cutoffs)

    def pseudo_values(self, cutoffs: Array, whole: Array) -> Array:
        runs = self.density.runs
        if runs.probes < 2:
            return np.tile(whole[:, None], runs.probes)
        columns = []
        for probe in range(runs.probes):
            kept = np.arange(runs.probes) != probe
            fewer = Tridiagonal(runs.diagonal[kept], runs.off_diagonal[kept], runs.lengths[kept])
            left_out = self.tails(cutoffs, density=replace(self.density, runs=fewer)).log_probability
            columns.append(runs.probes * whole - (runs.probes - 1) * left_out)
        return np.stack(columns, axis=1)

    def truncation(self, cutoffs: Array, whole: Array, shifts: Array) -> Array:
        """Changes when half the Lanczos steps are taken: of the probes, of the deflated part, of the anchor's run."""
        density, total = self.density, np.zeros_like(cutoffs)
        half = max(1, (density.runs.steps + 1) // 2)
        if density.runs.probes and np.any(density.runs.lengths > half):
            shorter = replace(density, runs=leading(density.runs, half))
            change = np.abs(self.tails(cutoffs, density=shorter).log_probability - whole)
            total += np.minimum(change, [self._bound(shift) for shift in shifts])
        known = density.deflation
        if len(known.coarse_nodes):
            none = np.empty(0)
            coarse = replace(
                known, nodes=known.coarse_nodes, weights=known.coarse_weights, coarse_nodes=none, coarse_weights=none
            )
            total += np.abs(self.tails(cutoffs, density=replace(density, deflation=coarse)).log_probability - whole)
        if len(self.anchor.coarse_nodes):
            rough = AnchorMeasure(self.anchor.coarse_nodes, self.anchor.coarse_masses)
            total += np.abs(self.tails(cutoffs, anchor=rough).log_probability - whole)
        return total

    def _bound(self, shift: float) -> float:
        """Bound on the quadrature's error of ``1/2 logdet(H + shift I)``, the part of the mass that it decides."""
        low, high = self.density.support
        if low < 0.0 or not math.isfinite(shift):
            return math.inf
        return 0.5 * self.density.complement * logarithm_error_bound(low, high, shift, self.density.runs.steps)

    def effective_dimension(self, shift: float) -> Estimate:
        share = lambda x: self.eigenvalues(x) / (self.eigenvalues(x) + shift)  # noqa: E731
        return self.density.integrate(share, lowest=0.0, highest=float(self.density.size))

    def cautions(self, cutoff: float, shift: float, error: float) -> tuple[str, ...]:
        found: list[str] = []
        if math.isfinite(shift):
            found += for_shift(self.density, shift, self.negative)
        elif self.negative_count > 0.0:
            found.append(
                f"{self._about_negative} of {self.density.size:,} eigenvalues are negative and were taken by the rule "
                f"'{self.negative}'"
            )
        mean = self.form().mean
        if not math.isfinite(shift) and mean > 0.0:
            found.append(
                f"the cutoff {cutoff:g} is not below the mean quadratic cost {mean:.3g} under the prior: the basin "
                "holds most of the prior's mass, and no shift is derived"
            )
        if error > _TELL:
            found.append(f"few eigenvalues matter: the saddlepoint itself may be off by {error:.2g} nats")
        return tuple(found)
