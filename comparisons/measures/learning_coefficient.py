"""The learning coefficient as rows of the registry: by sampling, from the spectrum, and by volume."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from comparisons.evidence import Evidence, Tally, gauss_newton_density, hessian_density
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures.route_agreement import disagreements
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.langevin import ChainSettings, LocalLearningCoefficient

LOCALISATION = 100.0
LEAST_DRAWS = 50
_PERMUTED = frozenset({"permutation"})


def inverse_temperature(evidence: Evidence) -> float:
    """``nb = n / log n`` of n samples."""
    samples = evidence.landscape.samples
    if samples <= 2.0:
        raise UserError(f"the inverse temperature n / log n needs more than two samples, got {samples:g}")
    return samples / math.log(samples)


def chain_settings(evidence: Evidence, *, stream: str = "chain") -> ChainSettings:
    """Settings of the registry's chains: draws from the budget; the spectrum is to set step size and burn-in."""
    from comparisons.langevin import ChainSettings, row_count

    rows, budget = row_count(evidence.landscape), evidence.settings.budget
    chains, size = 8, min(64, rows)
    draws = 500 if budget is None else max(LEAST_DRAWS, int(budget * rows / size / chains))
    return ChainSettings(
        inverse_temperature=inverse_temperature(evidence),
        localisation=LOCALISATION,
        chains=chains,
        draws=draws,
        batch_size=size,
        checks=4 if budget is None else 0,
        seed=evidence.settings.seed,
        stream=stream,
    )


def sampled_coefficient(evidence: Evidence) -> LocalLearningCoefficient:
    """The chains as evidence: step size and burn-in from the spectrum, draws from the budget."""
    from comparisons.langevin import local_learning_coefficient

    def build(tally: Tally) -> LocalLearningCoefficient:
        settings = chain_settings(evidence)
        found = local_learning_coefficient(evidence.landscape, settings, density=hessian_density(evidence))
        tally.gradients += found.chains.gradient_evaluations
        return found

    return evidence.item("chains", build)


def local_coefficient(evidence: Evidence) -> Reading:
    """The local learning coefficient by stochastic gradient Langevin dynamics, its diagnostics in the details."""
    found = sampled_coefficient(evidence)
    if not math.isfinite(found.estimate.value):
        raise UserError("; ".join(found.cautions))
    chains = found.chains
    details = {
        "R-hat": chains.scale_reduction,
        "effective samples": chains.effective_samples,
        "acceptance": chains.mean_acceptance,
        "negative steps": chains.negative_share,
        "failed chains": float(chains.failed.sum()),
        "step size": chains.step_size,
        "burn-in": float(chains.burn_in),
        "inverse temperature": chains.inverse_temperature,
        "localisation": chains.localisation,
        "gradient norm": found.stationarity.gradient_norm,
    }
    estimate = found.estimate
    if found.prediction is not None:
        details |= {"spectrum": found.prediction.value.value, "step limit": found.prediction.step_limit}
        apart = disagreements({"chains": estimate, "spectrum": found.prediction.value})
        estimate = replace(estimate, cautions=estimate.cautions + apart)
    traces = {"rise": chains.rises}
    return replace(reading_of(estimate, details=details), traces=traces)


def spectral_coefficient(evidence: Evidence) -> Reading:
    """Half the effective dimension of the Gauss-Newton matrix, at the temperature and localisation of the chains."""
    from comparisons.langevin import half_effective_dimension

    nb = inverse_temperature(evidence)
    density = gauss_newton_density(evidence)
    found = half_effective_dimension(density, inverse_temperature=nb, localisation=LOCALISATION)
    return reading_of(found, details={"inverse temperature": nb, "localisation": LOCALISATION})


MEASURES = (
    Measure(
        "learning-coefficient",
        "local learning coefficient, chains",
        "learning-coefficient",
        "1",
        "Lau et al. 2024",
        "smaller",
        _PERMUTED,
        ("hessian",),
        local_coefficient,
    ),
    Measure(
        "half-effective-dimension",
        "half the effective dimension",
        "learning-coefficient",
        "1",
        "MacKay 1992",
        "smaller",
        _PERMUTED,
        ("likelihood", "gauss-newton"),
        spectral_coefficient,
    ),
)
