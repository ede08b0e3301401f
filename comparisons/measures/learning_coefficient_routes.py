"""Further routes to the learning coefficient as rows: WBIC, two temperatures, the slope of log V."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from comparisons.evidence import GRADIENTS_PER_EVALUATION, Evidence, Tally, hessian_density
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures.learning_coefficient import (
    LOCALISATION,
    chain_settings,
    inverse_temperature,
    sampled_coefficient,
)
from comparisons.measures.route_agreement import disagreements
from spectra.errors import UserError
from spectra.estimate import Estimate

if TYPE_CHECKING:
    from comparisons.langevin import LocalLearningCoefficient

Array = NDArray[np.float64]
# The second temperature of the two is this many times lower.
COOLER = 2.0
DIRECTIONS = 128
_PERMUTED = frozenset({"permutation"})


def criterion(evidence: Evidence) -> Reading:
    """WBIC: ``E[n L]`` at the inverse temperature ``1 / log n``, with the localisation as its prior."""
    from comparisons.langevin import widely_applicable_criterion

    found = _usable(sampled_coefficient(evidence))
    return _read(found, widely_applicable_criterion(evidence.landscape, found.chains), found.cautions)


def cooler_coefficient(evidence: Evidence) -> LocalLearningCoefficient:
    """The chains at twice the inverse temperature, from random numbers of their own."""
    from comparisons.langevin import local_learning_coefficient

    def build(tally: Tally) -> LocalLearningCoefficient:
        settings = chain_settings(evidence, stream="cooler-chain")
        settings = replace(settings, inverse_temperature=COOLER * inverse_temperature(evidence))
        found = local_learning_coefficient(evidence.landscape, settings, density=hessian_density(evidence))
        tally.gradients += found.chains.gradient_evaluations
        return found

    return evidence.item("cooler-chains", build)


def two_temperatures(evidence: Evidence) -> Reading:
    """``(E_1[nL] - E_2[nL]) / (1/b_1 - 1/b_2)``, b_2 twice b_1: no value at the checkpoint enters.

    On a quadratic it is ``1/2 sum s_1 s_2``, ``s_i = n b_i h / (n b_i h + g)``, and so below the coefficient.
    """
    from comparisons.langevin import two_temperature_coefficient

    warm, cool = _usable(sampled_coefficient(evidence)), _usable(cooler_coefficient(evidence))
    nb = inverse_temperature(evidence)
    cautions = tuple(dict.fromkeys(warm.cautions + cool.cautions))

    def predicted(h: Array) -> Array:
        return 0.5 * _bound(h, nb) * _bound(h, COOLER * nb)

    spectrum = hessian_density(evidence).integrate(predicted)
    reading = _read(warm, two_temperature_coefficient(warm.chains, cool.chains), cautions)
    return replace(reading, details={**reading.details, "spectrum": spectrum.value})


def slope_of_log_volume(evidence: Evidence) -> Reading:
    """The learning coefficient by ``d log V / d log c``, beside the chains and the spectrum, and whether they agree."""
    from comparisons.langevin import NODES, tempered_slope

    nb = inverse_temperature(evidence)

    def build(tally: Tally) -> Estimate:
        budget = evidence.settings.budget
        many = DIRECTIONS if budget is None else max(2, int(budget / GRADIENTS_PER_EVALUATION / NODES))
        tally.evaluations += many * NODES
        return tempered_slope(
            evidence.landscape,
            inverse_temperature=nb,
            localisation=LOCALISATION,
            directions=many,
            seed=evidence.settings.seed,
        )

    slope, chains = evidence.item("tempered-slope", build), sampled_coefficient(evidence)
    routes: dict[str, Estimate] = {"volume": slope, "chains": chains.estimate}
    if chains.prediction is not None:
        routes["spectrum"] = chains.prediction.value_without_step
    details = {name: route.value for name, route in routes.items() if name != "volume"}
    details |= {"inverse temperature": nb, "localisation": LOCALISATION}
    return reading_of(replace(slope, cautions=slope.cautions + disagreements(routes)), details=details)


def _bound(h: Array, nb: float) -> Array:
    """``nb h / (nb h + g)``."""
    return np.asarray(nb * h / (nb * h + LOCALISATION))


def _usable(found: LocalLearningCoefficient) -> LocalLearningCoefficient:
    if not math.isfinite(found.estimate.value):
        raise UserError("; ".join(found.cautions))
    return found


def _read(found: LocalLearningCoefficient, estimate: Estimate, cautions: tuple[str, ...]) -> Reading:
    details: Mapping[str, float] = {
        "inverse temperature": found.chains.inverse_temperature,
        "localisation": found.chains.localisation,
        "R-hat": found.chains.scale_reduction,
        "failed chains": float(found.chains.failed.sum()),
    }
    return reading_of(replace(estimate, cautions=cautions), details=details)


MEASURES = (
    Measure(
        "wbic",
        "WBIC",
        "learning-coefficient",
        "nat",
        "Watanabe 2013",
        "smaller",
        _PERMUTED,
        ("likelihood", "hessian"),
        criterion,
    ),
    Measure(
        "two-temperatures",
        "learning coefficient, two temperatures",
        "learning-coefficient",
        "1",
        "Watanabe 2013",
        "smaller",
        _PERMUTED,
        ("hessian",),
        two_temperatures,
    ),
    Measure(
        "volume-slope",
        "learning coefficient, slope of log V",
        "learning-coefficient",
        "1",
        "Watanabe 2009",
        "smaller",
        _PERMUTED,
        ("hessian",),
        slope_of_log_volume,
    ),
)
