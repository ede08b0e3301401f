"""The basin segment: the cross-section of the zero manifold, times the stretch of it on which behaviour stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra.density import IndefiniteError, negative_rule
from spectra.errors import UserError
from spectra.operators import SymmetricOperator
from volume.priors import log_ball_volume
from volume.quadratic.rank import NumericalRank, numerical_rank, refuse_large

Array = NDArray[np.float64]
INSTEAD = "the basin segment: use the methods shifted-determinant or quadratic-mass, which need products alone"


@dataclass(frozen=True, eq=False)
class SegmentVolume:
    """Lebesgue log-volume of a basin segment: two ellipsoids across each other, their log-volumes added.

    Attributes:
        cutoff: T, unit of the cost.
        training: rank of the training curvature, and its zero manifold's dimension.
        validation: rank of the validation curvature within the zero manifold.
        shift: c = k / s^2 that the prior adds along the manifold, unit of the curvature; 0 without a prior.
        log_cross_section: log-volume of the ellipsoid perpendicular to the manifold, from the training curvature, nats.
        log_extent: log-volume of the ellipsoid along the manifold, from the validation curvature plus the shift, nats;
            inf where a direction has no end.
        cautions: sentences on why not to trust it.
    """

    cutoff: float
    training: NumericalRank
    validation: NumericalRank
    shift: float
    log_cross_section: float
    log_extent: float
    cautions: tuple[str, ...] = ()

    @property
    def log_volume(self) -> float:
        """Of the segment, nats."""
        return self.log_cross_section + self.log_extent

    def at(self, cutoff: float) -> SegmentVolume:
        """The same segment at another cutoff: the volume goes with T^(n/2). The cautions are those of this one."""
        ratio = math.log(cutoff / self.cutoff)
        return replace(
            self,
            cutoff=cutoff,
            log_cross_section=self.log_cross_section + self.rank / 2.0 * ratio,
            log_extent=self.log_extent + self.zero_dimension / 2.0 * ratio,
        )

    @property
    def rank(self) -> int:
        """Dimensions of the cross-section."""
        return self.training.rank

    @property
    def zero_dimension(self) -> int:
        """Dimensions of the zero manifold."""
        return self.training.zero_dimension

    @property
    def unbounded(self) -> int:
        """Directions that neither set of data sees: the prior alone bounds them, or nothing does."""
        return self.validation.zero_dimension

    @property
    def shifted(self) -> int:
        """Directions of the manifold in which the prior's shift exceeds the validation curvature."""
        return self.zero_dimension - int((self.validation.magnitudes > self.shift).sum())


def segment_volume(
    training: SymmetricOperator,
    validation: SymmetricOperator,
    cutoff: float,
    *,
    standard_deviation: float | None = None,
    k: float = 1.0,
    tolerance: float | None = None,
    negative: str = "raise",
    log_scale: float = 0.0,
    reach: float = math.inf,
) -> SegmentVolume:
    r"""The volume of the basin segment.

    With H the training curvature, Q an orthonormal basis of its null space (z dimensions) and F the validation
    curvature,
    ``log V = log V_(n-z) + (n-z)/2 log 2T - 1/2 log det+ H + log V_z + z/2 log 2T - 1/2 log det(Q^T F Q + (k/s^2) I)``,
    det+ the product of the eigenvalues that are not zero.

    Args:
        training: curvature H of the training cost at the anchor, of size n, in float64.
        validation: curvature F of the behaviour on the validation set, of the same parameters; a Fisher or
            Gauss-Newton matrix.
        cutoff: T of both costs, positive.
        standard_deviation: s of the prior that bounds the manifold; None bounds it by the validation data alone.
        k: number k of the shift ``k / s^2``, as for the shifted determinant; 0 adds none.
        tolerance: eigenvalues of H below this share of its largest are zero; default ``10 n eps``.
        negative: what to do with negative eigenvalues of either beyond the tolerance: ``raise``, ``clip`` or ``abs``.
        log_scale: ``sum_i log s_i`` if both curvatures are in prior units, so that the volume is not.
        reach: distance from the anchor beyond which the quadratic model is not believed; longer axes are counted.

    Returns:
        The segment.

    Raises:
        UserError: if n is too large for dense eigenvectors, the sizes differ, a number is out of its range, or one of
            them is indefinite under the rule ``raise``.

    >>> from spectra.operators import MatrixOperator
    >>> train, held = (MatrixOperator(torch.diag(torch.tensor(d)).double()) for d in ([1.0, 0.0], [7.0, 0.25]))
    >>> segment = segment_volume(train, held, 2.0)  # radii 2 across and 4 along: lengths 4 and 8
    >>> segment.rank, segment.zero_dimension, round(math.exp(segment.log_volume), 9)
    (1, 1, 32.0)
    """
    _check(training, validation, cutoff, standard_deviation, k)
    values, vectors = torch.linalg.eigh(training.to_dense().double())
    level = 10.0 * training.size * torch.finfo(training.dtype).eps if tolerance is None else tolerance
    values = values.cpu()
    rounding = level * float(values.abs().max())
    mapped = _mapped(values.numpy(), negative, rounding, f"training {training.name}")
    across = numerical_rank(mapped, tolerance=level, name=f"training {training.name}")
    counted = np.flatnonzero(mapped > across.threshold)
    null = np.flatnonzero(mapped <= across.threshold)
    inner = _restricted(validation, vectors.T[torch.as_tensor(null, device=vectors.device)])
    within = 10.0 * max(len(null), 1) * torch.finfo(validation.dtype).eps
    if not validation.definite:
        # What the validation set does not see is rounding of the whole, not of itself.
        own = within * float(np.abs(inner).max(initial=0.0))
        inner = _mapped(inner, negative, max(own, rounding), f"validation {validation.name}")
    inner = np.maximum(inner, 0.0)
    along = numerical_rank(inner, tolerance=within, name=f"validation {validation.name}")
    shift = 0.0 if standard_deviation is None else k / standard_deviation**2
    # What the validation set does not see is rounding there, and is taken as zero.
    seen = np.where(inner > along.threshold, inner, 0.0) + shift
    return SegmentVolume(
        cutoff=cutoff,
        training=across,
        validation=along,
        shift=shift,
        log_cross_section=_log_ellipsoid(mapped[counted], cutoff) + log_scale,
        log_extent=_log_ellipsoid(seen, cutoff),
        cautions=_cautions(across, mapped[counted], seen, shift, cutoff, reach),
    )


def _check(
    training: SymmetricOperator, validation: SymmetricOperator, cutoff: float, width: float | None, k: float
) -> None:
    refuse_large(training.size, INSTEAD)
    if validation.size != training.size:
        raise UserError(
            f"validation must be of the same parameters as training: expected {training.size}, got {validation.size}"
        )
    if not (math.isfinite(cutoff) and cutoff > 0.0):
        raise UserError(f"cutoff must be positive and finite, got {cutoff:g}")
    if width is not None and not (math.isfinite(width) and width > 0.0):
        raise UserError(f"standard_deviation must be positive and finite, got {width:g}")
    if not (math.isfinite(k) and k >= 0.0):
        raise UserError(f"k must be non-negative and finite, got {k:g}")


def _mapped(values: Array, negative: str, rounding: float, name: str) -> Array:
    """Eigenvalues after the rule for negative ones; those within rounding of zero are below no rule."""
    rule = negative_rule(negative)
    below = int((values < -rounding).sum())
    if negative == "raise" and below:
        raise IndefiniteError(
            f"the {name} is not positive semidefinite: {below:,} of {len(values):,} eigenvalues are negative (the "
            f"lowest {values.min():.3g})",
            "use a Fisher or Gauss-Newton matrix, or the rule clip or abs",
        )
    return rule(values)


def _restricted(operator: SymmetricOperator, rows: Tensor) -> Array:
    """Eigenvalues of the operator within the space that orthonormal rows (z, n) span."""
    if not len(rows):
        return np.empty(0)
    products = torch.cat([operator.matmat(part.to(operator.dtype)).double() for part in torch.split(rows, 256)])
    inner = products @ rows.T
    found: Array = torch.linalg.eigvalsh((inner + inner.T) / 2.0).cpu().numpy()
    return found


def _log_ellipsoid(values: Array, cutoff: float) -> float:
    """Log volume of ``{1/2 sum_i l_i x_i^2 < T}`` in as many dimensions; inf if an l is zero."""
    if not (values > 0.0).all():
        return math.inf
    return log_ball_volume(len(values)) + 0.5 * float(np.sum(math.log(2.0 * cutoff) - np.log(values)))


def _cautions(
    across: NumericalRank, cross: Array, along: Array, shift: float, cutoff: float, reach: float
) -> tuple[str, ...]:
    found = [across.caution] if across.caution else []
    endless = int((along == 0.0).sum())
    if endless:
        found.append(f"{endless} directions change nothing on either set of data and have no end: use a prior")
    decided = int((along < 2.0 * shift).sum())
    if 2 * decided > len(along):
        found.append(
            f"the prior's shift {shift:.3g}, not the validation data, bounds {decided} of the {len(along)} directions "
            "of the zero manifold"
        )
    axes = np.sqrt(2.0 * cutoff / np.concatenate([cross, along[along > 0.0]]))
    long = int((axes > reach).sum())
    if long:
        found.append(
            f"{long} axes, the longest {axes.max():.3g}, are longer than the anchor's norm {reach:.3g}: the cost is "
            "hardly quadratic so far out"
        )
    return tuple(found)
