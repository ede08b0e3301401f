"""Metropolis-adjusted Langevin chains: each step is accepted or rejected by the cost on all rows."""

from __future__ import annotations

import torch
from torch import Tensor

from comparisons.langevin.sgld import LangevinRun


class MetropolisRun(LangevinRun):
    """Chains whose stationary distribution is ``exp(-nb (L - L*) - g/2 |w - w*|^2)`` whatever the step size.

    What is left of the step size is how fast they move. For small models: each step takes a gradient on all rows.

    Reference:
        Roberts and Tweedie, Exponential convergence of Langevin distributions and their discrete approximations, 1996.
    """

    _state: tuple[Tensor, Tensor, Tensor] | None = None
    _probability: Tensor

    def passes(self, steps: int, checks: int, looks: int) -> float:
        """Gradients over all data that a chain takes: one a step, and one at the start."""
        del checks
        return steps + 1.0 + looks / 3.0

    def step(self, step: int) -> Tensor:
        """Proposes a step to all chains; returns their rises before it (chains,)."""
        del step
        rises, energy, slope = self._state or self.energy(self.moved)
        proposal = self.proposal(slope)
        found, after, back = self.energy(proposal)
        self._probability = self.log_ratio(energy - after, proposal, slope, back).exp().nan_to_num(0.0)
        drawn = [torch.rand((), generator=one, device=rises.device, dtype=torch.float64) for one in self.streams]
        taken = torch.stack(drawn) < self._probability
        wide = taken.unsqueeze(1)
        self.moved = torch.where(wide, proposal, self.moved)
        self._state = (
            torch.where(taken, found, rises),
            torch.where(taken, after, energy),
            torch.where(wide, back, slope),
        )
        return rises

    def accepted(self, step: int, asked: bool) -> list[Tensor]:
        """Probability (chains,) with which the step just proposed was taken, after the burn-in."""
        del asked
        return [self._probability] if step >= self.burn_in else []
