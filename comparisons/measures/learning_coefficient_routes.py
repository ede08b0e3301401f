"""Further routes to the learning coefficient as rows: WBIC, two temperatures, the slope of log V."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from comparisons.evidence import (
    GRADIENTS_PER_EVALUATION,
    Evidence,
    EvidenceSettings,
    Extent,
    Tally,
    hessian_density,
)
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures.learning_coefficient import (
    SAMPLED,
    TEMPERATURE,
    chain_work,
    chains_expected,
    sampled_coefficient,
)
from comparisons.measures.route_agreement import disagreements
from comparisons.options import Option
from comparisons.words import RAY_NODES
from spectra.errors import UserError
from spectra.estimate import Estimate

if TYPE_CHECKING:
    from comparisons.langevin import LocalLearningCoefficient

Array = NDArray[np.float64]
# The second temperature of the two is this many times lower.
COOLER = 2.0
DIRECTIONS = 128
_PERMUTED = frozenset({"permutation"})


def criterion(evidence: Evidence, **asked: Any) -> Reading:
    """WBIC: ``E[n L]`` at the inverse temperature ``1 / log n``, with the localisation as its prior."""
    from comparisons.langevin import widely_applicable_criterion

    found = _usable(sampled_coefficient(evidence, **asked))
    return _read(found, widely_applicable_criterion(evidence.landscape, found.chains), found.cautions)


def two_temperatures(evidence: Evidence, *, cooler: float = COOLER, **asked: Any) -> Reading:
    """``(E_1[nL] - E_2[nL]) / (1/b_1 - 1/b_2)``, b_2 twice b_1: no value at the checkpoint enters.

    On a quadratic it is ``1/2 sum s_1 s_2``, ``s_i = n b_i h / (n b_i h + g)``, and so below the coefficient.

    Args:
        evidence: evidence of a checkpoint.
        cooler: times that the second temperature is lower; its chains have random numbers of their own.
        **asked: options of the chains.

    Returns:
        The reading.
    """
    from comparisons.langevin import two_temperature_coefficient

    warm = _usable(sampled_coefficient(evidence, **asked))
    nb, localisation = warm.chains.inverse_temperature, warm.chains.localisation
    asked["inverse_temperature"] = cooler * nb
    cool = _usable(sampled_coefficient(evidence, stream="cooler-chain", **asked))
    cautions = tuple(dict.fromkeys(warm.cautions + cool.cautions))

    def predicted(h: Array) -> Array:
        return 0.5 * _bound(h, nb, localisation) * _bound(h, cooler * nb, localisation)

    spectrum = hessian_density(evidence).integrate(predicted)
    reading = _read(warm, two_temperature_coefficient(warm.chains, cool.chains), cautions)
    return replace(reading, details={**reading.details, "spectrum": spectrum.value})


def slope_of_log_volume(evidence: Evidence, *, directions: int | None = None, **asked: Any) -> Reading:
    """The learning coefficient by ``d log V / d log c``, beside the chains and the spectrum, and whether they agree.

    Args:
        evidence: evidence of a checkpoint.
        directions: number of rays; None for what the budget leaves.
        **asked: options of the chains, whose temperature and localisation are the rays' too.

    Returns:
        The reading.
    """
    from comparisons.langevin import tempered_slope

    sampled = sampled_coefficient(evidence, **asked)
    nb, localisation = sampled.chains.inverse_temperature, sampled.chains.localisation

    def build(tally: Tally) -> Estimate:
        many = directions or _directions(evidence.settings)
        tally.evaluations += many * RAY_NODES
        return tempered_slope(
            evidence.landscape,
            inverse_temperature=nb,
            localisation=localisation,
            directions=many,
            seed=evidence.settings.seed,
        )

    slope = evidence.item("tempered-slope", build)
    routes: dict[str, Estimate] = {"volume": slope, "chains": sampled.estimate}
    if sampled.prediction is not None:
        routes["spectrum"] = sampled.prediction.value_without_step
    details = {name: route.value for name, route in routes.items() if name != "volume"}
    details |= {"inverse temperature": nb, "localisation": localisation}
    return reading_of(replace(slope, cautions=slope.cautions + disagreements(routes)), details=details)


def _directions(settings: EvidenceSettings) -> int:
    budget = settings.budget
    return DIRECTIONS if budget is None else max(2, int(budget / GRADIENTS_PER_EVALUATION / RAY_NODES))


def _bound(h: Array, nb: float, localisation: float) -> Array:
    """``nb h / (nb h + g)``."""
    return np.asarray(nb * h / (nb * h + localisation))


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


def _two_chains(extent: Extent, asked: Mapping[str, Any]) -> dict[str, float]:
    return {**chains_expected(extent, asked), "cooler-chains": chain_work(extent, asked)}


def _with_rays(extent: Extent, asked: Mapping[str, Any]) -> dict[str, float]:
    many = asked["directions"] or _directions(extent.settings)
    return {**chains_expected(extent, asked), "tempered-slope": GRADIENTS_PER_EVALUATION * RAY_NODES * many}


MEASURES = (
    Measure(
        "wbic",
        "WBIC",
        "learning-coefficient",
        "nat",
        "Watanabe 2013",
        "smaller",
        _PERMUTED,
        ("likelihood", "hessian", "drawn-rows"),
        criterion,
        options=SAMPLED,
        work=chains_expected,
    ),
    Measure(
        "two-temperatures",
        "learning coefficient, two temperatures",
        "learning-coefficient",
        "1",
        "Watanabe 2013",
        "smaller",
        _PERMUTED,
        ("hessian", "drawn-rows"),
        two_temperatures,
        options=(
            TEMPERATURE,
            *SAMPLED,
            Option("cooler", COOLER, "times that the second temperature is lower", above=1.0),
        ),
        work=_two_chains,
    ),
    Measure(
        "volume-slope",
        "learning coefficient, slope of log V",
        "learning-coefficient",
        "1",
        "Watanabe 2009",
        "smaller",
        _PERMUTED,
        ("hessian", "drawn-rows"),
        slope_of_log_volume,
        options=(
            TEMPERATURE,
            *SAMPLED,
            Option("directions", None, "number of rays", int, usual=f"{DIRECTIONS}, or what --budget leaves", least=2),
        ),
        work=_with_rays,
    ),
)
