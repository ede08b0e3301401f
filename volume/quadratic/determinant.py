"""Volumes from a determinant: the ellipsoid's, and the primer's with a shift in place of the missing curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spectra.density import IndefiniteError, SpectralDensity
from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.interval import short
from spectra.words import operator_title
from volume.priors import log_ball_volume
from volume.quadratic.mass import QuadraticMass


@dataclass(frozen=True, eq=False)
class DeterminantVolume:
    """``log V = n/2 log 2T + log V_n - 1/2 log det(H + c I)``, ``c = k / s^2``.

    Attributes:
        cutoff: T, nats.
        log_volume: Lebesgue log-volume, nats; its cautions say where the shift is not to be trusted.
        log_determinant: log-determinant of the shifted curvature, in the coordinates of the density.
        k: the primer's number; 0 for the plain ellipsoid.
        shift: c, unit of the curvature.
        effective_dimension: ``N_eff`` at that shift; None for the plain ellipsoid, and where negative eigenvalues
            outweigh the others.
        derived_k: the k that the Gaussian mass at this cutoff derives, to be read beside the chosen one; None if no
            mass was at hand.
    """

    cutoff: float
    log_volume: Estimate
    log_determinant: Estimate
    k: float
    shift: float
    effective_dimension: Estimate | None
    derived_k: float | None

    @property
    def verdict(self) -> str:
        """One sentence: the volume with its errors, the shift it rests on, and what speaks against it."""
        low, high = self.log_volume.interval()
        derived = f", derived k {short(self.derived_k)}" if self.derived_k is not None else ""
        doubt = "; ".join(self.log_volume.cautions) or "nothing speaks against it"
        return (
            f"log volume {self.log_volume.value:.6g} nats (95 % interval {low:.6g} to {high:.6g}) at cutoff "
            f"{self.cutoff:g} with shift {self.shift:.3g} (k {self.k:.3g}{derived}): {doubt}"
        )


def ellipsoid_volume(
    density: SpectralDensity, cutoff: float, *, negative: str = "raise", log_scale: float = 0.0
) -> DeterminantVolume:
    """Lebesgue log-volume of ``{1/2 x^T H x < T}``; H must be positive definite.

    Args:
        density: spectral density of the curvature H.
        cutoff: T, nats.
        negative: the rule for negative eigenvalues, ``raise`` or ``abs``.
        log_scale: ``sum_i log s_i`` if the density is of ``D H D`` with D = diag(s), so that the volume is that of
            the original coordinates.

    Returns:
        The volume, without a shift.

    Raises:
        UserError: if the cutoff is not positive and finite, or H has a zero or (under ``raise``) negative eigenvalue.

    >>> import numpy as np
    >>> volume = ellipsoid_volume(SpectralDensity.from_eigenvalues(np.array([1.0, 4.0])), 2.0)
    >>> round(math.exp(volume.log_volume.value) / math.pi, 9)  # radii 2 and 1
    2.0
    """
    nodes, _ = density.measure()
    if negative == "clip" or not nodes.all():
        raise UserError(
            f"the {operator_title(density.operator)} has eigenvalues that are zero"
            f"{' by the rule clip' if nodes.all() else ''}: the ellipsoid's volume is infinite; "
            "use the shifted determinant, or the mass under a prior"
        )
    return _volume(density, cutoff, 0.0, 0.0, negative, log_scale)


def shifted_determinant(
    density: SpectralDensity,
    cutoff: float,
    *,
    standard_deviation: float,
    k: float = 1.0,
    negative: str = "raise",
    log_scale: float = 0.0,
    mass: QuadraticMass | None = None,
) -> DeterminantVolume:
    """The primer's volume: the ellipsoid's with ``H + k / s^2 I`` for H.

    The primer leaves k open ("of order one"). The Gaussian mass derives it, often orders of magnitude smaller: give
    that mass, of the same density and cutoff, to have its k reported beside the chosen one.

    Args:
        density: spectral density of the curvature H.
        cutoff: T, nats.
        standard_deviation: s of the prior, unit of the parameters (1 if the density is of ``D H D``).
        k: positive.
        negative: the rule for negative eigenvalues: ``raise`` (only those at or below the negative shift matter),
            ``clip`` or ``abs``.
        log_scale: ``sum_i log s_i`` if the density is of ``D H D`` with D = diag(s).
        mass: the Gaussian mass of the same basin.

    Returns:
        The volume.

    Raises:
        UserError: if a number is out of its range, or H plus the shift is indefinite under ``raise``, or the mass is
            of another cutoff.

    >>> import numpy as np
    >>> density = SpectralDensity.from_eigenvalues(np.array([3.0]), size=2)
    >>> volume = shifted_determinant(density, 2.0, standard_deviation=1.0)  # radii 1 and 2
    >>> round(math.exp(volume.log_volume.value) / math.pi, 9)
    2.0
    """
    for name, value in (("standard_deviation", standard_deviation), ("k", k)):
        if not (math.isfinite(value) and value > 0.0):
            raise UserError(f"{name} must be positive and finite, got {value:g}")
    if mass is not None and mass.cutoff != cutoff:
        raise UserError(f"the mass must be of the same cutoff {cutoff:g}, got {mass.cutoff:g}")
    return _volume(density, cutoff, k, k / standard_deviation**2, negative, log_scale, mass)


def _volume(
    density: SpectralDensity,
    cutoff: float,
    k: float,
    shift: float,
    negative: str,
    log_scale: float,
    mass: QuadraticMass | None = None,
) -> DeterminantVolume:
    if not (math.isfinite(cutoff) and cutoff > 0.0):
        raise UserError(f"cutoff must be positive and finite, got {cutoff:g}")
    determinant = density.logdet(shift, negative=negative)
    n = density.size
    constant = n / 2.0 * math.log(2.0 * cutoff) + log_ball_volume(n) + log_scale
    return DeterminantVolume(
        cutoff=cutoff,
        log_volume=determinant.transform(lambda x: constant - x / 2.0, lambda _: -0.5),
        log_determinant=determinant,
        k=k,
        shift=shift,
        effective_dimension=_effective(density, shift, negative),
        derived_k=None if mass is None else mass.derived_k,
    )


def _effective(density: SpectralDensity, shift: float, negative: str) -> Estimate | None:
    """The effective dimension at a shift; None where there is none."""
    if shift <= 0.0:
        return None
    try:
        return density.effective_dimension(shift, negative=negative)
    except IndefiniteError:
        return None  # the log-determinant exists all the same
