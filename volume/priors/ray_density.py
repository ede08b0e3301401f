"""A prior's log density along rays, and its radial integrals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectra.errors import UserError
from volume.priors.radial import log_radial_integral, log_radial_slope

Array = NDArray[np.float64]
# exp(-d^2 / 2) at d = 9 standard deviations is below the rounding of one.
_NEGLIGIBLE = 9.0


class RayDensity(ABC):
    """The log density of a prior along k rays: a dataclass whose fields are arrays (k,).

    Attributes:
        extent: (k,) where each ray leaves the prior's support; inf if it never does.
    """

    extent: Array

    @abstractmethod
    def at(self, radius: Array) -> Array:
        """Log density at ``radius`` (..., k) along each ray, nats per unit volume; -inf outside the support."""

    @abstractmethod
    def reach(self, size: int) -> Array:
        """Radius (k,) beyond which no mass is left to rounding, for n parameters; inf where nothing ends the ray."""

    @abstractmethod
    def log_integral(self, radius: Array, size: int) -> Array:
        """``log int_0^R density(r) r^(n-1) dr`` of each ray, for R (k,), which may be inf and lies in the support."""

    def log_slope(self, radius: Array, size: int) -> Array:
        """``d log_integral / d log R`` (k,), for finite R: the nats that a relative error of the radius costs."""
        slope: Array = np.exp(self.at(radius) + size * np.log(radius) - self.log_integral(radius, size))
        return slope

    @property
    def flat(self) -> NDArray[np.bool_]:
        """(k,) whether the density is the same all along the ray, as far as it goes."""
        return np.zeros(len(self.extent), dtype=bool)

    def taken(self, rows: NDArray[np.int64]) -> Self:
        """The density along some of the rays, by their numbers."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The densities along the rays of several blocks as one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Parabola(RayDensity):
    """``constant - linear r - quadratic r^2 / 2`` for r in [0, extent].

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
        """Log density at ``radius`` (..., k), -inf outside the support."""
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

    def log_integral(self, radius: Array, size: int) -> Array:
        """See ``volume.priors.log_radial_integral``."""
        return log_radial_integral(radius, size, constant=self.constant, linear=self.linear, quadratic=self.quadratic)

    def log_slope(self, radius: Array, size: int) -> Array:
        """See ``volume.priors.log_radial_slope``."""
        return log_radial_slope(radius, size, constant=self.constant, linear=self.linear, quadratic=self.quadratic)

    @property
    def flat(self) -> NDArray[np.bool_]:
        """(k,) whether neither coefficient bends the density."""
        return np.asarray((self.linear == 0.0) & (self.quadratic == 0.0))


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
