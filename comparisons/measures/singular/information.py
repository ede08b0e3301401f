"""The singular fluctuation and WAIC, from the chains that the learning coefficient is read from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comparisons.evidence import Evidence
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures import SAMPLED, TEMPERATURE, chains_expected, sampled_coefficient
from spectra.errors import UserError
from spectra.estimate import Estimate

if TYPE_CHECKING:
    from comparisons.langevin import LocalLearningCoefficient, SampleInformation


def fluctuation(evidence: Evidence, **asked: Any) -> Reading:
    """The singular fluctuation ``b V / 2``: how much the samples' likelihoods vary over the chains."""
    found, information = _information(evidence, asked)
    details = {"functional variance": information.functional_variance.value}
    return _read(found, information.fluctuation, details)


def widely_applicable(evidence: Evidence, **asked: Any) -> Reading:
    """WAIC, ``T + b V / n``: the Bayes generalisation loss as estimated from training data alone."""
    found, information = _information(evidence, asked)
    details = {"training loss": information.training_loss.value, "fluctuation": information.fluctuation.value}
    return _read(found, information.criterion, details)


def _information(evidence: Evidence, asked: dict[str, Any]) -> tuple[LocalLearningCoefficient, SampleInformation]:
    from comparisons.langevin import sample_information

    found = sampled_coefficient(evidence, **asked)
    if not math.isfinite(found.estimate.value):
        raise UserError("; ".join(found.cautions))
    return found, sample_information(evidence.landscape, found.chains)


def _read(found: LocalLearningCoefficient, estimate: Estimate, details: dict[str, float]) -> Reading:
    details |= {
        "inverse temperature": found.chains.inverse_temperature,
        "localisation": found.chains.localisation,
        "draws of samples": float(found.chains.sample_draws * found.chains.kept.shape[0]),
    }
    return reading_of(replace(estimate, cautions=found.cautions), details=details)


MEASURES = (
    Measure(
        "singular-fluctuation",
        "singular fluctuation",
        "learning-coefficient",
        "1",
        "Watanabe 2010",
        "smaller",
        frozenset({"permutation"}),
        ("own-likelihood", "hessian", "drawn-rows"),
        fluctuation,
        options=(TEMPERATURE, *SAMPLED),
        work=chains_expected,
    ),
    Measure(
        "waic",
        "WAIC",
        "learning-coefficient",
        "nat / sample",
        "Watanabe 2010",
        "smaller",
        frozenset({"permutation"}),
        ("own-likelihood", "hessian", "drawn-rows"),
        widely_applicable,
        options=(TEMPERATURE, *SAMPLED),
        work=chains_expected,
    ),
)
