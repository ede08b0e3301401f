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
from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.estimate import Estimate, independent
from spectra.landscape import Landscape
from volume.chunks import squared_lengths
from volume.preconditioners import Preconditioner
from volume.priors import Parabola, Prior
from volume.quadratic import AnchorMeasure, quadratic_mass
from volume.rays import BasinPoints, basin_points
from volume.result import BOOTSTRAPS, VolumeEstimate

Array = NDArray[np.float64]
Picks = NDArray[np.int64]
POSTERIORS = ("uniform", "prior")
DRAWS = 32
# The distribution function is integrated over this many e-foldings below the cutoff, by that many nodes.
_FOLDS, _NODES = 40.0, 64
# One direction with more than this share decides everything.
_DOMINATES = 0.5
_LN2 = math.log(2.0)


@dataclass(frozen=True, eq=False)
class DescriptionLength:
    """``KL(Q || prior) + E_Q[sum_i -log2 p(y_i | x_i, theta)]``, all in bits; Q lives on the basin.

    Attributes:
        posterior: ``uniform`` (Q is uniform on the basin) or ``prior`` (Q is the prior restricted to it).
        parameter_bits: ``KL(Q || prior)``; for ``prior`` it is minus log2 of the prior's mass.
        data_bits: the data's code length averaged over Q; None without data.
        anchor_data_bits: the same at the anchor itself; nan without data.
        mean_square: ``E_Q |theta|^2``, squared unit of the parameters.
        samples: number of data that are coded; 0 without data.
        draws: parameter vectors at which the data's cost was evaluated; 0 if none was.
        cautions: sentences on why not to trust the numbers.
    """

    posterior: str
    parameter_bits: Estimate
    data_bits: Estimate | None
    anchor_data_bits: float
    mean_square: Estimate | None
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
        }
        if self.mean_square is not None:
            found["mean_square"] = self.mean_square.value
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
    measure: Prior | None = None,
    posterior: str = "uniform",
    preconditioner: Preconditioner | None = None,
    seed: int = 0,
    stream: str = "directions",
    data: Landscape | None = None,
    draws: int = DRAWS,
) -> DescriptionLength:
    r"""The description length of a star domain, from the directions of its volume estimate.

    For Q uniform on A, of Lebesgue volume V(A), ``KL(Q || prior) = E_Q[-log2 prior(theta)] - log2 V(A)``; direction i
    has the share ``r_i^n / |v_i|^n`` and its radius the density ``r^(n-1)``, so under a Gaussian prior the expectation
    is a closed form in r_i. For the prior restricted to A it is ``-log2 prior(A)``, the least that any Q on A can cost.

    Args:
        landscape: the cost that the estimate is of.
        estimate: of its star domain.
        prior: of the code, proper.
        measure: that the estimate was made under; default the prior.
        posterior: Q: ``uniform`` or ``prior``.
        preconditioner: that the directions were made with; default the identity.
        seed: of the directions.
        stream: of the directions.
        data: the data to code: a landscape of the same parameters whose cost is in nats, the sum over its samples being
            ``-log p``. Its L2 penalty is left out.
        draws: parameter vectors drawn from Q, one evaluation of the data's cost each.

    Returns:
        The length and its parts.

    Raises:
        UserError: if Q is unknown or does not exist, the prior is improper, the data does not fit, or its cost is no
            code length; or there are fewer than two draws.

    Reference:
        Hinton and van Camp, Keeping neural networks simple by minimizing the description length of the weights, 1993.
    """
    if posterior not in POSTERIORS:
        raise UserError(f"posterior must be one of {', '.join(POSTERIORS)}; got {posterior!r}")
    if not prior.proper:
        raise UserError(f"prior must be a probability distribution to code with, got {prior.name}")
    if data is not None:
        _check_data(data, landscape.size, draws)
    points = basin_points(
        landscape,
        estimate,
        prior,
        measure=measure,
        uniform=posterior == "uniform",
        preconditioner=preconditioner,
        seed=seed,
        stream=stream,
    )
    first, second = points.radial_moments()
    square = float(squared_lengths(landscape.theta[None])) + 2.0 * points.along * first + second
    code = points.code
    # E[-log prior] along each ray, of a parabola in r. For the restricted prior the two terms are one.
    charge = np.zeros_like(square)
    if posterior == "uniform":
        if not isinstance(code, Parabola):
            raise UserError(
                f"the mean of log {prior.name} over a basin is known for gaussian and uniform priors alone: use the "
                "posterior 'prior'"
            )
        charge = -code.constant + code.linear * first + code.quadratic * second / 2.0

    def kl_bits(picked: Picks) -> Array:
        volume: Array = logsumexp(points.log_terms[picked], axis=-1) - math.log(picked.shape[-1])
        return _mean(points, charge, picked) / _LN2 - volume / _LN2

    return DescriptionLength(
        posterior=posterior,
        parameter_bits=_bootstrap(kl_bits, len(square), estimate.estimate.degrees),
        data_bits=None if data is None else _data_bits(points, data, draws),
        anchor_data_bits=math.nan if data is None else float(_code_bits(data, landscape.theta.unsqueeze(0))[0]),
        mean_square=_bootstrap(lambda picked: _mean(points, square, picked), len(square), estimate.estimate.degrees),
        samples=0.0 if data is None else data.samples,
        draws=0 if data is None else draws,
        cautions=_cautions(points),
    )


def _mean(points: BasinPoints, values: Array, picked: Picks) -> Array:
    """Average of (k,) values by the directions' shares, for each row of picked directions."""
    averages: Array = (points.shares(points.log_terms[picked]) * values[picked]).sum(-1)
    return averages


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


def _data_bits(points: BasinPoints, data: Landscape, draws: int) -> Estimate:
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


def _cautions(points: BasinPoints) -> tuple[str, ...]:
    share = float(points.shares().max())
    if share <= _DOMINATES:
        return ()
    return (
        f"one direction carries {share:.0%} of the basin: the parameters' bits are an upper bound, and averages over "
        "the basin are that direction's",
    )


def quadratic_description_length(
    density: SpectralDensity,
    anchor: AnchorMeasure,
    cutoff: float,
    *,
    standard_deviation: float = 1.0,
    negative: str = "raise",
    samples: float = 0.0,
    anchor_cost: float = math.nan,
) -> DescriptionLength:
    r"""The description length of the quadratic basin for the prior restricted to it, by saddlepoint.

    The parameters cost ``-log2 P(T)``, and with the distribution function P of the quadratic cost
    ``E[C | C < T] = T - int_0^T P(c) dc / P(T)``.

    Args:
        density: of the curvature H of the data's cost.
        anchor: the anchor's measure on the eigenvalue axis of the same H.
        cutoff: T, nats.
        standard_deviation: s of the Gaussian prior.
        negative: what to do with negative eigenvalues: ``raise``, ``clip`` or ``abs``.
        samples: number of data that the cost averages over; 0 codes none.
        anchor_cost: mean cost of a sample at the anchor, nats.

    Returns:
        The length; ``E |theta|^2`` does not follow from the density and is None.

    Raises:
        UserError: if a number is out of its range, or H is indefinite under the rule ``raise``.

    >>> from volume.quadratic import at_origin
    >>> found = quadratic_description_length(SpectralDensity.from_eigenvalues(np.ones(20)), at_origin(), 1.0)
    >>> round(found.parameter_bits.value, 2)  # 16.010 nats
    23.1
    """
    options = {"standard_deviation": standard_deviation, "negative": negative}
    (whole,) = quadratic_mass(density, anchor, cutoff, **options)  # type: ignore[arg-type]
    # Below the cutoff P falls at least as fast as exp(b (c - T)), its tilt at the saddle.
    depth = min(cutoff, _FOLDS / -whole.saddle) if whole.saddle < 0.0 else cutoff
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    below = quadratic_mass(density, anchor, cutoff - depth * (1.0 - nodes) / 2.0, **options)  # type: ignore[arg-type]
    ratios = np.exp([mass.log_mass.value - whole.log_mass.value for mass in below])
    mean = cutoff - depth / 2.0 * float(weights @ ratios)
    mass, coded = whole.log_mass, samples > 0.0
    return DescriptionLength(
        posterior="prior",
        parameter_bits=mass.transform(lambda x: -x / _LN2, lambda _: -1.0 / _LN2),
        data_bits=Estimate(samples * (anchor_cost + mean) / _LN2) if coded else None,
        anchor_data_bits=samples * anchor_cost / _LN2 if coded else math.nan,
        mean_square=None,
        samples=samples,
        draws=0,
        cautions=mass.cautions,
    )
