"""The method ``segment``: the basin segment of two landscapes, training and validation, under a study's settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.landscape import Landscape
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.descent import TELL
from volume.method_result import MethodResult
from volume.methods.determinants import with_slope
from volume.methods.method import Cutoffs, MethodRow
from volume.methods.work import VolumeWork
from volume.prior_units import prior_units
from volume.priors import Prior
from volume.quadratic import INSTEAD, SegmentVolume, refuse_large, segment_volume
from volume.study import VolumeSettings


def segment_results(
    training: Landscape | None,
    validation: Landscape,
    cutoffs: Sequence[float] | NDArray[np.float64],
    settings: VolumeSettings,
    *,
    operator: str,
    prior: Prior,
    fall: float = 0.0,
    strategy: str = "auto",
) -> tuple[MethodResult, ...]:
    """The basin segment at each cutoff: curvatures in float64, in the units of the prior if it has a width.

    Args:
        training: cost on the data that the checkpoint was trained on.
        validation: the same cost on other data, of the same parameters.
        cutoffs: (q,) T. Cautions are those of the largest.
        settings: k, rank_tolerance and the rule for negative eigenvalues are used.
        operator: name of the curvature of both.
        prior: its width bounds the zero manifold; Lebesgue measure does not.
        fall: the most that the cost was seen to fall below the anchor's.
        strategy: how products are computed.

    Returns:
        One Lebesgue volume a cutoff; the figures hold the rank, what the parts are and what bounds them.

    Raises:
        UserError: if there is no training landscape, n is too large for dense eigenvectors, or the two are not of the
            same parameters.
    """
    if training is None:
        raise UserError("segment needs two sets of data: a training landscape besides the one that is measured on")
    refuse_large(training.size, INSTEAD)
    if training.parameters.names != validation.parameters.names:
        raise UserError("training and validation must have the same parameters, and theirs differ in name")
    spectrum = SpectrumSettings(operator=operator, strategy=strategy)
    one, two = (make_operator(each.to(dtype=torch.float64), spectrum) for each in (training, validation))
    theta, width, log_scale = training.theta.double(), None, 0.0
    if prior.proper:
        scale = prior.scale(training.size).to(training.device)
        log_scale = 0.0 if bool((scale == scale[0]).all()) else float(scale.log().sum())
        two, _, _ = prior_units(two, theta, scale)
        one, theta, width = prior_units(one, theta, scale)
    segment = segment_volume(
        one,
        two,
        float(max(cutoffs)),
        standard_deviation=width,
        k=settings.k,
        tolerance=settings.rank_tolerance or None,
        negative=settings.negative,
        log_scale=log_scale,
        reach=float(theta.norm()),
    )
    found = (from_segment(segment.at(float(T)), training.samples) for T in cutoffs)
    return tuple(with_slope(each, fall > TELL * T) for each, T in zip(found, cutoffs, strict=True))


def from_segment(segment: SegmentVolume, samples: float) -> MethodResult:
    """The result of ``segment_volume``.

    Args:
        segment: the basin segment.
        samples: of the training data.

    Returns:
        The result.
    """
    figures = {
        "rank": segment.rank,
        "rank_tolerance": segment.training.tolerance,
        "rank_gap": segment.training.gap,
        "zero_dimension": segment.zero_dimension,
        "unseen_dimension": segment.unbounded,
        "shifted_dimension": segment.shifted,
        "shift": segment.shift,
        "log_cross_section": segment.log_cross_section,
        "log_extent": segment.log_extent,
        "training_samples": samples,
    }
    estimate = Estimate(segment.log_volume, cautions=segment.cautions)
    return MethodResult("segment", "lebesgue", estimate=estimate, figures=figures)


def _at(work: VolumeWork, cutoffs: Cutoffs) -> tuple[MethodResult, ...]:
    work.tell(0, 1, "segment: dense eigenvectors")
    # One product chooses the strategy, for the segment as for the rest.
    work.operator.matvec(work.landscape.theta)
    return segment_results(
        work.training,
        work.landscape,
        cutoffs,
        work.settings,
        operator=work.operator_name,
        prior=work.prior,
        fall=work.fall,
        strategy=work.strategy,
    )


def _caption(result: MethodResult) -> str:
    """What a basin segment is made of."""
    found = result.figures
    return (
        f"segment: {found['log_cross_section']:,.1f} nat across, in {found['rank']:,.0f} dimensions that "
        f"{found['training_samples']:,.0f} training samples see, and {found['log_extent']:,.1f} along, in "
        f"{found['zero_dimension']:,.0f} of which {found['unseen_dimension']:,.0f} are unseen in validation too; rank "
        f"at {found['rank_tolerance']:.2g} of the largest eigenvalue, gap {found['rank_gap']:.3g}, shift "
        f"{found['shift']:.3g}"
    )


ROWS = (MethodRow("segment", _at, caption=_caption, two_sets=True, colour="purple"),)
