"""How often a measure orders two configurations wrongly, in the worst pair that differs in one hyperparameter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparisons.statistics.hyperparameters import Codes, groups

Array = NDArray[np.float64]
# Pairs whose targets differ with less than this probability are noise, as in the paper.
LEAST_WEIGHT = 0.5


@dataclass(frozen=True)
class SignErrors:
    """Sign errors of one measure over environments: 0 always ordered as the target, 1/2 as a coin does, 1 never.

    Attributes:
        environments: pairs of configurations that differ in one hyperparameter alone, with something to order.
        discarded: such pairs whose targets differ by no more than the held-out sample's noise.
        mean: over environments.
        worst: the robust sign error, the largest over environments; nan without any.
        worst_in: the hyperparameter that differs there; empty without any.
        by_hyperparameter: the largest among the environments of each hyperparameter.
    """

    environments: int
    discarded: int
    mean: float
    worst: float
    worst_in: str
    by_hyperparameter: Mapping[str, float]


def sign_errors(
    x: Array, y: Array, hyperparameters: Mapping[str, Codes], *, held_out_samples: float | None = None
) -> SignErrors | None:
    r"""``(1 - sign(x_a - x_b) sign(y_a - y_b)) / 2``, its mean over seeds in each environment, and its maximum.

    An environment is a pair of configurations that differ in one hyperparameter; a and b are any runs of the two. Of
    error rates y that were counted on so many held-out samples, pairs are weighed by Hoeffding's bound on the chance
    that their errors differ, less a half. There is none if no two configurations differ in one hyperparameter alone.

    Reference:
        Dziugaite et al., In search of robust measures of generalization, 2020.

    >>> codes = {"width": np.array([0, 0, 1, 1]), "batch": np.array([0, 1, 0, 1])}
    >>> found = sign_errors(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 3.0, 2.0]), codes)
    >>> found.mean, found.worst, found.worst_in, found.by_hyperparameter
    (0.5, 1.0, 'batch', {'width': 0.0, 'batch': 1.0})
    """
    names = list(hyperparameters)
    setting = groups(list(hyperparameters.values()), len(x))
    members = [np.flatnonzero(setting == number) for number in range(int(setting.max()) + 1)]
    where = np.stack([[codes[one[0]] for one in members] for codes in hyperparameters.values()], axis=1)
    wrong = 0.5 * (1.0 - np.sign(x[:, None] - x[None, :]) * np.sign(y[:, None] - y[None, :]))
    weights = np.ones_like(wrong) if held_out_samples is None else noise_weights(y, held_out_samples)
    found: list[tuple[float, str]] = []
    discarded = 0
    for one, two in itertools.combinations(range(len(members)), 2):
        differing = np.flatnonzero(where[one] != where[two])
        if len(differing) != 1:
            continue
        pairs = np.ix_(members[one], members[two])
        total = float(weights[pairs].sum())
        if total == 0.0:
            discarded += 1
        else:
            found.append((float((weights[pairs] * wrong[pairs]).sum()) / total, names[differing[0]]))
    return _summary(found, discarded, names) if found or discarded else None


def noise_weights(y: Array, samples: float) -> Array:
    """``max(0, (1 - 2 exp(-N (y_a - y_b)^2 / 2))_+^2 - 1/2)`` (k, k): 0 for pairs that N samples do not tell apart.

    >>> noise_weights(np.array([0.0, 0.01, 0.1]), 1000.0)[0].round(3).tolist()
    [0.0, 0.0, 0.473]
    """
    apart = np.abs(y[:, None] - y[None, :])
    different = np.maximum(0.0, 1.0 - 2.0 * np.exp(-0.5 * samples * apart**2)) ** 2
    return np.maximum(different - LEAST_WEIGHT, 0.0)


def _summary(found: list[tuple[float, str]], discarded: int, names: list[str]) -> SignErrors:
    if not found:
        return SignErrors(0, discarded, float("nan"), float("nan"), "", {})
    worst, worst_in = max(found, key=lambda one: one[0])
    largest = {name: max((error for error, axis in found if axis == name), default=float("nan")) for name in names}
    mean = float(np.mean([error for error, _ in found]))
    return SignErrors(len(found), discarded, mean, worst, worst_in, largest)
