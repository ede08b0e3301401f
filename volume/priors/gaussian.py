"""The Gaussian prior of mean zero: its log density along rays is a parabola."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.model import ParameterLayout
from volume.chunks import pieces, squared_lengths
from volume.priors.prior import Anchor, PriorRow
from volume.priors.ray_density import Parabola, check_ray

INITIALISATION = "initialisation_standard_deviations"


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Independent normals of mean zero: ``log rho = -sum_i [theta_i^2 / (2 s_i^2) + log s_i + log(2 pi) / 2]``.

    Attributes:
        standard_deviation: s, one number, or (n,) one a parameter; unit of the parameters.
        origin: where s came from, for messages.

    Raises:
        UserError: if a standard deviation is not positive and finite.

    >>> round(GaussianPrior(2.0).log_density(torch.zeros(1)), 6)  # -log(2 sqrt(2 pi))
    -1.612086
    """

    standard_deviation: float | Tensor
    origin: str = "given"

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.standard_deviation, dtype=torch.float64)
        if values.dim() > 1 or values.numel() == 0:
            raise UserError(f"standard_deviation must be a number or a vector, got shape {tuple(values.shape)}")
        bad = ~(torch.isfinite(values) & (values > 0.0))
        if bool(bad.any()):
            found, count = float(values[bad].flatten()[0]), int(bad.sum())
            where = f" in {count} of {values.numel()} parameters" if values.dim() else ""
            raise UserError(f"standard_deviation must be positive and finite, got {found:g}{where}")

    @classmethod
    def from_initialisation(cls, metadata: Mapping[str, Any], layout: ParameterLayout) -> GaussianPrior:
        """The standard deviations that the parameters were initialised with.

        Args:
            metadata: of the checkpoint; its ``initialisation_standard_deviations`` maps parameter names to numbers.
            layout: names and order of the parameters of theta.

        Returns:
            The prior, one standard deviation a parameter (n,).

        Raises:
            UserError: if the metadata has none, or not those of a parameter, or one that is not positive.
        """
        known = metadata.get(INITIALISATION)
        if not isinstance(known, Mapping):
            raise UserError(f"the checkpoint's metadata has no {INITIALISATION}; use gaussian:S with a number S")
        missing = [name for name in layout.names if name not in known]
        if missing:
            raise UserError(f"{INITIALISATION} lacks {missing[0]} ({len(missing)} of {len(layout.names)} missing)")
        parts = []
        for name, size in zip(layout.names, layout.sizes, strict=True):
            value = float(known[name])
            if not (math.isfinite(value) and value > 0.0):
                raise UserError(f"{INITIALISATION} of {name} must be positive and finite, got {value:g}")
            parts.append(torch.full((size,), value, dtype=torch.float64))
        return cls(torch.cat(parts), "initialisation")

    @classmethod
    def from_parameters_rms(cls, theta: Tensor) -> GaussianPrior:
        """The root mean square of the parameters as their common standard deviation.

        Args:
            theta: (n,) parameters, of this checkpoint or of the initial one.

        Returns:
            The prior.

        Raises:
            UserError: if all parameters are zero, or one is not finite.

        >>> GaussianPrior.from_parameters_rms(torch.tensor([3.0, -3.0])).standard_deviation
        3.0
        """
        rms = math.sqrt(float(squared_lengths(theta[None])) / max(len(theta), 1))
        if not (math.isfinite(rms) and rms > 0.0):
            raise UserError(
                f"the root mean square of the parameters must be positive and finite, got {rms:g}; give the prior's "
                "width, as gaussian:0.1"
            )
        return cls(rms, "root mean square of the parameters")

    @property
    def name(self) -> str:
        """``gaussian`` with its width and origin."""
        if isinstance(self.standard_deviation, Tensor) and self.standard_deviation.dim():
            return f"gaussian, {len(self.standard_deviation)} standard deviations ({self.origin})"
        return f"gaussian:{float(self.standard_deviation):.6g} ({self.origin})"

    @property
    def proper(self) -> bool:
        """True."""
        return True

    def log_density(self, theta: Tensor) -> float:
        """Log density at theta (n,), nats."""
        found = -0.5 * len(theta) * math.log(2.0 * math.pi)
        s = self.scale(len(theta))
        for part in pieces(len(theta)):
            found -= 0.5 * float((theta[part].detach().cpu().double() / s[part]).square().sum())
            found -= float(s[part].log().sum())
        return found

    def ray(self, anchor: Tensor, directions: Tensor) -> Parabola:
        """``b = sum u_i theta_i / s_i^2``, ``c = sum u_i^2 / s_i^2``, without end."""
        check_ray(anchor, directions)
        s = self.scale(len(anchor))
        linear = torch.zeros(len(directions), dtype=torch.float64, device=directions.device)
        quadratic = torch.zeros_like(linear)
        for part in pieces(len(anchor)):
            piece, precision = directions[:, part].double(), s[part].to(anchor.device).pow(-2)
            linear += piece @ (anchor[part].detach().double() * precision)
            quadratic += piece.square() @ precision
        count = len(directions)
        constant = np.full(count, self.log_density(anchor))
        return Parabola(constant, linear.cpu().numpy(), quadratic.cpu().numpy(), np.full(count, np.inf))

    def sample(self, generator: torch.Generator, count: int, size: int) -> Tensor:
        """Independent draws (count, size), float64."""
        s = self.scale(size).to(generator.device)
        return s * torch.randn(count, size, generator=generator, dtype=torch.float64, device=generator.device)

    def scale(self, size: int) -> Tensor:
        """Standard deviations (size,), float64.

        Args:
            size: number of parameters.

        Returns:
            One a parameter.

        Raises:
            UserError: if the prior has another number of them.
        """
        values = torch.as_tensor(self.standard_deviation, dtype=torch.float64).cpu()
        if values.dim() == 0:
            return values.expand(size)
        if len(values) != size:
            raise UserError(f"the prior has {len(values)} standard deviations, expected {size}, one a parameter")
        return values


def _of_width(numbers: tuple[float, ...], anchor: Anchor) -> GaussianPrior:
    return GaussianPrior(numbers[0]) if numbers else GaussianPrior.from_parameters_rms(anchor.theta)


def _of_initialisation(numbers: tuple[float, ...], anchor: Anchor) -> GaussianPrior:  # noqa: ARG001
    if anchor.layout is None:
        raise UserError("prior 'init' needs a model whose parameters have names")
    return GaussianPrior.from_initialisation(anchor.metadata, anchor.layout)


ROWS = (
    PriorRow(
        "gaussian",
        _of_width,
        forms={"gaussian": "width: root mean square of the parameters", "gaussian:S": ""},
        gaussian=True,
        smooth=True,
    ),
    PriorRow("init", _of_initialisation, forms={"init": ""}, gaussian=True, smooth=True),
)
