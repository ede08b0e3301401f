"""What the costs of single samples say beside the learning coefficient: singular fluctuation and WAIC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comparisons.langevin.chains import Array, Chains
from spectra.errors import UserError
from spectra.estimate import Estimate, jackknife
from spectra.landscape import Landscape

_FEWEST = 2


@dataclass(frozen=True, eq=False)
class SampleInformation:
    """Of the distribution that chains sample, at their temperature and localisation.

    Attributes:
        training_loss: ``T = -1/n sum_i log E_w p(x_i | w)``, the Bayes training loss, nats a sample.
        functional_variance: ``V = sum_i Var_w log p(x_i | w)``, nats^2.
        fluctuation: ``b V / 2``, b the inverse temperature of one sample: the singular fluctuation nu, which is n/2 of
            a regular model of n parameters that holds the truth.
        criterion: ``T + b V / n``, WAIC, an estimate of the Bayes generalisation loss, nats a sample.
    """

    training_loss: Estimate
    functional_variance: Estimate
    fluctuation: Estimate
    criterion: Estimate


def sample_information(landscape: Landscape, chains: Chains) -> SampleInformation:
    """Singular fluctuation and WAIC from the costs of single samples at the draws of chains.

    Args:
        landscape: the cost, a negative log-likelihood a sample; its penalty, like the localisation, is a prior.
        chains: sampled with ``sample_draws``, two that did not fail at least.

    Returns:
        The estimates, with errors by the jackknife over chains.

    Raises:
        UserError: if the samples' costs were not kept, or fewer than two chains did not fail.

    Reference:
        Watanabe, Asymptotic equivalence of Bayes cross validation and widely applicable information criterion in
        singular learning theory, 2010.
    """
    if chains.sample_sums is None:
        raise UserError(
            "the costs of single samples were not kept: sample_draws must be above 0, and all samples of equal weight"
        )
    sums = chains.sample_sums[~chains.failed]
    if len(sums) < _FEWEST:
        raise UserError(f"WAIC needs two chains that do not fail, got {len(sums)}")
    draws, count = chains.sample_draws, landscape.samples
    beta = chains.inverse_temperature / count
    penalty = 0.5 * landscape.l2 * float(landscape.theta.double().square().sum())

    def values(total: Array, chains: int) -> Array:
        mean, square, likelihood = total / (draws * chains)
        variance = float((square - mean**2).sum())
        training = landscape.anchor_cost - penalty - float(np.log(likelihood).sum()) / count
        return np.array([training, variance, 0.5 * beta * variance, training + beta * variance / count])

    total = sums.sum(0)
    whole = values(total, len(sums))
    left_out = np.array([values(total - one, len(sums) - 1) for one in sums])
    # The jackknife also takes off what the mean over few chains takes from a variance.
    found = len(sums) * whole - (len(sums) - 1) * left_out.mean(0)
    freedom = len(sums) - 1.0
    return SampleInformation(
        *(
            Estimate(float(value), jackknife(column), freedom=freedom)
            for value, column in zip(found, left_out.T, strict=True)
        )
    )
