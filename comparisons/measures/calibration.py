"""The calibration error: how far a classifier's confidence is from its share of right answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from comparisons.evidence import GRADIENTS_PER_EVALUATION, Evidence, Extent, Tally
from comparisons.flatness import EVERY_INVARIANCE, Measure, Reading
from comparisons.options import Option
from spectra.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectra.landscape import Landscape

BINS = 15
_TRAINING, _HELD_OUT = "training", "held-out"


def calibration_error(evidence: Evidence, *, bins: int = BINS, data: str = _TRAINING) -> Reading:
    """``sum_b n_b / N |mean confidence - accuracy|`` over bins of equal width, of the probability of the first choice.

    A bin holds the confidences in ``(lower, upper]``, and an empty one counts nothing. The estimate is never negative,
    so that a calibrated model has some error by chance: the details say how much to expect of it.

    Raises:
        UserError: if held-out data is asked for and there is none.

    Reference:
        Guo et al., On calibration of modern neural networks, 2017.
    """
    landscape = evidence.landscape
    if data == _HELD_OUT:
        if evidence.held_out is None:
            raise UserError(evidence.missing("held-out"))
        landscape = evidence.held_out

    def build(tally: Tally) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        tally.evaluations += 1
        return confidences(landscape)

    confidence, right = evidence.item(f"confidences {data}", build)
    value, chance = binned_error(confidence, right, bins)
    details = {
        "accuracy": float(right.mean()),
        "mean confidence": float(confidence.mean()),
        "expected of a calibrated model": chance,
    }
    return Reading(value, details=details)


def confidences(landscape: Landscape) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The largest probability that a classifier gives each sample, and whether its class is the right one.

    Args:
        landscape: cross-entropy with classes as targets.

    Returns:
        Two arrays (samples,); samples to ignore are left out.

    Raises:
        UserError: if the cost is another.
    """
    import torch

    from spectra.costs import CrossEntropy

    cost, likelihood = landscape.softmax, landscape.likelihood
    if likelihood is None or not isinstance(cost, CrossEntropy):
        raise UserError("a calibration error needs the cost cross_entropy")
    found = []
    for outputs, batch in zip(landscape.outputs(), landscape.iterate(), strict=True):
        classes = likelihood.own_targets(batch.targets)
        if classes.is_floating_point():
            raise UserError("a calibration error needs classes as targets, got probabilities")
        rows, classes = likelihood.rows(outputs, batch.targets).double(), classes.reshape(-1)
        kept = classes != cost.ignore_index
        largest, chosen = rows[kept].softmax(-1).max(-1)
        found.append(torch.stack([largest, (chosen == classes[kept]).double()]).cpu())
    confidence, right = torch.cat(found, 1).numpy()
    return confidence, right > 0.5


def binned_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int) -> tuple[float, float]:
    """The expected calibration error over bins of equal width in (0, 1], and what chance makes of a calibrated model.

    In a bin of n samples of mean confidence p a calibrated model has an accuracy that is off by
    ``sqrt(2 v / pi) / n`` on average, v the sum of ``p_i (1 - p_i)``.

    >>> error, _ = binned_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]), 10)
    >>> round(error, 9)  # 2/3 of 0.4 and 1/3 of 0.4
    0.4
    """
    place = np.ceil(confidence * bins).astype(int).clip(1, bins)
    gaps = np.bincount(place, confidence - right, bins + 1)
    spread = np.bincount(place, confidence * (1.0 - confidence), bins + 1)
    return float(np.abs(gaps).sum() / len(right)), float(np.sqrt(2.0 / math.pi * spread).sum() / len(right))


def _work(_: Extent, __: object) -> dict[str, float]:
    return {"confidences": GRADIENTS_PER_EVALUATION}


MEASURES = (
    Measure(
        "calibration-error",
        "expected calibration error",
        "norms",
        "1",
        "Guo et al. 2017",
        "smaller",
        EVERY_INVARIANCE,
        ("classes",),
        calibration_error,
        options=(
            Option("bins", BINS, "bins of equal width of the confidence", least=1),
            Option("data", _TRAINING, "rows that it is measured on", words=(_TRAINING, _HELD_OUT)),
        ),
        work=_work,
    ),
)
