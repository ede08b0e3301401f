"""What decides the numbers of evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from comparisons.options import Chosen
from spectra.errors import UserError, require_counts


@dataclass(frozen=True)
class EvidenceSettings:
    """Everything that decides the numbers, apart from the checkpoint.

    Attributes:
        probes: of each spectrum.
        steps: Lanczos steps a probe.
        seed: the one seed that all randomness comes from.
        cutoff: T of volumes, unit of the cost.
        directions: of sampled volumes.
        k: of the shift ``c = k / s^2``, s the root mean square of the parameters.
        samples: most samples that are differentiated one by one.
        budget: gradients that each stochastic item may spend; None for what the other settings say.
        options: options of single measures that are not as usual, by measure and name; see ``chosen_options``.
    """

    probes: int = 6
    steps: int = 48
    seed: int = 0
    cutoff: float = 0.01
    directions: int = 64
    k: float = 1.0
    samples: int = 2048
    budget: int | None = None
    options: Chosen = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_counts(self, {"probes": 1, "steps": 1, "seed": 0, "directions": 1, "samples": 2})
        for name in ("cutoff", "k"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise UserError(f"{name} must be positive and finite, got {value}")
        if self.budget is not None and self.budget < 1:
            raise UserError(f"budget must be at least 1, got {self.budget}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The options that are not as usual, each in words.

        >>> EvidenceSettings(options={"keskar": {"epsilon": 5e-4}}).chosen
        ('keskar.epsilon 0.0005',)
        """
        return tuple(
            f"{measure}.{name} {f'{value:g}' if isinstance(value, float) else value}"
            for measure, values in self.options.items()
            for name, value in values.items()
        )
