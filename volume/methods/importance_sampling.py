r"""Importance sampling of the true cost by the Gaussian of the quadratic model.

``q(x) ~ rho(theta* + x) exp(-b Q(x))`` with Q the quadratic cost is a Gaussian of known normaliser Z, so that the mass
of the basin is ``V = Z E_q[exp(b Q) 1{C < T}]`` for any cost. Near a quadratic cost nearly all draws near the cutoff
count, far from one a few do, and the effective number of draws says so.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from spectra.errors import UserError
from spectra.estimate import Estimate
from spectra.landscape import Landscape
from spectra.model import generator
from spectra.operators import SymmetricOperator
from volume.chunks import at_once
from volume.method_result import MethodResult
from volume.methods.method import Cutoffs, MethodRow
from volume.methods.work import VolumeWork
from volume.prior_units import ScaledOperator
from volume.quadratic import LeadingCurvature, QuadraticEnsemble, QuadraticForm, log_distribution, refuse_large

Array = NDArray[np.float64]
FEWEST = 30.0
INSTEAD = "importance-sampling: use quadratic-mass or star-domain, which need products alone"
_BLOCK = 64


def importance_sampled(
    landscape: Landscape, ensemble: QuadraticEnsemble, scale: Tensor, cutoff: float, draws: int, *, seed: int = 0
) -> tuple[Estimate, dict[str, float]]:
    """The prior's mass of the basin from independent draws of a quadratic ensemble.

    Args:
        landscape: the cost, of size n.
        ensemble: of its quadratic model, in standard deviations of a Gaussian prior.
        scale: (n,) those standard deviations, unit of the parameters.
        cutoff: T, unit of the cost.
        draws: how many, one evaluation of the cost each.
        seed: of the draws.

    Returns:
        The log mass, nats, and figures by name: the share of draws inside, how many carry the estimate, and the median
        of the true cost over the quadratic one.

    Raises:
        UserError: if no draw lies in the basin.

    Reference:
        Owen, Monte Carlo theory, methods and examples, 2013, chapter 9.
    """
    costs: list[Array] = []
    quadratics: list[Array] = []
    source = generator(seed, "importance-sampling", device=landscape.device)
    while (left := draws - sum(len(part) for part in costs)) > 0:
        points = ensemble.draws(source, min(left, at_once(landscape.size, _BLOCK)))
        thetas = torch.addcmul(landscape.theta, points.to(landscape.theta), scale.to(landscape.theta))
        costs.append((landscape.costs(thetas) - landscape.anchor_cost).cpu().numpy())
        quadratics.append(ensemble.costs(points).cpu().numpy())
    cost, quadratic = np.concatenate(costs), np.concatenate(quadratics)
    inside = cost < cutoff  # a cost that is no number is not
    if not inside.any():
        raise UserError(
            f"none of {draws} draws of the quadratic model lies in the basin: the cost is far from quadratic at the "
            "cutoff; use more --directions, a smaller --cutoff, or the method star-domain"
        )
    terms = np.where(inside, ensemble.inverse_temperature * quadratic, -np.inf)
    weights = np.exp(terms - logsumexp(terms))
    effective = float(1.0 / (weights**2).sum())
    # A spread of few draws says nothing of what all the others would add.
    error = float(weights.std(ddof=1)) * math.sqrt(draws) if effective >= FEWEST else math.inf
    value = ensemble.log_normaliser + float(logsumexp(terms)) - math.log(draws)
    few = f"{effective:.3g} of {draws} draws carry the estimate: read it as a lower bound"
    figures = {
        "draws": float(draws),
        "effective_draws": effective,
        "share_inside": float(inside.mean()),
        "cost_ratio": float(np.median(cost[quadratic > 0.0] / quadratic[quadratic > 0.0])),
    }
    cautions = () if effective >= FEWEST else (few,)
    return Estimate(value, error, cautions=cautions), figures


class DenseModel:
    """The quadratic model of a cost in standard deviations of a Gaussian prior, all its eigenvectors known."""

    def __init__(self, operator: SymmetricOperator, theta: Tensor, scale: Tensor) -> None:
        """Decomposes the curvature H at theta (n,) under a prior of standard deviations (n,)."""
        values, columns = torch.linalg.eigh(ScaledOperator(operator, scale).to_dense().double())
        # Any Gaussian gives an estimate without bias: along negative curvature that of no curvature.
        self.curvature = LeadingCurvature(values.flip(0).clamp(min=0.0), columns.T.flip(0).contiguous())
        self.anchor = theta.double() / scale

    def ensemble(self, cutoff: float) -> QuadraticEnsemble:
        """The ensemble whose mean quadratic cost is the cutoff; the prior where that is above the prior's own mean."""
        values = self.curvature.values.numpy(force=True)
        parts = (self.curvature.vectors @ self.anchor).square().numpy(force=True)
        form = QuadraticForm(values, np.ones(len(values)), values, parts)
        saddle = float(log_distribution(form, np.array([cutoff])).saddle[0])
        return QuadraticEnsemble(self.curvature, self.anchor, max(-saddle, 0.0), 0.0)


def _at(work: VolumeWork, cutoffs: Cutoffs) -> tuple[MethodResult, ...]:
    landscape = work.landscape
    refuse_large(landscape.size, INSTEAD)
    work.tell(0, 1, "importance-sampling: dense eigenvectors")
    scale = work.prior.scale(landscape.size).to(landscape.device)
    model, found = DenseModel(work.operator, landscape.theta, scale), []
    for number, cutoff in enumerate(map(float, cutoffs)):
        work.tell(number, len(cutoffs), "importance-sampling: draws")
        options = {"draws": work.settings.directions, "seed": work.settings.seed}
        estimate, figures = importance_sampled(landscape, model.ensemble(cutoff), scale, cutoff, **options)
        found.append(MethodResult("importance-sampling", work.prior.name, estimate=estimate, figures=figures))
    return tuple(found)


ROWS = (
    MethodRow(
        "importance-sampling",
        _at,
        caption="importance-sampling: {draws:,.0f} draws of the quadratic model, {share_inside:.0%} inside the basin, "
        "{effective_draws:,.3g} that carry the estimate",
        gaussian=True,
        mass=True,
        colour="grey",
    ),
)
