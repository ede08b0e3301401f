"""Lebesgue measure: plain volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from volume.priors.prior import PriorRow
from volume.priors.ray_density import Parabola, check_ray


@dataclass(frozen=True)
class Lebesgue:
    """Plain volume: the density is one everywhere.

    >>> Lebesgue().log_density(torch.ones(3))
    0.0
    """

    @property
    def name(self) -> str:
        """``lebesgue``."""
        return "lebesgue"

    @property
    def proper(self) -> bool:
        """False."""
        return False

    def log_density(self, theta: Tensor) -> float:  # noqa: ARG002
        """Zero."""
        return 0.0

    def ray(self, anchor: Tensor, directions: Tensor) -> Parabola:
        """Zero along every ray, without end."""
        check_ray(anchor, directions)
        zero = np.zeros(len(directions))
        return Parabola(zero, zero, zero, np.full(len(directions), np.inf))

    def sample(self, generator: torch.Generator, count: int, size: int) -> Tensor:  # noqa: ARG002
        """Refused.

        Raises:
            UserError: always.
        """
        raise UserError("Lebesgue measure has no total mass to sample from; use a gaussian or uniform prior")

    def scale(self, size: int) -> Tensor:
        """Infinity."""
        return torch.full((size,), torch.inf, dtype=torch.float64)


ROWS = (PriorRow("lebesgue", lambda numbers, given: Lebesgue(), forms={"lebesgue": ""}),)  # noqa: ARG005
