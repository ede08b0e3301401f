"""The built-in costs: softmax cross-entropy, squared error, Bernoulli cross-entropy, divergence from the anchor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spectra.costs.likelihood import Likelihood, Uniforms, check_tensors, precise, shape_of
from spectra.costs.softmax import CrossEntropy, KLFromAnchor
from spectra.errors import UserError


@dataclass(frozen=True, eq=False)
class MeanSquaredError(Likelihood):
    """Squared error averaged over each sample's outputs, ``|f - y|^2 / K``, unit of the outputs squared.

    The same as ``torch.nn.functional.mse_loss`` once averaged over samples. As a likelihood: Gaussian with
    variance K / 2 in each output, so that the Fisher is the Gauss-Newton matrix.
    """

    name: str = "mean-squared-error"
    unit: str = "output^2"
    notes: tuple[str, ...] = ()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cost of each sample, (samples,)."""
        self.check(outputs, targets)
        return (outputs - targets).reshape(outputs.shape[0], -1).square().mean(-1)

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses targets of another shape than the outputs: torch would broadcast them."""
        check_tensors(self.name, outputs, targets)
        if outputs.shape != targets.shape:
            raise UserError(
                f"mean squared error needs targets of the outputs' shape {shape_of(outputs)}, got {shape_of(targets)}"
            )

    def hessian_product(self, rows: Tensor, tangents: Tensor, targets: Any) -> Tensor:  # noqa: ARG002
        """``2 t / K`` of each sample."""
        return tangents * (2.0 / rows.shape[-1])

    def hessian_factor(self, rows: Tensor, targets: Any) -> Tensor:  # noqa: ARG002
        """``sqrt(2 / K)`` times the identity, for each sample."""
        width = rows.shape[-1]
        identity = torch.eye(width, dtype=rows.dtype, device=rows.device) * math.sqrt(2.0 / width)
        return identity.expand(len(rows), width, width)

    def hessian_diagonal(self, rows: Tensor, targets: Any) -> Tensor:  # noqa: ARG002
        """``2 / K`` of each output."""
        return torch.full_like(rows, 2.0 / rows.shape[-1])

    def sample_scores(self, rows: Tensor, uniforms: Uniforms, targets: Any) -> Tensor:  # noqa: ARG002
        """``2 (f - y) / K`` for y drawn from a Gaussian of variance K / 2 around f."""
        width = rows.shape[-1]
        noise: Tensor = torch.special.ndtri(uniforms(width))
        return noise.to(rows) * math.sqrt(2.0 / width)


@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy(Likelihood):
    """Bernoulli cross-entropy of logits averaged over each sample's outputs, in nats; targets from 0 to 1.

    The same as ``torch.nn.functional.binary_cross_entropy_with_logits`` once averaged over samples. As a likelihood:
    independent Bernoulli outputs, each tempered by 1 / K, so that the Fisher is the Gauss-Newton matrix.

    Attributes:
        weight: weights of the elements, broadcast over the outputs, or None.
        pos_weight: weights of the positive part, broadcast over the outputs, or None.
    """

    name: str = "binary-cross-entropy"
    unit: str = "nat"
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cost of each sample, (samples,)."""
        logits = precise(outputs)
        weight, positive = (None if one is None else one.to(logits) for one in (self.weight, self.pos_weight))
        costs = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits), weight, reduction="none", pos_weight=positive
        )
        return costs.reshape(len(outputs), -1).mean(-1)

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses targets of another shape than the outputs, or outside of [0, 1]."""
        check_tensors(self.name, outputs, targets)
        if outputs.shape != targets.shape or outputs.dim() == 0:
            raise UserError(
                f"cost {self.name} needs targets of the outputs' shape {shape_of(outputs)}, got {shape_of(targets)}"
            )
        wrong = targets[~((targets >= 0) & (targets <= 1))]
        if len(wrong):
            raise UserError(f"cost {self.name} needs targets from 0 to 1, got {float(wrong[0]):.6g}")

    def _variances(self, rows: Tensor, targets: Tensor) -> Tensor:
        chance, share = rows.sigmoid(), targets.to(rows)
        mass = share + (1.0 - share) if self.pos_weight is None else self.pos_weight.to(rows) * share + (1.0 - share)
        mass = mass if self.weight is None else mass * self.weight.to(rows)
        return mass.reshape(len(rows), -1) * chance * (1.0 - chance) / rows.shape[-1]

    def hessian_product(self, rows: Tensor, tangents: Tensor, targets: Any) -> Tensor:
        """``w s (1 - s) t / K`` with s the sigmoid of each output."""
        return self._variances(precise(rows), targets) * tangents

    def hessian_factor(self, rows: Tensor, targets: Any) -> Tensor:
        """The diagonal of square roots, for each sample."""
        return torch.diag_embed(self._variances(precise(rows), targets).sqrt())

    def hessian_diagonal(self, rows: Tensor, targets: Any) -> Tensor:
        """``w s (1 - s) / K`` with s the sigmoid of each output."""
        return self._variances(precise(rows), targets)

    def sample_scores(self, rows: Tensor, uniforms: Uniforms, targets: Any) -> Tensor:
        """``(s - y) sqrt(w / K)`` for y drawn from the Bernoulli of each output."""
        chance = precise(rows).sigmoid()
        drawn = (uniforms(rows.shape[-1]).to(rows.device) < chance.double()).to(chance)
        own = (chance * (1.0 - chance)).clamp_min(torch.finfo(chance.dtype).tiny)
        return (chance - drawn) * (self._variances(precise(rows), targets) / own).sqrt()


cross_entropy = CrossEntropy()
mean_squared_error = MeanSquaredError()
binary_cross_entropy = BinaryCrossEntropy()
kl_from_anchor = KLFromAnchor()
_BUILT_IN: tuple[Likelihood, ...] = (cross_entropy, mean_squared_error, binary_cross_entropy, kl_from_anchor)
BY_NAME = {cost.name: cost for cost in _BUILT_IN}
