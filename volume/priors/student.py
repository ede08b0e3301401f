"""The multivariate Student t prior: a Gaussian whose width is itself unknown, with heavy tails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv
from torch import Tensor

from spectra.errors import UserError
from volume.chunks import squared_lengths
from volume.priors.gaussian import GaussianPrior
from volume.priors.prior import PriorRow
from volume.priors.radial import log_around_peak
from volume.priors.ray_density import RayDensity

Array = NDArray[np.float64]
# exp(-40) is below the rounding of one.
_NEGLIGIBLE = 40.0


@dataclass(frozen=True, eq=False)
class StudentRays(RayDensity):
    """``constant - power log(1 + 2 linear r + quadratic r^2)``, without end.

    Attributes:
        constant: (k,) log density at the anchor, nats per unit volume.
        linear: (k,) b, per unit of r.
        quadratic: (k,) c > 0, per squared unit of r.
        power: (k,) p, half of the degrees of freedom and the dimension.
        extent: (k,) inf.
    """

    constant: Array
    linear: Array
    quadratic: Array
    power: Array
    extent: Array

    def at(self, radius: Array) -> Array:
        """Log density at ``radius`` (..., k), nats per unit volume."""
        return self.constant - self.power * np.log1p(radius * (2.0 * self.linear + self.quadratic * radius))

    def reach(self, size: int) -> Array:
        """Radius (k,) beyond which no mass is left to rounding, for n parameters."""
        freedom = 2.0 * self.power - size
        # From here on the integrand falls at least as fast as r^-(freedom / 2) in log r, and its peak lies before.
        tail = 2.0 * np.sqrt(4.0 * self.power / (freedom * self.quadratic))
        tail += 8.0 * self.power * np.abs(self.linear) / (freedom * self.quadratic)
        return np.asarray(tail * np.exp(2.0 * _NEGLIGIBLE / freedom))

    def log_integral(self, radius: Array, size: int) -> Array:
        """``log int_0^R density(r) r^(n-1) dr``, by quadrature in log r about the peak.

        ``g(x) = n x - p log(1 + 2 b e^x + c e^2x)`` has one peak, where ``(2p - n) c r^2 + 2 (p - n) b r = n``.

        Raises:
            UserError: if the integral to infinity does not exist.
        """
        b, c, p = self.linear, self.quadratic, self.power
        if not (2.0 * p > size).all():
            raise UserError(
                f"an integral of order {size} does not exist under a student prior of so few degrees of freedom"
            )
        bend, tilt = (2.0 * p - size) * c, (p - size) * b
        root = np.sqrt(tilt**2 + bend * size)
        peak = np.minimum(
            np.where(tilt > 0.0, size / np.where(tilt > 0.0, tilt + root, 1.0), (root - tilt) / bend), radius
        )
        there = np.maximum(peak, np.finfo(np.float64).tiny)
        known = 1.0 + there * (2.0 * b + c * there)

        def fall(x: Array) -> Array:
            change = 2.0 * b * there * np.expm1(x) + c * there * there * np.expm1(2.0 * x)
            return np.asarray(size * x - p * np.log1p(change / known))

        slope = np.abs(size - 2.0 * p * there * (b + c * there) / known)
        with np.errstate(divide="ignore"):  # R = 0
            upper = np.log(np.asarray(radius, dtype=np.float64) / there)
            total = log_around_peak(fall, 1.0 / (slope + np.sqrt(p)), np.full(len(b), np.inf), np.maximum(upper, 0.0))
        return np.where(np.asarray(radius) > 0.0, self.at(there) + size * np.log(there) + total, -np.inf)


@dataclass(frozen=True)
class StudentPrior:
    r"""Student's t in all parameters at once: ``rho ~ (1 + |theta|^2 / (nu s^2))^(-(nu + n) / 2)``.

    It is the Gaussian of variance ``s^2 / g`` averaged over g of a gamma distribution, so that parameters are
    uncorrelated but share their scale, and a far anchor is not as unlikely as under any one Gaussian.

    Attributes:
        standard_deviation: S of each parameter, ``s sqrt(nu / (nu - 2))``; unit of the parameters.
        freedom: nu, above 2.

    Raises:
        UserError: if S is not positive and finite, or nu is not above 2 and finite.

    Reference:
        Kotz and Nadarajah, Multivariate t distributions and their applications, 2004.

    >>> round(StudentPrior(3.0**0.5, 3.0).log_density(torch.zeros(1)), 6)  # t of 3 degrees at 0: log(2 / (pi sqrt 3))
    -1.000889
    """

    standard_deviation: float
    freedom: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.standard_deviation) and self.standard_deviation > 0.0):
            raise UserError(f"standard_deviation must be positive and finite, got {self.standard_deviation:g}")
        if not 2.0 < self.freedom < math.inf:
            raise UserError(f"the degrees of freedom of a student prior must be above 2, got {self.freedom:g}")

    @property
    def name(self) -> str:
        """``student:S:NU``, as it is parsed."""
        return f"student:{self.standard_deviation:.6g}:{self.freedom:.6g}"

    @property
    def proper(self) -> bool:
        """True."""
        return True

    @property
    def _square(self) -> float:
        """``nu s^2``."""
        return (self.freedom - 2.0) * self.standard_deviation**2

    def log_density(self, theta: Tensor) -> float:
        """Log density at theta (n,), nats."""
        return float(self._at(squared_lengths(theta[None]), len(theta)))

    def log_densities(self, thetas: Tensor) -> Tensor:
        """Log densities (k,) at rows of thetas (k, n), differentiable."""
        return self._at(thetas.double().square().sum(1), thetas.shape[1])

    def _at(self, squares: Tensor, size: int) -> Tensor:
        nu = self.freedom
        constant = (
            math.lgamma((nu + size) / 2.0) - math.lgamma(nu / 2.0) - size / 2.0 * math.log(math.pi * self._square)
        )
        return constant - (nu + size) / 2.0 * torch.log1p(squares / self._square)

    def ray(self, anchor: Tensor, directions: Tensor) -> StudentRays:
        """The log density from the anchor (n,) along the rows of directions (k, n)."""
        plain = GaussianPrior(1.0).ray(anchor, directions)
        whole = self._square + float(squared_lengths(anchor[None]))
        ones = np.ones(len(directions))
        return StudentRays(
            self.log_density(anchor) * ones,
            plain.linear / whole,
            plain.quadratic / whole,
            (self.freedom + len(anchor)) / 2.0 * ones,
            np.inf * ones,
        )

    def sample(self, generator: torch.Generator, count: int, size: int) -> Tensor:
        """Independent draws (count, size), float64."""
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        levels, draws = torch.rand(count, 1, **options).cpu().numpy(), torch.randn(count, size, **options)
        # Half of nu times the gamma variable g, of shape nu / 2, by its distribution function.
        gammas = torch.as_tensor(gammaincinv(self.freedom / 2.0, levels)).to(draws)
        return draws * (0.5 * self._square / gammas).sqrt()

    def scale(self, size: int) -> Tensor:
        """Standard deviation (size,) of each parameter."""
        return torch.full((size,), self.standard_deviation, dtype=torch.float64)


ROWS = (
    PriorRow(
        "student",
        lambda numbers, anchor: StudentPrior(numbers[0], numbers[1]),  # noqa: ARG005
        forms={"student:S:NU": "Student's t of standard deviation S with NU > 2 degrees of freedom"},
        smooth=True,
    ),
)
