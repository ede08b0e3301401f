"""The cost that a bridge integrates, in coordinates where the prior is a standard normal around minus the anchor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape, ManyGradients
from volume.priors import GaussianPrior, Prior


@dataclass
class Evaluations:
    """What was spent.

    Attributes:
        costs: cost evaluations, of one parameter vector each.
        gradients: gradient evaluations, of one parameter vector each.
    """

    costs: int = 0
    gradients: int = 0


class BridgeCost(Protocol):
    """A cost above its value at the anchor, as a function of the displacement in standard deviations of the prior.

    Attributes:
        anchor: (n,) float64, the anchor in standard deviations of the prior: its log density is that of a standard
            normal at ``anchor + point``.
        like: a tensor of the dtype and on the device that points have.
        spent: evaluations so far.
    """

    anchor: Tensor
    like: Tensor
    spent: Evaluations

    def costs(self, points: Tensor) -> Tensor:
        """Costs (k,), float64, at rows of points (k, n)."""

    def forces(self, points: Tensor, *, with_costs: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients (k, n) that drive trajectories, or near them, and the costs if wanted."""


class SublevelCost:
    """The cost itself: the bridge gives the mass of ``{C < T}``, as far as chains from the anchor reach it."""

    def __init__(self, landscape: Landscape, prior: Prior) -> None:
        """Takes a landscape and a Gaussian prior.

        Raises:
            UserError: if the prior is not Gaussian.
        """
        if not isinstance(prior, GaussianPrior):
            raise UserError(f"the bridge needs a gaussian prior, got {prior.name}")
        self.landscape, self.prior = landscape, prior
        scale = prior.scale(landscape.size).to(landscape.device)
        self.anchor = landscape.theta.double() / scale
        self.like = landscape.theta
        self.scale = scale.to(landscape.dtype)
        self.spent = Evaluations()
        self._slopes = ManyGradients(landscape)

    def costs(self, points: Tensor) -> Tensor:
        """Costs (k,), float64, at rows of points (k, n)."""
        self.spent.costs += len(points)
        return self.landscape.costs(self._thetas(points)) - self.landscape.anchor_cost

    def forces(self, points: Tensor, *, with_costs: bool = True) -> tuple[Tensor | None, Tensor]:  # noqa: ARG002
        """Gradients (k, n) and costs (k,), which come with them."""
        self.spent.gradients += len(points)
        costs, slopes = self._slopes(self._thetas(points))
        return costs - self.landscape.anchor_cost, slopes * self.scale

    def _thetas(self, points: Tensor) -> Tensor:
        return torch.addcmul(self.landscape.theta, points, self.scale)
