"""A prior's log density along rays: a parabola in the radius, up to where the ray leaves the support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectra.errors import UserError

Array = NDArray[np.float64]
# exp(-d^2 / 2) at d = 9 standard deviations is below the rounding of one.
_NEGLIGIBLE = 9.0


@dataclass(frozen=True, eq=False)
class RayDensity:
    """The log density of a prior along rays: ``constant - linear r - quadratic r^2 / 2`` for r in [0, extent].

    Attributes:
        constant: (k,) log density at the anchor, nats per unit volume; 0 for Lebesgue measure.
        linear: (k,) b, per unit of r.
        quadratic: (k,) c >= 0, per squared unit of r.
        extent: (k,) where the ray leaves the prior's support; inf if it never does.
    """

    constant: Array
    linear: Array
    quadratic: Array
    extent: Array

    def at(self, radius: Array) -> Array:
        """Log density (k,) at ``radius`` (k,) along each ray, -inf outside the support."""
        inside = self.constant - self.linear * radius - radius * (self.quadratic * radius) / 2.0
        return np.where(radius <= self.extent, inside, -np.inf)

    def reach(self, size: int) -> Array:
        """Radius (k,) beyond which no mass is left: the end of the support, or 9 deviations past the peak.

        Past the peak of ``density * r^(size - 1)`` the integrand falls faster than a Gaussian of precision c.

        Args:
            size: number of parameters n.

        Returns:
            One radius a ray; inf where neither the prior nor its support ends the ray.
        """
        curved = self.quadratic > 0.0
        c, b = np.where(curved, self.quadratic, 1.0), self.linear
        root = np.sqrt(b**2 + 4.0 * c * (size - 1))
        # The root of c r^2 + b r = size - 1, without cancellation for either sign of b.
        peak = np.where(b > 0.0, 2.0 * (size - 1) / np.where(b > 0.0, b + root, 1.0), (root - b) / (2.0 * c))
        return np.minimum(self.extent, np.where(curved, peak + _NEGLIGIBLE / np.sqrt(c), np.inf))


def check_ray(anchor: Tensor, directions: Tensor) -> None:
    """Refuse directions that do not fit the anchor.

    Args:
        anchor: (n,) where rays start.
        directions: (k, n), one a ray.

    Raises:
        UserError: if the shapes are others.
    """
    if anchor.dim() != 1 or directions.dim() != 2 or directions.shape[1] != len(anchor):
        raise UserError(
            f"directions must have shape (k, {len(anchor) if anchor.dim() else 'n'}), got {tuple(directions.shape)}"
        )
