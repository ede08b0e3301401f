"""The method ``segment``: the basin segment of two landscapes, training and validation, under a study's settings."""

from __future__ import annotations

import torch

from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.method_result import MethodResult
from volume.methods.determinants import with_slope
from volume.methods.method import Cutoffs, MethodRow
from volume.methods.work import VolumeWork
from volume.prior_units import prior_units
from volume.quadratic import INSTEAD, SegmentVolume, refuse_large, segment_volume


def _at(work: VolumeWork, cutoffs: Cutoffs) -> tuple[MethodResult, ...]:
    """Curvatures in float64, in the units of the prior if it has a width, which then bounds the zero manifold."""
    training, validation, settings = work.training, work.landscape, work.settings
    work.tell(0, 1, "segment: dense eigenvectors")
    # One product chooses the strategy, for the segment as for the rest.
    work.operator.matvec(validation.theta)
    if training is None:
        raise UserError("segment needs two sets of data: a training landscape besides the one that is measured on")
    refuse_large(training.size, INSTEAD)
    if training.parameters.names != validation.parameters.names:
        raise UserError("training and validation must have the same parameters, and theirs differ in name")
    spectrum = SpectrumSettings(operator=work.operator_name, strategy=work.strategy)
    one, two = (make_operator(each.to(dtype=torch.float64), spectrum) for each in (training, validation))
    theta, width, log_scale = training.theta.double(), None, 0.0
    if work.prior.proper:
        scale = work.prior.scale(training.size).to(training.device)
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
    return with_slope(work, cutoffs, [_result(segment.at(float(T)), training.samples) for T in cutoffs])


def _result(segment: SegmentVolume, samples: float) -> MethodResult:
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


ROWS = (
    MethodRow(
        "segment",
        _at,
        caption="segment: {log_cross_section:,.1f} nat across, in {rank:,.0f} dimensions that {training_samples:,.0f} "
        "training samples see, and {log_extent:,.1f} along, in {zero_dimension:,.0f} of which {unseen_dimension:,.0f} "
        "are unseen in validation too; rank at {rank_tolerance:.2g} of the largest eigenvalue, gap {rank_gap:.3g}, "
        "shift {shift:.3g}",
        two_sets=True,
        colour="purple",
    ),
)
