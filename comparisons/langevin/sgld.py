"""Stochastic gradient Langevin dynamics around a checkpoint, many chains in one pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from comparisons.langevin.chains import Chains
from comparisons.langevin.minibatches import Minibatches
from comparisons.langevin.shared_chains import over_ranks
from comparisons.sharpness_result import Array, counted, positive
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator

# Noise of that many steps is drawn at a time.
NOISE_STEPS = 16
# A chain has failed when nb times its rise passes this many times n: on a quadratic its mean is n / 2.
LARGEST_RISE = 1e3


@dataclass(frozen=True)
class ChainSettings:
    """Everything that decides the numbers of a run, apart from the landscape.

    Attributes:
        inverse_temperature: nb, samples times inverse temperature; None for ``n / log n`` of n samples.
        localisation: g, of the pull ``g/2 |w - w*|^2`` to the checkpoint.
        step_size: e; None where the spectrum is to set it.
        chains: number of chains.
        draws: steps of each after the burn-in.
        burn_in: steps that are thrown away; None where the spectrum is to set it.
        batch_size: rows of a minibatch; None for all rows, and so the exact gradient.
        checks: steps at which the Metropolis acceptance probability is computed, two full gradients a chain each.
        seed: chain i of seed s depends on nothing but i, s and the stream.
        stream: name of the random numbers; runs of one seed and two streams are independent.
    """

    inverse_temperature: float | None = None
    localisation: float = 100.0
    step_size: float | None = None
    chains: int = 16
    draws: int = 1000
    burn_in: int | None = None
    batch_size: int | None = 64
    checks: int = 8
    seed: int = 0
    stream: str = "chain"

    def __post_init__(self) -> None:
        for name in ("inverse_temperature", "step_size"):
            value = getattr(self, name)
            if value is not None:
                positive(**{name: value})
        counted(chains=self.chains, draws=self.draws)
        if not (np.isfinite(self.localisation) and self.localisation >= 0.0):
            raise UserError(f"localisation must be finite and non-negative, got {self.localisation}")
        for name in ("burn_in", "checks"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name} must be at least 0, got {value}")

    def at(self, landscape: Landscape) -> ChainSettings:
        """With the inverse temperature of the landscape's number of samples, and a batch size within it."""
        nb = self.inverse_temperature
        if nb is None:
            if landscape.samples <= 1.0:
                raise UserError("inverse_temperature must be given: n / log n needs more than one sample")
            nb = landscape.samples / float(np.log(landscape.samples))
        return replace(self, inverse_temperature=nb)


def sample_chains(landscape: Landscape, settings: ChainSettings) -> Chains:
    r"""``dw = -(e/2) (nb grad L_b(w) + g (w - w*)) + N(0, e)``, from w*.

    Args:
        landscape: the cost L, on data kept in memory; it is evaluated in its own mode throughout. Spread over ranks,
            each runs its share of the chains, on all data.
        settings: settings with ``step_size`` and ``burn_in`` given.

    Returns:
        The chains.

    Raises:
        UserError: if the step size or the burn-in is missing.

    Reference:
        Welling and Teh, 2011; Lau et al., The local learning coefficient, 2024.
    """
    settings = settings.at(landscape)
    if settings.step_size is None or settings.burn_in is None:
        raise UserError("step_size and burn_in must be given where no spectrum sets them, got None")
    return over_ranks(landscape, settings.chains, lambda alone, numbers: _Run(alone, settings, numbers).chains())


class _Run:
    """The state of all chains, or of those of some numbers."""

    def __init__(self, landscape: Landscape, settings: ChainSettings, numbers: range) -> None:
        self.anchor, self.settings, self.numbers = landscape.theta, settings, numbers
        size = None if settings.batch_size is None else min(settings.batch_size, row_count(landscape))
        self.batches = Minibatches(landscape, size)
        self.whole = self.batches if size is None else Minibatches(landscape, None)
        self.streams = [generator(settings.seed, settings.stream, chain) for chain in numbers]
        self.rows = [generator(settings.seed, f"{settings.stream}-rows", chain) for chain in numbers]
        # Displacements from the anchor: in float32 a step near 1 would lose digits to the weights.
        self.moved = torch.zeros(len(numbers), landscape.size).to(landscape.theta)
        self.alive = torch.ones(len(numbers), dtype=torch.bool, device=landscape.theta.device)

    def chains(self) -> Chains:
        settings = self.settings
        assert settings.burn_in is not None
        assert settings.step_size is not None
        assert settings.inverse_temperature is not None
        steps = settings.burn_in + settings.draws
        at = np.linspace(settings.burn_in, steps - 1, min(settings.checks, settings.draws)).astype(int)
        checks = dict.fromkeys(at.tolist())
        rises = np.empty((len(self.numbers), steps))
        acceptance: list[Array] = []
        for step in range(steps):
            rises[:, step] = self._step(step)
            if step in checks:
                acceptance.append(self._acceptance(len(acceptance)))
        # The last move has no cost after it to fail by.
        self._drop(torch.zeros(len(self.numbers), device=self.moved.device))
        rises[~self.alive.cpu().numpy(), -1] = np.nan
        share = self.batches.size / self.batches.rows
        return Chains(
            rises=rises,
            burn_in=settings.burn_in,
            step_size=settings.step_size,
            inverse_temperature=settings.inverse_temperature,
            localisation=settings.localisation,
            acceptance=np.array(acceptance).T.reshape(len(self.numbers), -1),
            gradient_evaluations=len(self.numbers) * (steps * share + 2 * len(acceptance)),
        )

    def _step(self, step: int) -> Array:
        """Moves all chains by one step; returns their rises before it, nan for those that failed."""
        settings = self.settings
        index = self.batches.draw(self.rows)
        rises, slopes = self.batches.slopes(self.anchor + self.moved, index)
        self._drop(rises)
        if step % NOISE_STEPS == 0:
            self._draw_noise()
        step_size, nb = settings.step_size or 0.0, settings.inverse_temperature or 0.0
        pull = slopes.mul_(nb).add_(self.moved, alpha=settings.localisation)
        noise = self.noise[:, step % NOISE_STEPS]
        self.moved.add_(pull, alpha=-0.5 * step_size).add_(noise, alpha=step_size**0.5)
        found = torch.where(self.alive, rises, torch.full_like(rises, torch.nan))
        return np.asarray(found.cpu().numpy())

    def _draw_noise(self) -> None:
        """Draws whole blocks of steps: what a chain draws does not depend on how many steps it is to take."""
        shape = (len(self.streams), NOISE_STEPS, len(self.anchor))
        block = torch.empty(shape, dtype=self.anchor.dtype)
        for part, random in zip(block, self.streams, strict=True):
            torch.randn(shape[1:], generator=random, out=part)
        self.noise = block.to(self.anchor.device)

    def _drop(self, rises: Tensor) -> None:
        """Marks chains that left the finite numbers; they wait at the anchor, where nothing overflows."""
        nb = self.settings.inverse_temperature or 0.0
        fine = (rises.abs() * nb <= LARGEST_RISE * len(self.anchor)) & torch.isfinite(self.moved.sum(1))
        self.alive &= fine
        if not bool(self.alive.all()):
            self.moved[~self.alive] = 0.0

    def _acceptance(self, number: int) -> Array:
        """Probability of accepting one full-gradient proposal from each chain's state, which is not changed."""
        settings, step_size = self.settings, self.settings.step_size or 0.0
        noise = torch.stack(
            [
                torch.randn(
                    len(self.anchor),
                    generator=generator(settings.seed, f"{settings.stream}-check-{chain}", number),
                    dtype=self.anchor.dtype,
                )
                for chain in self.numbers
            ]
        ).to(self.anchor)
        energy, slope = self._energy(self.moved)
        proposal = self.moved - 0.5 * step_size * slope + self.anchor.new_tensor(step_size).sqrt() * noise
        after, back = self._energy(proposal)
        returned = self.moved - proposal + 0.5 * step_size * back
        forward = 0.5 * noise.double().square().sum(1)
        backward = 0.5 * (returned.double().square() / step_size).sum(1)
        probability = (energy - after + forward - backward).clamp_max(0.0).exp()
        return np.asarray(torch.where(self.alive, probability, torch.nan * probability).cpu().numpy())

    def _energy(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """``nb (L - L*) + g/2 |w - w*|^2`` on all data (chains,), and its gradient (chains, n)."""
        settings, index = self.settings, self.whole.draw(self.rows)
        rises, slopes = self.whole.slopes(self.anchor + moved, index)
        nb = settings.inverse_temperature or 0.0
        energy = nb * rises + 0.5 * settings.localisation * moved.double().square().sum(1)
        return energy, nb * slopes + settings.localisation * moved


def row_count(landscape: Landscape) -> int:
    """Rows of the data over all batches."""
    return sum(batch.rows for batch in landscape.batches)
