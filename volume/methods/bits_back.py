"""Bits-back description length: what it costs to send a basin under a prior, and then the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from spectra.costs import CrossEntropy, MeanSquaredError, cost_name
from spectra.errors import UserError
from spectra.estimate import Estimate, independent
from spectra.landscape import Landscape
from volume.chunks import squared_lengths
from volume.preconditioners import Preconditioner
from volume.priors import Prior
from volume.rays import RestrictedPrior, restricted_prior
from volume.result import BOOTSTRAPS, VolumeEstimate

Array = NDArray[np.float64]
Picks = NDArray[np.int64]
DRAWS = 32
# One direction with more than this share decides everything.
_DOMINATES = 0.5
_LN2 = math.log(2.0)


@dataclass(frozen=True, eq=False)
class DescriptionLength:
    """``KL(Q || prior) + E_Q[sum_i -log2 p(y_i | x_i, theta)]``, all in bits; Q is the prior restricted to the basin.

    Attributes:
        parameter_bits: ``KL(Q || prior)``, minus log2 of the prior's mass of the basin.
        data_bits: the data's code length averaged over Q; None without data.
        anchor_data_bits: the same at the anchor itself; nan without data.
        mean_square: ``E_Q |theta|^2``, squared unit of the parameters.
        samples: number of data that are coded; 0 without data.
        draws: parameter vectors at which the data's cost was evaluated; 0 if none was.
        cautions: sentences on why not to trust the numbers.
    """

    parameter_bits: Estimate
    data_bits: Estimate | None
    anchor_data_bits: float
    mean_square: Estimate
    samples: float
    draws: int
    cautions: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """What a result file keeps, by name."""
        data = self.data_bits
        found = {
            "parameter_bits": self.parameter_bits.value,
            "parameter_bits_error": self.parameter_bits.standard_error,
            "mean_square": self.mean_square.value,
        }
        if data is None:
            return found
        coded = {"data_bits": data.value, "data_bits_error": data.standard_error, "coded_samples": self.samples}
        coded["data_bits_freedom"] = data.degrees
        return found | coded | {"anchor_data_bits": self.anchor_data_bits, "data_draws": float(self.draws)}

    @property
    def bits(self) -> Estimate:
        """The whole length, bits; of the parameters alone without data."""
        minus = Estimate(0.0) if self.data_bits is None else self.data_bits.transform(lambda x: -x, lambda _: -1.0)
        return replace(independent(self.parameter_bits, minus), cautions=self.cautions)


def description_length(
    landscape: Landscape,
    estimate: VolumeEstimate,
    prior: Prior,
    *,
    preconditioner: Preconditioner | None = None,
    seed: int = 0,
    data: Landscape | None = None,
    draws: int = DRAWS,
) -> DescriptionLength:
    """The description length of a star domain A by the prior restricted to it, from its volume estimate's directions.

    Its ``KL(Q || prior) = -log2 prior(A)`` is the least that any Q on A can cost.

    Args:
        landscape: the cost that the estimate is of.
        estimate: of its star domain.
        prior: proper prior of the code, which the estimate was made under.
        preconditioner: that the directions were made with; default the identity.
        seed: seed of the directions.
        data: the data to code: a landscape of the same parameters whose cost is in nats, the sum over its samples being
            ``-log p``. Its L2 penalty is left out.
        draws: parameter vectors drawn from Q, one evaluation of the data's cost each.

    Returns:
        The length and its parts.

    Raises:
        UserError: if the prior is improper, the data does not fit, or its cost is no code length; or there are fewer
            than two draws.

    Reference:
        Hinton and van Camp, Keeping neural networks simple by minimizing the description length of the weights, 1993.
    """
    if not prior.proper:
        raise UserError(f"prior must be a probability distribution to code with, got {prior.name}")
    if data is not None:
        _check_data(data, landscape.size, draws)
    points = restricted_prior(landscape, estimate, prior, preconditioner=preconditioner, seed=seed)
    first, second = points.radial_moments()
    square = float(squared_lengths(landscape.theta[None])) + 2.0 * points.along * first + second

    def kl_bits(picked: Picks) -> Array:
        volume: Array = logsumexp(points.log_terms[picked], axis=-1) - math.log(picked.shape[-1])
        return -volume / _LN2

    def mean_square(picked: Picks) -> Array:
        averages: Array = (points.shares(points.log_terms[picked]) * square[picked]).sum(-1)
        return averages

    return DescriptionLength(
        parameter_bits=_bootstrap(kl_bits, len(square), estimate.estimate.degrees),
        data_bits=None if data is None else _data_bits(points, data, draws),
        anchor_data_bits=math.nan if data is None else float(_code_bits(data, landscape.theta.unsqueeze(0))[0]),
        mean_square=_bootstrap(mean_square, len(square), estimate.estimate.degrees),
        samples=0.0 if data is None else data.samples,
        draws=0 if data is None else draws,
        cautions=_cautions(points),
    )


def _bootstrap(statistic: Callable[[Picks], Array], count: int, freedom: float) -> Estimate:
    """A statistic of the directions, its standard error by resampling them."""
    value = float(statistic(np.arange(count)[None])[0])
    if count < 2:
        return Estimate(value, math.inf)
    picks = np.random.default_rng(0).integers(0, count, (BOOTSTRAPS, count))
    return Estimate(value, float(np.std(statistic(picks), ddof=1)), freedom=freedom)


def _code_bits(data: Landscape, thetas: Tensor) -> Array:
    """Code length of the data at rows of thetas, bits: its mean cost times its samples, penalty left out."""
    found: Array = data.many_costs(thetas).cpu().numpy() * (data.samples / data.total_weight / _LN2)
    return found


def _data_bits(points: RestrictedPrior, data: Landscape, draws: int) -> Estimate:
    """The mean over draws; draws on one direction are no independent evidence of what the others would say."""
    found = np.concatenate([_code_bits(data, part) for part, _ in points.draws(draws)])
    effective = min(float(draws), 1.0 / float((points.shares() ** 2).sum()))
    error = float(found.std(ddof=1)) / math.sqrt(effective)
    return Estimate(float(found.mean()), error, freedom=max(effective - 1.0, 0.0))


def _check_data(data: Landscape, size: int, draws: int) -> None:
    if data.size != size:
        raise UserError(f"data must be a landscape of the same {size} parameters, got {data.size}")
    plain = isinstance(data.softmax, CrossEntropy) and data.softmax.plain
    if data.softmax is not None and not plain or isinstance(data.cost_function, MeanSquaredError):
        name = cost_name(data.cost_function)
        raise UserError(f"data needs a cost that is a code length in nats, such as cross-entropy; got {name}")
    if draws < 2:
        raise UserError(f"draws must be at least 2, got {draws}")


def _cautions(points: RestrictedPrior) -> tuple[str, ...]:
    share = float(points.shares().max())
    if share <= _DOMINATES:
        return ()
    return (
        f"one direction carries {share:.0%} of the basin: the parameters' bits are an upper bound, and averages over "
        "the basin are that direction's",
    )
