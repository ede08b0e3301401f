"""Stochastic gradient Langevin dynamics around a checkpoint, plain or preconditioned, a block of chains in one pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from comparisons.langevin.chains import Chains
from comparisons.langevin.minibatches import Minibatches
from comparisons.langevin.sample_sums import SampleSums, equally_weighted
from comparisons.langevin.settings import ChainSettings
from spectra.landscape import Landscape
from spectra.model import generator
from volume.chunks import squared_lengths

# A chain has failed when nb times its rise passes this many times n: on a quadratic its mean is n / 2.
LARGEST_RISE = 1e3


class LangevinRun:
    r"""The state of chains of some numbers: ``dw = -(e/2) F (nb grad L_b(w) + g (w - w*)) + N(0, e F)``, from w*.

    F is one for ``sgld``. For ``rmsprop`` it is ``1 / (sqrt(v) + floor)`` over its largest, v the running mean of the
    squares of the minibatches' gradients: with a step of e over that largest it is that of Li et al. 2016 and of
    devinterp. But there F moves on with the chain to its end, which without a term for its slope samples another
    distribution (twice the coefficient, in a direction slower than v whose gradient is far above the floor). Here F
    stays as it is at the end of the burn-in.

    Reference:
        Welling and Teh, 2011; Lau et al., The local learning coefficient, 2024; Li et al., Preconditioned stochastic
        gradient Langevin dynamics for deep neural networks, 2016.
    """

    def __init__(
        self, landscape: Landscape, settings: ChainSettings, numbers: range, batches: Minibatches, free: Tensor | None
    ) -> None:
        """Puts the chains at the anchor; ``free`` (n,) is one at the parameters that move, None for all."""
        assert settings.burn_in is not None
        assert settings.step_size is not None
        assert settings.inverse_temperature is not None
        self.landscape, self.settings, self.numbers, self.free = landscape, settings, numbers, free
        self.anchor, self.batches = landscape.theta, batches
        self.burn_in, self.step_size, self.nb = settings.burn_in, settings.step_size, settings.inverse_temperature
        device = self.anchor.device
        self.streams = [generator(settings.seed, settings.stream, chain, device=device) for chain in numbers]
        self.rows = [generator(settings.seed, f"{settings.stream}-rows", chain, device=device) for chain in numbers]
        # Displacements from the anchor: in float32 a step near 1 would lose digits to the weights.
        self.moved = torch.zeros(len(numbers), landscape.size).to(self.anchor)
        self.noise = torch.empty_like(self.anchor)
        self.alive = torch.ones(len(numbers), dtype=torch.bool, device=device)
        # Of rmsprop: mean squares of the gradient during the burn-in, F itself after it.
        self.squares = torch.zeros_like(self.moved) if settings.sampler == "rmsprop" else None
        self.factors: Tensor | None = None
        self.dimension = landscape.size if free is None else int(free.sum())

    def chains(self) -> Chains:
        """Runs them all."""
        settings, count = self.settings, len(self.numbers)
        steps = self.burn_in + settings.draws
        checks, looks = (self._spaced(wanted) for wanted in (settings.checks, settings.sample_draws))
        rises = torch.empty(count, steps, dtype=torch.float64, device=self.anchor.device)
        acceptance: list[Tensor] = []
        sums = SampleSums(self.batches, count) if looks and equally_weighted(self.batches) else None
        for step in range(steps):
            if sums is not None and step in looks:
                sums.add(self.anchor, self.moved)
            rises[:, step] = self.step(step)
            acceptance += self.accepted(step, step in checks)
        # The last move has no cost after it to fail by.
        self.drop(torch.zeros(count, device=self.anchor.device))
        rises[:, -1] = torch.where(self.alive, rises[:, -1], torch.nan)
        table = torch.stack(acceptance, 1) if acceptance else rises[:, :0]
        return Chains(
            rises=rises.cpu().numpy(),
            burn_in=self.burn_in,
            step_size=self.step_size,
            inverse_temperature=self.nb,
            localisation=settings.localisation,
            acceptance=table.double().cpu().numpy(),
            gradient_evaluations=count * self.passes(steps, len(checks), len(looks)),
            sampler=settings.sampler,
            factors=self._factor_range(),
            sample_sums=None if sums is None else sums.sums.cpu().numpy(),
            sample_draws=len(looks),
            dimension=self.dimension,
        )

    def _spaced(self, wanted: int) -> frozenset[int]:
        """Steps after the burn-in, evenly spaced."""
        steps = self.burn_in + self.settings.draws
        return frozenset(np.linspace(self.burn_in, steps - 1, min(wanted, self.settings.draws)).astype(int).tolist())

    def passes(self, steps: int, checks: int, looks: int) -> float:
        """Gradients over all data that a chain takes; a look at all samples' costs counts as a third of one."""
        return steps * self.batches.size / self.batches.rows + 2.0 * checks + looks / 3.0

    def step(self, step: int) -> Tensor:
        """Moves all chains by one step; returns their rises before it (chains,), nan for those that failed."""
        rises, slopes = self.batches.slopes(self.anchor + self.moved, self.batches.draw(self.rows))
        self.drop(rises)
        if self.squares is not None:
            self._precondition(step, slopes)
        pull = slopes.mul_(self.nb).add_(self.moved, alpha=self.settings.localisation)
        if self.factors is not None:
            pull.mul_(self.factors)
        self.moved.add_(pull, alpha=-0.5 * self.step_size)
        self.add_noise(self.moved)
        return torch.where(self.alive, rises, torch.nan)

    def add_noise(self, moved: Tensor) -> None:
        """Adds ``N(0, e F)`` to each chain's displacement, drawn on the device one vector at a time."""
        for place, random in enumerate(self.streams):
            noise = torch.randn(self.noise.shape, generator=random, out=self.noise)
            if self.factors is not None:
                noise.mul_(self.factors[place].sqrt())
            moved[place].add_(noise, alpha=self.step_size**0.5)
        if self.free is not None:
            moved.mul_(self.free)

    def _precondition(self, step: int, slopes: Tensor) -> None:
        """Goes on with the running means of squares as long as the burn-in lasts, and makes F of them."""
        if step >= self.burn_in:
            return
        assert self.squares is not None
        decay = self.settings.decay
        self.squares.mul_(decay).addcmul_(slopes, slopes, value=1.0 - decay)
        # As in Adam: the mean starts at zero.
        share = 1.0 - decay ** (step + 1)
        self.factors = torch.div(self.squares, share, out=self.factors)
        self.factors.sqrt_().add_(self.settings.floor).reciprocal_()
        if self.free is not None:
            self.factors.mul_(self.free)
        self.factors.div_(self.factors.amax(1, keepdim=True))
        if step == self.burn_in - 1:
            self.squares = None

    def _factor_range(self) -> np.ndarray | None:
        if self.factors is None:
            return None
        factors = self.factors if self.free is None else self.factors[:, self.free > 0]
        return torch.stack(torch.aminmax(factors, dim=1), 1).double().cpu().numpy()

    def drop(self, rises: Tensor) -> None:
        """Marks chains that left the finite numbers; they wait at the anchor, where nothing overflows."""
        fine = (rises.abs() * self.nb <= LARGEST_RISE * self.dimension) & torch.isfinite(self.moved.sum(1))
        self.alive &= fine
        self.moved.masked_fill_(~self.alive.unsqueeze(1), 0.0)

    def accepted(self, step: int, asked: bool) -> list[Tensor]:
        """Probability (chains,) of accepting a proposal with the full gradient from each state, which is not changed.

        None where it is not asked for.
        """
        if not asked:
            return []
        settings = self.settings
        streams = self.streams
        self.streams = [
            generator(settings.seed, f"{settings.stream}-check-{chain}", step, device=self.anchor.device)
            for chain in self.numbers
        ]
        _, energy, slope = self.energy(self.moved)
        proposal = self.proposal(slope)
        self.streams = streams
        _, after, back = self.energy(proposal)
        return [torch.where(self.alive, self.log_ratio(energy - after, proposal, slope, back).exp(), torch.nan)]

    def proposal(self, slope: Tensor) -> Tensor:
        """A step from each chain's state by the gradient of its energy (chains, n)."""
        drift = slope if self.factors is None else slope * self.factors
        proposal = torch.add(self.moved, drift, alpha=-0.5 * self.step_size)
        self.add_noise(proposal)
        return proposal

    def log_ratio(self, lost: Tensor, proposal: Tensor, slope: Tensor, back: Tensor) -> Tensor:
        """Log of the Metropolis acceptance probability (chains,), at most 0, of a proposal that loses some energy.

        With d the move, s and b the energy's gradients at its ends, the densities of the move back and forth differ by
        ``d (s + b) / 2 + e/8 (s F s - b F b)``: no lengths of order n are subtracted from one another.
        """
        weigh = (lambda one: one) if self.factors is None else self.factors.sqrt().mul
        slope, back = (one if self.free is None else one * self.free for one in (slope, back))
        along = ((proposal - self.moved) * (slope + back)).sum(1, dtype=torch.float64)
        squares = squared_lengths(weigh(slope)) - squared_lengths(weigh(back))
        return (lost + 0.5 * along + 0.125 * self.step_size * squares).clamp_max(0.0)

    def energy(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rises on all data (chains,), ``nb (L - L*) + g/2 |w - w*|^2`` there, and its gradient (chains, n)."""
        rises, slopes = self.batches.slopes_of_all(self.anchor + moved)
        energy = self.nb * rises + 0.5 * self.settings.localisation * squared_lengths(moved)
        return rises, energy, slopes.mul_(self.nb).add_(moved, alpha=self.settings.localisation)
