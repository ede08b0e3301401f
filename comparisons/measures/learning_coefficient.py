"""The learning coefficient as rows of the registry: by sampling, from the spectrum, and by volume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comparisons.evidence import Evidence, Extent, Tally, gauss_newton_density, hessian_density
from comparisons.flatness import Measure, Reading, reading_of
from comparisons.measures.route_agreement import disagreements
from comparisons.options import Option
from comparisons.words import SAMPLERS
from spectra.errors import UserError

if TYPE_CHECKING:
    from comparisons.langevin import ChainSettings, LocalLearningCoefficient

LOCALISATION = 100.0
CHAINS, DRAWS, BATCH_SIZE = 8, 500, 64
LEAST_DRAWS = 50
# Metropolis checks of a run without a budget, two gradients a chain each.
CHECKS = 4
# States of a chain at which each sample's cost is computed, a third of a gradient each: WAIC is from these chains too.
SAMPLE_DRAWS = 16
# Steps that the spectrum makes of the burn-in of the digits networks, 100 to 310: what is expected before it is known.
LIKELY_BURN_IN = 200
_PERMUTED = frozenset({"permutation"})

LOCALISED = Option(
    "localisation", LOCALISATION, "g of the pull g/2 |w - w*|² to the checkpoint, 1 / parameter²", above=0.0
)
TEMPERATURE = Option(
    "inverse-temperature", None, "samples times inverse temperature", float, usual="n / log n of n samples", above=0.0
)
# What decides the chains of all measures that are read from them, beside the temperature.
SAMPLED = (
    LOCALISED,
    Option("chains", CHAINS, "number of chains", least=1),
    Option(
        "draws", None, "steps of a chain after the burn-in", int, usual=f"{DRAWS}, or what --budget leaves", least=1
    ),
    Option("burn-in", None, "steps thrown away", int, usual="five relaxation times, by the spectrum", least=0),
    Option("step-size", None, "step size", float, usual="a twentieth of the limit, by the spectrum", above=0.0),
    Option(
        "batch-size",
        None,
        "rows of a minibatch, at most all",
        int,
        usual=f"{BATCH_SIZE}; all rows for mala",
        least=1,
    ),
    Option(
        "sampler",
        SAMPLERS[0],
        "of the chains: plain, preconditioned, or exact for small models",
        words=SAMPLERS,
    ),
)


def inverse_temperature(evidence: Evidence) -> float:
    """``nb = n / log n`` of n samples."""
    samples = evidence.landscape.samples
    if samples <= 2.0:
        raise UserError(f"the inverse temperature n / log n needs more than two samples, got {samples:g}")
    return samples / math.log(samples)


def chain_settings(evidence: Evidence, *, stream: str = "chain", **asked: Any) -> ChainSettings:
    """Settings of the registry's chains: draws from the budget; the spectrum is to set step size and burn-in.

    Args:
        evidence: evidence of a checkpoint.
        stream: name of the random numbers.
        **asked: options of ``SAMPLED`` and the inverse temperature, by keyword; None where the usual is taken.
    """
    from comparisons.langevin import ChainSettings, row_count

    given = {name: value for name, value in asked.items() if value is not None}
    rows, budget = row_count(evidence.landscape), evidence.settings.budget
    chains, size = given.pop("chains", CHAINS), batch_size(given, rows)
    given.pop("batch_size", None)
    usual = ChainSettings(
        inverse_temperature=given.pop("inverse_temperature", None) or inverse_temperature(evidence),
        localisation=LOCALISATION,
        chains=chains,
        draws=DRAWS if budget is None else max(LEAST_DRAWS, int(budget * rows / size / chains)),
        batch_size=size,
        checks=CHECKS if budget is None else 0,
        seed=evidence.settings.seed,
        stream=stream,
        sample_draws=SAMPLE_DRAWS if not evidence.missing("own-likelihood") else 0,
    )
    return replace(usual, **given)


def batch_size(asked: Mapping[str, Any], rows: int) -> int:
    """Rows of a minibatch, of all rows there are.

    Raises:
        UserError: if a number was given to a sampler that takes all rows.
    """
    given = asked.get("batch_size")
    if asked.get("sampler") != "mala":
        return min(given or BATCH_SIZE, rows)
    if given is not None and given < rows:
        raise UserError(f"batch-size must be left out with sampler mala, which takes all {rows} rows, got {given}")
    return rows


def chain_work(extent: Extent, asked: Mapping[str, Any]) -> float:
    """Gradients that chains of these options are expected to take."""
    budget, size = extent.settings.budget, batch_size(asked, extent.rows)
    each = asked["chains"] * size / extent.rows
    draws = asked["draws"] or (DRAWS if budget is None else max(LEAST_DRAWS, budget / each))
    burn_in = LIKELY_BURN_IN if asked["burn_in"] is None else asked["burn_in"]
    checked = 2.0 * CHECKS if budget is None and asked["sampler"] != "mala" else 0.0
    return float(each * (draws + burn_in)) + float(asked["chains"]) * (checked + SAMPLE_DRAWS / 3.0)


def chains_expected(extent: Extent, asked: Mapping[str, Any]) -> dict[str, float]:
    """The items of evidence behind chains, and the gradients of each."""
    named = {name: asked.get(name) for name in ("inverse_temperature", *(one.keyword for one in SAMPLED))}
    return {**extent.spectrum("hessian"), f"chains {named}": chain_work(extent, asked)}


def sampled_coefficient(evidence: Evidence, *, stream: str = "chain", **asked: Any) -> LocalLearningCoefficient:
    """The chains as evidence: step size and burn-in from the spectrum, draws from the budget.

    Args:
        evidence: evidence of a checkpoint.
        stream: name of the random numbers.
        **asked: as for ``chain_settings``.
    """
    from comparisons.langevin import local_learning_coefficient

    settings = chain_settings(evidence, stream=stream, **asked)

    def build(tally: Tally) -> LocalLearningCoefficient:
        found = local_learning_coefficient(evidence.landscape, settings, density=hessian_density(evidence))
        tally.gradients += found.chains.gradient_evaluations
        return found

    return evidence.item(f"chains {settings}", build)


def local_coefficient(evidence: Evidence, **asked: Any) -> Reading:
    """The local learning coefficient by Langevin chains, their diagnostics in the details."""
    found = sampled_coefficient(evidence, **asked)
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
    if chains.factors is not None:
        details["least factor"] = float(chains.factors.min())
    estimate = found.estimate
    if found.prediction is not None:
        details |= {"spectrum": found.prediction.value.value, "step limit": found.prediction.step_limit}
        apart = disagreements({"chains": estimate, "spectrum": found.prediction.value})
        estimate = replace(estimate, cautions=estimate.cautions + apart)
    traces = {"rise": chains.rises}
    return replace(reading_of(estimate, details=details), traces=traces)


def spectral_coefficient(evidence: Evidence, *, localisation: float = LOCALISATION, **asked: Any) -> Reading:
    """Half the effective dimension of the Gauss-Newton matrix, at the temperature and localisation of the chains."""
    from comparisons.langevin import half_effective_dimension

    nb = asked.get("inverse_temperature") or inverse_temperature(evidence)
    density = gauss_newton_density(evidence)
    found = half_effective_dimension(density, inverse_temperature=nb, localisation=localisation)
    return reading_of(found, details={"inverse temperature": nb, "localisation": localisation})


MEASURES = (
    Measure(
        "learning-coefficient",
        "local learning coefficient, chains",
        "learning-coefficient",
        "1",
        "Lau et al. 2024",
        "smaller",
        _PERMUTED,
        ("hessian", "drawn-rows"),
        local_coefficient,
        options=(TEMPERATURE, *SAMPLED),
        work=chains_expected,
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
        options=(TEMPERATURE, LOCALISED),
        work=lambda extent, _: extent.spectrum("gauss-newton"),
    ),
)
