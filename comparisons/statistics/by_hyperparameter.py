"""Where each measure stands once hyperparameters and seeds are held apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparisons.comparison import Comparison
from comparisons.flatness import Measure
from comparisons.measures import measures_of
from comparisons.statistics.extensive import incomparable
from comparisons.statistics.granulated import granulated_kendall, least_information, mean_granulated
from comparisons.statistics.hyperparameters import SEED, Codes, encoded, groups, varying
from comparisons.statistics.rankings import turned
from comparisons.statistics.seed_variance import VarianceShares, variance_shares
from comparisons.statistics.worst_pairs import SignErrors, sign_errors
from comparisons.targets import target_values
from comparisons.words import FEWEST

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GranulatedRanking:
    """One measure beside the target, given hyperparameters.

    Attributes:
        measure: its name.
        psi: mean of ``granulated``; nan if no hyperparameter has a value.
        granulated: mean rank correlation over changes of one hyperparameter alone, by its name.
        information: the least conditional information about the target's order, of 1; nan if there is none.
        information_given: the hyperparameters of which it is the least.
        variance: split between configurations and seeds; None where no configuration has two seeds.
        sign_errors: over pairs of configurations that differ in one hyperparameter; None where there are none.
    """

    measure: str
    psi: float
    granulated: Mapping[str, float]
    information: float
    information_given: tuple[str, ...]
    variance: VarianceShares | None
    sign_errors: SignErrors | None


def granulated_rankings(comparison: Comparison, against: str) -> tuple[GranulatedRanking, ...]:
    """How each measure stands against a target within and across hyperparameters.

    Args:
        comparison: comparison of some checkpoints.
        against: the target, see ``target_values``; a hyperparameter is then no condition itself.

    Returns:
        A standing for each measure with values at ``FEWEST`` checkpoints or more, those that are ``incomparable`` left
        out; none where no hyperparameter varies.

    Raises:
        UserError: if no checkpoint has the target.
    """
    target = target_values(comparison, against)
    rows = [one.hyperparameters for one in comparison.done]
    codes = {name: column for name, column in varying(rows).items() if name != against}
    if not codes:
        return ()
    seeds = encoded([row[SEED] for row in rows]) if all(SEED in row for row in rows) else None
    left_out = incomparable(comparison)
    measures = [one for one in measures_of(comparison.measures) if one.name not in left_out]
    samples = _counted_on(comparison) if against == "error-gap" else None
    found = [_standing(comparison, measure, target, codes, seeds, samples) for measure in measures]
    return tuple(one for one in found if one is not None)


def _counted_on(comparison: Comparison) -> float | None:
    """The fewest samples that a held-out error rate was counted on; None where a file does not say."""
    samples = min(one.held_out_samples for one in comparison.done)
    return samples if samples > 0.0 else None


def _standing(
    comparison: Comparison,
    measure: Measure,
    target: Array,
    codes: Mapping[str, Codes],
    seeds: Codes | None,
    samples: float | None,
) -> GranulatedRanking | None:
    values = turned(comparison, measure)
    both = np.isfinite(values) & np.isfinite(target)
    if both.sum() < FEWEST:
        return None
    here = {name: column[both] for name, column in codes.items()}
    granulated = granulated_kendall(values[both], target[both], here, None if seeds is None else seeds[both])
    information, given = least_information(values[both], target[both], here)
    known = np.isfinite(values)
    errors = np.array([_standard_error(comparison, int(place), measure.name) for place in np.flatnonzero(known)])
    configurations = groups([column[known] for column in codes.values()], int(known.sum()))
    variance = None if seeds is None else variance_shares(values[known], configurations, errors)
    wrong = sign_errors(values[both], target[both], here, held_out_samples=samples)
    psi = mean_granulated(granulated)
    return GranulatedRanking(measure.name, psi, granulated, information, given, variance, wrong)


def _standard_error(comparison: Comparison, place: int, measure: str) -> float:
    reading = comparison.done[place].outcomes[measure].reading
    return math.nan if reading is None else reading.standard_error
