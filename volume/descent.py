"""Whether the anchor is a minimum of the cost at hand, and by how much it is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra.lanczos import dots
from spectra.landscape import Landscape
from volume.chunks import at_once

RADII = 24
# A fall below this share of the cutoff does not move the basin's edge by anything worth a sentence.
TELL = 0.01


@dataclass(frozen=True)
class Descent:
    """What lies below the anchor, along its negative gradient.

    Attributes:
        gradient_norm: norm of the cost's gradient at the anchor, cost per unit of the parameters.
        fall: the most that the cost falls below the anchor's along the ray, unit of the cost; 0 if nowhere.
        distance: how far from the anchor, unit of the parameters.
    """

    gradient_norm: float
    fall: float
    distance: float

    def caution(self, cutoff: float, unit: str = "nat") -> str:
        """A sentence if the fall matters at the cutoff, else nothing.

        Args:
            cutoff: T, unit of the cost.
            unit: unit of the cost.

        Returns:
            The sentence, or an empty text.

        >>> Descent(1e-8, 0.0, 0.0).caution(0.01)
        ''
        """
        if self.fall <= TELL * cutoff:
            return ""
        measured = "" if unit == "cost" else f" {unit}"
        return (
            f"the checkpoint is no minimum of this cost: its gradient has norm {self.gradient_norm:.3g} {unit} / "
            f"parameter, and {self.distance:.3g} along the descent the cost is {self.fall:.3g}{measured} lower, "
            f"{self.fall / cutoff:.3g} times the cutoff"
        )


def descent(landscape: Landscape) -> Descent:
    """Looks along the negative gradient, at radii from 1e-6 to 1 of the anchor's norm.

    Args:
        landscape: the cost.

    Returns:
        The gradient's norm and the lowest cost that was seen.

    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    >>> at = torch.tensor([2.0])
    >>> found = descent(Landscape(model, mean_squared_error, (x, torch.zeros(1, 1)), theta=at))
    >>> round(found.gradient_norm, 3), 3.9 < found.fall <= 4.0
    (4.0, True)
    """
    slope = landscape.gradient()
    norm = _norm(slope)
    if norm == 0.0:
        return Descent(0.0, 0.0, 0.0)
    scale = _norm(landscape.theta) or 1.0
    radii = scale * np.logspace(-6.0, 0.0, RADII)
    count = at_once(landscape.size, RADII)
    slope /= norm
    costs = [_costs(landscape, slope, radii[first : first + count]) for first in range(0, RADII, count)]
    falls = landscape.anchor_cost - np.concatenate(costs)
    falls = np.where(np.isfinite(falls), falls, -np.inf)
    best = int(np.argmax(falls))
    if not falls[best] > 0.0:
        return Descent(norm, 0.0, 0.0)
    return Descent(norm, float(falls[best]), float(radii[best]))


def _costs(landscape: Landscape, direction: Tensor, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """The costs against a direction (n,), at radii (k,)."""
    steps = torch.as_tensor(radii, dtype=direction.dtype, device=direction.device).unsqueeze(1) * direction
    moved = torch.sub(landscape.theta, steps, out=steps)
    found: NDArray[np.float64] = landscape.costs(moved).double().cpu().numpy()
    return found


def _norm(vector: Tensor) -> float:
    return float(dots(vector[None], vector[None]).sqrt())
