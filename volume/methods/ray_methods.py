"""The methods that go along rays from the anchor: the star domain, and slices of an ellipsoid."""

from __future__ import annotations

import math
from dataclasses import replace

from volume.method_result import MethodResult
from volume.methods.bits_back import description_length
from volume.methods.method import MethodRow, Sampling
from volume.methods.work import VolumeWork
from volume.preconditioners import Identity
from volume.priors import Lebesgue


def _plain(work: VolumeWork, known: MethodResult | None) -> Sampling:  # noqa: ARG001
    return Sampling(Lebesgue(), Identity(), math.nan)


def described(work: VolumeWork, result: MethodResult, sampling: Sampling | None) -> MethodResult:
    """A mass with what it costs to send the data by the prior restricted to the basin, the cheapest on it."""
    if result.kind == "volume" or result.sampled is None or sampling is None:
        return result
    work.tell(0, 1, "description length")
    length = description_length(
        work.landscape,
        result.sampled,
        work.prior,
        preconditioner=sampling.preconditioner,
        seed=work.settings.seed,
        data=work.data,
    )
    return replace(result, figures={**result.figures, **length.figures})


ROWS = (
    MethodRow(
        "star-domain",
        rays=lambda work, known: Sampling(work.prior, *work.preconditioner(known)),
        finish=described,
        sampled=True,
        mass=True,
        preconditioned=True,
        colour="blue",
        marker="o",
    ),
    MethodRow("ellipsoid-slice", rays=_plain, sampled=True, colour="orange", marker="s"),
    MethodRow(
        "ellipsoid-slice-corrected",
        rays=lambda work, known: replace(_plain(work, known), correction=work.correction),
        sampled=True,
        shifted=True,
        colour="sky",
        marker="D",
    ),
)
