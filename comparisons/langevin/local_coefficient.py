"""The local learning coefficient by Langevin sampling, beside what the spectrum predicts for the same run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from comparisons.langevin.acceptance import LEAST_ACCEPTED
from comparisons.langevin.chains import Chains
from comparisons.langevin.prediction import SHARE_OF_LIMIT, ChainPrediction, predict_chains
from comparisons.langevin.settings import ChainSettings
from comparisons.langevin.shared_chains import sample_chains
from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.estimate import Estimate, independent
from spectra.interval import quantile
from spectra.landscape import Landscape
from volume.descent import Descent, descent

# Vehtari et al. 2021 ask for 1.01 of a final result; above 1.05 chains visibly disagree.
LARGEST_SCALE_REDUCTION = 1.05
# Below this acceptance the discretisation, and not the distribution, makes the value.
LEAST_ACCEPTANCE = 0.5
# The automatic burn-in of a preconditioner is at least that many times what its averages remember.
AVERAGED = 2
# Of a two-sided test of drift, over chains.
DRIFT_LEVEL = 1e-3


@dataclass(frozen=True, eq=False)
class LocalLearningCoefficient:
    """``nb (E L - L*)`` by sampling, with what speaks for and against it.

    Attributes:
        estimate: the value; its samples are the kept chains' means.
        chains: chains of the run.
        prediction: what the spectrum says of the same run; None where no spectrum was given.
        stationarity: what lies below the checkpoint along its slope.
        cautions: sentences on what went wrong, and what to change.
    """

    estimate: Estimate
    chains: Chains
    prediction: ChainPrediction | None
    stationarity: Descent
    cautions: tuple[str, ...]


def local_learning_coefficient(
    landscape: Landscape,
    settings: ChainSettings | None = None,
    *,
    density: SpectralDensity | None = None,
    positions: Tensor | None = None,
) -> LocalLearningCoefficient:
    """Samples around the checkpoint and estimates ``lambda = nb (E L - L*)``.

    The number depends on nb, on the localisation g and on the step size; without them it means nothing.

    Args:
        landscape: the cost; for a network trained with a penalty, with that penalty (l2).
        settings: settings of the run; the step size and burn-in that are not given are set from the spectrum.
        density: spectral density of the Hessian of the mean cost.
        positions: positions in theta (k,) of the parameters that move, of a refined coefficient; None for all. What the
            spectrum of all sets suits them too: their own eigenvalues lie between its ends. But it predicts no value.

    Returns:
        The estimate.

    Raises:
        UserError: if neither the settings nor a spectrum say what the step size or the burn-in is.

    Reference:
        Lau et al., The local learning coefficient, 2024.
    """
    settings = (settings or ChainSettings()).at(landscape)
    prediction = _predicted(settings, density)
    if prediction is not None:
        settings = _completed(settings, prediction)
    chains = sample_chains(landscape, settings, positions=positions)
    if positions is not None:
        prediction = None
    slope = descent(landscape)
    estimate = _estimate(chains)
    unit = landscape.likelihood.unit if landscape.likelihood is not None else "cost"
    reach = max(abs(chains.mean_rise), 1e-300) if math.isfinite(chains.mean_rise) else math.inf
    below = slope.caution(reach, unit)
    stationary = (below.replace("the cutoff", "the mean rise of the chains"),) if below else ()
    cautions = (() if prediction is None else prediction.cautions) + chain_cautions(chains, prediction) + stationary
    return LocalLearningCoefficient(replace(estimate, cautions=cautions), chains, prediction, slope, cautions)


def _predicted(settings: ChainSettings, density: SpectralDensity | None) -> ChainPrediction | None:
    if density is None or settings.localisation == 0.0:
        return None
    assert settings.inverse_temperature is not None
    found = predict_chains(
        density,
        inverse_temperature=settings.inverse_temperature,
        localisation=settings.localisation,
        step_size=settings.step_size,
    )
    # Of preconditioned steps both the limit and the bias are what they can be at most.
    if settings.sampler == "sgld" or (settings.sampler == "rmsprop" and found.step_size < found.step_limit):
        return found
    # Accepted or rejected steps have no bias and no limit, only a rate.
    return replace(found, value=found.value_without_step, cautions=found.value_without_step.cautions)


def chain_cautions(chains: Chains, prediction: ChainPrediction | None = None) -> tuple[str, ...]:
    """What is wrong with a run, each sentence with what to change."""
    found = []
    failed, count = int(chains.failed.sum()), len(chains.failed)
    limit = "" if prediction is None else f" (the limit is {prediction.step_limit:.3g})"
    if failed:
        found.append(
            f"{failed} of {count} chains left the finite numbers or ran away and were left out; use a step_size below "
            f"{chains.step_size:.3g}{limit}, or a larger localisation"
        )
    if failed == count:
        return tuple(found)
    if chains.mean_rise < 0.0:
        found.append(
            f"the coefficient is negative: at {chains.negative_share:.0%} of steps the cost is below the checkpoint's, "
            "which is no minimum of this cost; sample the cost that was trained (with its penalty, l2), or raise "
            "localisation"
        )
    if chains.scale_reduction > LARGEST_SCALE_REDUCTION:
        found.append(
            f"the chains disagree (R-hat {chains.scale_reduction:.3f}): more draws, or a burn_in above {chains.burn_in}"
        )
    if _drifts(chains):
        found.append("the chains still drift over the steps that were kept: a longer burn_in, or a larger localisation")
    if chains.sampler == "mala" and chains.mean_acceptance < LEAST_ACCEPTED:
        found.append(
            f"only {chains.mean_acceptance:.0%} of steps are accepted, and the chains hardly move: use a step_size of "
            f"{chains.step_size / 4.0:.2g}"
        )
    elif chains.sampler != "mala" and chains.mean_acceptance < LEAST_ACCEPTANCE:
        found.append(
            f"a Metropolis check would accept {chains.mean_acceptance:.0%} of steps: the step_size "
            f"{chains.step_size:.3g} biases what is sampled{limit}; use {_smaller(chains, prediction):.2g}"
        )
    return tuple(found)


def _smaller(chains: Chains, prediction: ChainPrediction | None) -> float:
    return (
        chains.step_size / 4.0
        if prediction is None
        else min(chains.step_size / 4.0, SHARE_OF_LIMIT * prediction.step_limit)
    )


def _drifts(chains: Chains) -> bool:
    change, error = chains.drift
    freedom = chains.kept.shape[0] - 1
    if freedom < 1 or error == 0.0:
        return False
    surprising = abs(change) / error > quantile(freedom, 1.0 - DRIFT_LEVEL)
    return surprising and abs(change) > 0.05 * abs(chains.mean_rise)


def _completed(settings: ChainSettings, prediction: ChainPrediction) -> ChainSettings:
    step = prediction.step_size if settings.step_size is None else settings.step_size
    burn_in = settings.burn_in
    if burn_in is None:
        least = AVERAGED * settings.memory if settings.sampler == "rmsprop" else 0
        burn_in = max(prediction.burn_in, least)
    return replace(settings, step_size=step, burn_in=burn_in)


def _estimate(chains: Chains) -> Estimate:
    nb = chains.inverse_temperature
    if chains.kept.size == 0:
        return Estimate(math.nan, math.inf)
    samples = nb * chains.chain_means
    return Estimate(float(np.mean(samples)), nb * chains.standard_error, samples=samples, freedom=chains.freedom)


def widely_applicable_criterion(landscape: Landscape, chains: Chains) -> Estimate:
    """``E[n L]`` at the inverse temperature ``1 / log n``: WBIC, an estimate of minus the log evidence.

    Args:
        landscape: the cost, a negative log-likelihood a sample.
        chains: sampled at ``nb = n / log n``.

    Returns:
        The estimate, nats.

    Raises:
        UserError: if the chains have another temperature.

    Reference:
        Watanabe, A widely applicable Bayesian information criterion, 2013.
    """
    n = landscape.samples
    asked = n / math.log(n) if n > 1.0 else math.nan
    if not math.isclose(chains.inverse_temperature, asked, rel_tol=1e-6):
        raise UserError(f"inverse_temperature must be n / log n = {asked:.6g}, got {chains.inverse_temperature:.6g}")
    value, error = n * (landscape.anchor_cost + chains.mean_rise), n * chains.standard_error
    return Estimate(value, error, freedom=chains.freedom)


def two_temperature_coefficient(first: Chains, second: Chains) -> Estimate:
    """``(E_1[nL] - E_2[nL]) / (1/b_1 - 1/b_2)``: no value at the checkpoint is needed.

    Args:
        first: sampled at ``n b_1``.
        second: sampled at ``n b_2``, another temperature.

    Returns:
        The estimate; without unit.

    Raises:
        UserError: if the temperatures are equal.

    Reference:
        Watanabe, A widely applicable Bayesian information criterion, 2013.
    """
    gap = 1.0 / first.inverse_temperature - 1.0 / second.inverse_temperature
    if gap == 0.0:
        raise UserError(f"two inverse temperatures must differ, got {first.inverse_temperature:.6g} twice")
    warm, cool = (Estimate(one.mean_rise, one.standard_error, freedom=one.freedom) for one in (first, second))
    return independent(warm, cool).transform(lambda x: x / gap, lambda _: 1.0 / gap)
