"""A reading from several estimates that share their probes: value, paired error, what truncation does to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from comparisons.flatness import Reading, reading_of
from spectra.errors import UserError
from spectra.estimate import Estimate, jackknife


def combined(
    function: Callable[..., float],
    *estimates: Estimate,
    details: Mapping[str, float] | None = None,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> Reading:
    """``function(values)`` with the jackknife's error over the probes that the estimates share.

    Args:
        function: function of as many numbers as there are estimates; smooth near their values.
        *estimates: estimates from common probes, or exact.
        details: further numbers by name.
        lowest: least value that the combination can have.
        highest: largest one.

    Returns:
        The reading, its value in the range; truncation errors are carried one by one and added. An error is unknown
        (inf) where the function has no value without a probe, or within a truncation error.

    Raises:
        UserError: if the numbers of probes differ.

    >>> combined(lambda a, b: a / b, Estimate(1.0), Estimate(4.0)).value
    0.25
    """
    values = [one.value for one in estimates]
    counts = {len(one.samples) for one in estimates if len(one.samples)}
    if len(counts) > 1:
        raise UserError(f"estimates must share their probes, got {sorted(counts)} of them")
    centre = function(*values)
    truncation = 0.0
    for place, one in enumerate(estimates):
        if one.truncation_error > 0.0:
            moved = [value + (one.truncation_error if i == place else 0.0) for i, value in enumerate(values)]
            truncation += abs(_at(function, moved) - centre)
    cautions = tuple(dict.fromkeys(text for one in estimates for text in one.cautions))
    samples = counts.pop() if counts else 0
    found = Estimate(
        value=centre,
        standard_error=_standard_error(function, estimates, samples),
        truncation_error=truncation if math.isfinite(truncation) else math.inf,
        cautions=cautions,
        freedom=samples - 1.0 if samples else math.inf,
        lowest=lowest,
        highest=highest,
    )
    return reading_of(found.possible(), details=details)


def ratio(part: float, whole: float) -> float:
    """``part / whole``; nan where the whole is zero, as that of some probes may be.

    >>> ratio(1.0, 4.0), ratio(1.0, 0.0)
    (0.25, nan)
    """
    return part / whole if whole != 0.0 else math.nan


def not_zero(estimate: Estimate) -> Estimate:
    """The estimate of a sum of magnitudes, of which shares are to be taken."""
    if estimate.value <= 0.0:
        raise UserError("the curvature is zero, so shares of it have no meaning")
    return estimate


def _at(function: Callable[..., float], values: list[float]) -> float:
    return function(*values) if all(map(math.isfinite, values)) else math.nan


def _standard_error(function: Callable[..., float], estimates: tuple[Estimate, ...], samples: int) -> float:
    if samples == 0:
        return 0.0
    if samples == 1:
        return math.inf
    rows = [
        (one.samples.sum() - one.samples) / (samples - 1) if len(one.samples) else np.full(samples, one.value)
        for one in estimates
    ]
    left_out = np.array([function(*(float(x) for x in column)) for column in zip(*rows, strict=True)])
    error = jackknife(left_out)
    return error if math.isfinite(error) else math.inf
