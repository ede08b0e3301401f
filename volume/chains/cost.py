"""The cost that a bridge integrates, in coordinates where the prior is a standard normal around minus the anchor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import CHUNK_BYTES, Landscape, ManyGradients
from spectra.model import generator
from spectra.operators import Fisher
from volume.chunks import at_once
from volume.priors import GaussianPrior, Prior, SmoothPrior


@dataclass
class Evaluations:
    """What was spent.

    Attributes:
        costs: cost evaluations, of one parameter vector each.
        gradients: gradient evaluations, of one parameter vector each.
    """

    costs: int = 0
    gradients: int = 0


@dataclass(frozen=True, eq=False)
class Tilt:
    """What the energy of a prior, minus its log density, has beyond that of a normal one of the same width.

    Attributes:
        prior: smooth.
        anchor: (n,) float64, the anchor in standard deviations of the prior.
        scale: (n,) float64, those standard deviations, unit of the parameters.
    """

    prior: SmoothPrior
    anchor: Tensor
    scale: Tensor

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (k,), float64 nats, and their gradients (k, n), at rows of points (k, n)."""
        size = len(self.anchor)
        shift = float(self.scale.log().sum()) + 0.5 * size * math.log(2.0 * math.pi)
        energies, slopes = points.new_empty(len(points), dtype=torch.float64), torch.empty_like(points)
        block = at_once(size, len(points) or 1)
        for start in range(0, len(points), block):
            rows = slice(start, start + block)
            with torch.enable_grad():
                at = (self.anchor + points[rows].double()).detach().requires_grad_()
                found = -0.5 * at.square().sum(1) - shift - self.prior.log_densities(at * self.scale)
                (slopes[rows],) = torch.autograd.grad(found.sum(), at)
            energies[rows] = found.detach()
        return energies, slopes

    def draws(self, generator: torch.Generator, count: int) -> Tensor:
        """Independent draws (count, n) of the prior, as displacements from the anchor."""
        return self.prior.sample(generator, count, len(self.anchor)) / self.scale - self.anchor


class BridgeCost(Protocol):
    """A cost above its value at the anchor, as a function of the displacement in standard deviations of the prior.

    Attributes:
        anchor: (n,) float64, the anchor in standard deviations of the prior: its log density is that of a standard
            normal at ``anchor + point``.
        like: a tensor of the dtype and on the device that points have.
        spent: evaluations so far.
        tilt: of a prior that is not Gaussian: its log density is that of a standard normal less the tilt; else None.
    """

    anchor: Tensor
    like: Tensor
    spent: Evaluations
    tilt: Tilt | None

    def costs(self, points: Tensor) -> Tensor:
        """Costs (k,), float64, at rows of points (k, n)."""

    def forces(self, points: Tensor, *, with_costs: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients (k, n) that drive trajectories, and the costs if wanted."""

    def levels(self, points: Tensor, costs: Tensor) -> Tensor | None:
        """What decides (k,) whether points (k, n) are in the set, float64; None where their costs do."""

    @property
    def draws_curvature(self) -> bool:
        """Whether there are curvature draws: of likelihoods only."""

    def curvature_draws(self, points: Tensor, each: int, first: int = 0) -> Tensor:
        """(k * each, n) random vectors whose second moment is the mean curvature of the cost at points (k, n).

        Those of a point depend on its place among all points; that of the first one here is ``first``.
        """


class SublevelCost:
    """The cost itself: the bridge gives the mass of ``{C < T}``, as far as chains from the anchor reach it."""

    def __init__(self, landscape: Landscape, prior: Prior, *, memory: int = CHUNK_BYTES) -> None:
        """Takes a landscape, a Gaussian or another smooth prior, and the bytes that graphs of gradients may take.

        Raises:
            UserError: if the prior is neither.
        """
        if not isinstance(prior, GaussianPrior | SmoothPrior):
            raise UserError(
                f"the bridge needs a gaussian prior, or one whose density is smooth everywhere, got {prior.name}"
            )
        self.landscape, self.prior = landscape, prior
        scale = prior.scale(landscape.size).to(landscape.device)
        self.anchor = landscape.theta.double() / scale
        self.tilt = None if isinstance(prior, GaussianPrior) else Tilt(prior, self.anchor, scale)
        self.like = landscape.theta
        self.scale = scale.to(landscape.dtype)
        self.spent = Evaluations()
        self._slopes = ManyGradients(landscape, memory=memory)

    def costs(self, points: Tensor) -> Tensor:
        """Costs (k,), float64, at rows of points (k, n)."""
        self.spent.costs += len(points)
        return self.landscape.costs(self._thetas(points)) - self.landscape.anchor_cost

    def forces(self, points: Tensor, *, with_costs: bool = True) -> tuple[Tensor | None, Tensor]:  # noqa: ARG002
        """Gradients (k, n) and costs (k,), which come with them."""
        self.spent.gradients += len(points)
        costs, slopes = self._slopes(self._thetas(points))
        return costs - self.landscape.anchor_cost, slopes * self.scale

    def levels(self, points: Tensor, costs: Tensor) -> Tensor | None:  # noqa: ARG002
        """None: the costs decide."""
        return None

    @property
    def draws_curvature(self) -> bool:
        """Whether the cost is a likelihood."""
        return self.landscape.likelihood is not None

    def curvature_draws(self, points: Tensor, each: int, first: int = 0) -> Tensor:
        """(k * each, n) random vectors whose second moment is the mean Fisher matrix and the L2, a gradient each."""
        self.spent.gradients += len(points) * each
        drawn = []
        for place, theta in enumerate(self._thetas(points), first):
            fisher = Fisher(self.landscape, kind="sampled", draws=each, seed=place, theta=theta)
            found = fisher.gradient_draws()
            if self.landscape.l2:
                source = generator(place, "bridge penalty", device=found.device)
                noise = torch.randn(found.shape, generator=source, dtype=found.dtype, device=found.device)
                found = found + self.landscape.l2**0.5 * noise
            drawn.append(found * self.scale)
        return torch.cat(drawn)

    def _thetas(self, points: Tensor) -> Tensor:
        return torch.addcmul(self.landscape.theta, points, self.scale)
