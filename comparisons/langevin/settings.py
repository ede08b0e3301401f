"""What decides the numbers of a run of chains, apart from the landscape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from comparisons.sharpness_result import counted, positive
from comparisons.words import SAMPLERS
from spectra.errors import UserError
from spectra.landscape import Landscape


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
        batch_size: rows of a minibatch; None for all rows, and so the exact gradient. ``mala`` always takes all rows.
        checks: steps at which the Metropolis acceptance probability is computed, two full gradients a chain each; not
            of ``mala``, which has it at each step.
        seed: chain i of seed s depends on nothing but i, s, the stream and the kind of device.
        stream: name of the random numbers; runs of one seed and two streams are independent.
        sampler: ``sgld``; ``rmsprop``, whose step is e where the gradients are smallest, and as much shorter elsewhere
            as their root mean square is larger; or ``mala``, which accepts or rejects each step and so has no error of
            the step size.
        decay: of the running mean of the gradient's square, of ``rmsprop``.
        floor: added to its root, in units of the gradient of the mean cost, of ``rmsprop``.
        sample_draws: states of each chain, evenly spaced after the burn-in, at which each sample's cost is computed.
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
    sampler: str = "sgld"
    decay: float = 0.99
    floor: float = 0.1
    sample_draws: int = 0

    def __post_init__(self) -> None:
        for name in ("inverse_temperature", "step_size"):
            value = getattr(self, name)
            if value is not None:
                positive(**{name: value})
        counted(chains=self.chains, draws=self.draws)
        positive(floor=self.floor)
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r}")
        if not (np.isfinite(self.localisation) and self.localisation >= 0.0):
            raise UserError(f"localisation must be finite and non-negative, got {self.localisation}")
        if not 0.0 <= self.decay < 1.0:
            raise UserError(f"decay must be at least 0 and below 1, got {self.decay}")
        for name in ("burn_in", "checks", "sample_draws"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name} must be at least 0, got {value}")
        if self.sampler == "rmsprop" and self.burn_in is not None and self.burn_in < self.memory:
            raise UserError(
                f"burn_in must be at least {self.memory} for sampler rmsprop, the steps that its averages remember, "
                f"got {self.burn_in}"
            )

    @property
    def memory(self) -> int:
        """Steps that the running means of ``rmsprop`` remember."""
        return math.ceil(1.0 / (1.0 - self.decay) - 1e-9)

    def at(self, landscape: Landscape) -> ChainSettings:
        """With the inverse temperature of the landscape's number of samples, and all rows where the sampler asks."""
        nb = self.inverse_temperature
        if nb is None:
            if landscape.samples <= 1.0:
                raise UserError("inverse_temperature must be given: n / log n needs more than one sample")
            nb = landscape.samples / float(np.log(landscape.samples))
        return replace(self, inverse_temperature=nb, batch_size=None if self.sampler == "mala" else self.batch_size)
