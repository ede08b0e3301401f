"""The uniform prior on a box or a ball around the origin: rays are cut where they leave it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from volume.chunks import pieces, squared_lengths
from volume.priors.prior import PriorRow
from volume.priors.ray_density import Parabola, check_ray


@dataclass(frozen=True)
class UniformPrior:
    """Constant density on a box ``|theta_i| <= half_width`` or on a ball ``|theta| <= half_width``.

    Attributes:
        half_width: A: half the side of the box, or the radius of the ball; unit of the parameters.
        shape: ``box`` or ``ball``.

    Raises:
        UserError: if A is not positive and finite, or the shape is unknown.

    >>> round(UniformPrior(0.5).log_density(torch.zeros(7)), 6) + 0.0
    0.0
    """

    half_width: float
    shape: str = "box"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.half_width) and self.half_width > 0.0):
            raise UserError(f"half_width must be positive and finite, got {self.half_width:g}")
        if self.shape not in ("box", "ball"):
            raise UserError(f"shape must be box or ball, got {self.shape!r}")

    @property
    def name(self) -> str:
        """``uniform:A`` or ``ball:A``, as it is parsed."""
        return f"{'uniform' if self.shape == 'box' else 'ball'}:{self.half_width:.6g}"

    @property
    def proper(self) -> bool:
        """True."""
        return True

    def _size_of(self, theta: Tensor) -> float:
        if self.shape == "ball":
            return float(squared_lengths(theta[None]).sqrt())
        return max(float(theta[part].abs().max()) for part in pieces(len(theta)))

    def log_density(self, theta: Tensor) -> float:
        """Minus the log volume of the support, nats; -inf outside of it."""
        if self._size_of(theta) > self.half_width:
            return -math.inf
        n = len(theta)
        unit = n * math.log(2.0) if self.shape == "box" else n / 2 * math.log(math.pi) - math.lgamma(n / 2 + 1)
        return -unit - n * math.log(self.half_width)

    def ray(self, anchor: Tensor, directions: Tensor) -> Parabola:
        """Constant up to where the ray leaves the box or ball.

        Args:
            anchor: (n,) where rays start.
            directions: (k, n), one a ray.

        Returns:
            The log density along each ray.

        Raises:
            UserError: if the anchor lies outside of the support.
        """
        check_ray(anchor, directions)
        if self._size_of(anchor) > self.half_width:
            raise UserError(
                f"the anchor lies outside of the prior {self.name}: its "
                f"{'largest parameter' if self.shape == 'box' else 'norm'} is {self._size_of(anchor):.6g}"
            )
        zero = np.zeros(len(directions))
        extent = self._box_extent(anchor, directions) if self.shape == "box" else self._ball_extent(anchor, directions)
        return Parabola(zero + self.log_density(anchor), zero, zero, extent.cpu().numpy())

    def _box_extent(self, anchor: Tensor, directions: Tensor) -> Tensor:
        extent = torch.full((len(directions),), torch.inf, dtype=torch.float64, device=directions.device)
        for part in pieces(len(anchor)):
            piece = directions[:, part].double()
            room = self.half_width - piece.sign() * anchor[part].detach().double()
            reach = torch.where(piece == 0.0, torch.inf, room / piece.abs())
            extent = torch.minimum(extent, reach.amin(1))
        return extent

    def _ball_extent(self, anchor: Tensor, directions: Tensor) -> Tensor:
        along = torch.zeros(len(directions), dtype=torch.float64, device=directions.device)
        square = torch.zeros_like(along)
        for part in pieces(len(anchor)):
            piece = directions[:, part].double()
            along += piece @ anchor[part].detach().double()
            square += piece.square().sum(1)
        # The positive root of |u|^2 r^2 + 2 (u.theta) r = A^2 - |theta|^2, without cancellation.
        room = self.half_width**2 - float(squared_lengths(anchor[None]))
        root = (along.square() + square * room).sqrt()
        return torch.where(along > 0.0, room / (along + root), (root - along) / square)

    def sample(self, generator: torch.Generator, count: int, size: int) -> Tensor:
        """Independent draws (count, size), float64."""
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        if self.shape == "box":
            return self.half_width * (2.0 * torch.rand(count, size, **options) - 1.0)
        draws = torch.randn(count, size, **options)
        radii = torch.rand(count, 1, **options) ** (1.0 / size)
        scaled: Tensor = self.half_width * radii * draws / draws.norm(dim=1, keepdim=True)
        return scaled

    def scale(self, size: int) -> Tensor:
        """Standard deviation (size,) of each parameter: ``A / sqrt 3`` in the box, ``A / sqrt(n + 2)`` in the ball."""
        value = self.half_width / math.sqrt(3.0 if self.shape == "box" else size + 2.0)
        return torch.full((size,), value, dtype=torch.float64)


ROWS = (
    PriorRow("uniform", lambda numbers, anchor: UniformPrior(numbers[0]), forms={"uniform:A": ""}),  # noqa: ARG005
    PriorRow("ball", lambda numbers, anchor: UniformPrior(numbers[0], "ball"), forms={"ball:A": ""}),  # noqa: ARG005
)
