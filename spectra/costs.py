"""Costs: one value a sample, and what curvature needs of them in the space of outputs.

A cost is any callable ``(outputs, targets) -> (samples,)``. The three here know more: their Hessian
in the outputs (for Gauss-Newton), a square root of it (for the Gram route), how to draw targets from the
model's own likelihood (for the Fisher), and which samples count (masked tokens do not).
Outputs of shape (..., K) with targets of shape (...) hold one sample a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

PerSampleCost = Callable[[Any, Any], Tensor]


@runtime_checkable
class Likelihood(Protocol):
    """A cost that is the negative log-likelihood of a model of the targets, up to a constant.

    ``rows`` below is the outputs as a matrix (samples, outputs per sample).
    """

    @property
    def name(self) -> str:
        """What messages and files call it."""
        ...

    @property
    def unit(self) -> str:
        """Unit of its values."""
        ...

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        """Cost of each sample, (samples,)."""
        ...

    def weights(self, targets: Any) -> Tensor | None:
        """Weight of each sample, (samples,); None if each counts one."""
        ...

    def hessian_product(self, rows: Tensor, tangents: Tensor) -> Tensor:
        """Hessian of each sample's cost in its outputs, times tangents (samples, K) -> (samples, K)."""
        ...

    def hessian_factor(self, rows: Tensor) -> Tensor:
        """(samples, r, K) with ``factor^T factor`` the Hessian of each sample's cost in its outputs."""
        ...

    def sample_scores(self, rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """(draws, samples, K) gradients of the cost in the outputs at targets drawn from the model."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy from logits (..., K), in nats; targets are classes (...) or probabilities (..., K).

    Samples whose class is ``ignore_index`` have weight zero, as in ``torch.nn.functional.cross_entropy``.
    """

    ignore_index: int = -100
    name: str = "cross-entropy"
    unit: str = "nat"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cost of each sample, (samples,)."""
        logits = outputs.reshape(-1, outputs.shape[-1])
        if targets.is_floating_point():
            return F.cross_entropy(logits, targets.reshape(logits.shape), reduction="none")
        return F.cross_entropy(logits, targets.reshape(-1), ignore_index=self.ignore_index, reduction="none")

    def weights(self, targets: Tensor) -> Tensor | None:
        """One for each sample that is not ignored."""
        if targets.is_floating_point():
            return None
        return (targets.reshape(-1) != self.ignore_index).to(torch.float64)

    def hessian_product(self, rows: Tensor, tangents: Tensor) -> Tensor:
        """``(diag(p) - p p^T) t`` of each sample."""
        return _softmax_hessian_product(rows, tangents)

    def hessian_factor(self, rows: Tensor) -> Tensor:
        """``diag(sqrt p) - sqrt(p) p^T`` of each sample."""
        return _softmax_hessian_factor(rows)

    def sample_scores(self, rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """``p - e_y`` for classes y drawn from p."""
        return _softmax_scores(rows, draws, generator)


@dataclass(frozen=True)
class KLFromAnchor:
    """``KL(anchor || model)`` of softmax outputs, in nats; the targets are the anchor's log-probabilities (..., K).

    A landscape with this cost computes the targets itself, at its anchor. At the anchor its Hessian is the Fisher.
    """

    name: str = "kl"
    unit: str = "nat"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Divergence of each sample, (samples,)."""
        anchor = targets.reshape(-1, targets.shape[-1])
        model = F.log_softmax(outputs.reshape(anchor.shape), dim=-1)
        return (anchor.exp() * (anchor - model)).sum(-1)

    def weights(self, targets: Tensor) -> Tensor | None:  # noqa: ARG002  # the protocol's signature
        """Each sample counts one."""
        return None

    def hessian_product(self, rows: Tensor, tangents: Tensor) -> Tensor:
        """``(diag(p) - p p^T) t`` of each sample."""
        return _softmax_hessian_product(rows, tangents)

    def hessian_factor(self, rows: Tensor) -> Tensor:
        """``diag(sqrt p) - sqrt(p) p^T`` of each sample."""
        return _softmax_hessian_factor(rows)

    def sample_scores(self, rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """``p - e_y`` for classes y drawn from p."""
        return _softmax_scores(rows, draws, generator)


@dataclass(frozen=True)
class MeanSquaredError:
    """Squared error averaged over each sample's outputs, ``|f - y|^2 / K``, unit of the outputs squared.

    The same as ``torch.nn.functional.mse_loss`` once averaged over samples. As a likelihood: Gaussian with
    variance K / 2 in each output, so that the Fisher is the Gauss-Newton matrix.
    """

    name: str = "mean-squared-error"
    unit: str = "output^2"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cost of each sample, (samples,)."""
        if outputs.shape != targets.shape:
            raise ValueError(
                f"mean squared error needs targets of the outputs' shape {tuple(outputs.shape)}, "
                f"got {tuple(targets.shape)}"
            )
        return (outputs - targets).reshape(outputs.shape[0], -1).square().mean(-1)

    def weights(self, targets: Tensor) -> Tensor | None:  # noqa: ARG002  # the protocol's signature
        """Each sample counts one."""
        return None

    def hessian_product(self, rows: Tensor, tangents: Tensor) -> Tensor:
        """``2 t / K`` of each sample."""
        return tangents * (2.0 / rows.shape[-1])

    def hessian_factor(self, rows: Tensor) -> Tensor:
        """``sqrt(2 / K)`` times the identity, for each sample."""
        width = rows.shape[-1]
        identity = torch.eye(width, dtype=rows.dtype, device=rows.device) * math.sqrt(2.0 / width)
        return identity.expand(len(rows), width, width)

    def sample_scores(self, rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """``2 (f - y) / K`` for y drawn from a Gaussian of variance K / 2 around f."""
        shape = (draws, *rows.shape)
        noise = torch.randn(shape, generator=generator, dtype=rows.dtype, device=rows.device)
        return noise * math.sqrt(2.0 / rows.shape[-1])


cross_entropy = CrossEntropy()
mean_squared_error = MeanSquaredError()
kl_from_anchor = KLFromAnchor()
_BUILT_IN: tuple[Likelihood, ...] = (cross_entropy, mean_squared_error, kl_from_anchor)
BY_NAME = {cost.name: cost for cost in _BUILT_IN}


def cost_name(cost: PerSampleCost) -> str:
    """Name of a cost for messages and files."""
    return str(getattr(cost, "name", getattr(cost, "__name__", type(cost).__name__)))


def _softmax_hessian_product(rows: Tensor, tangents: Tensor) -> Tensor:
    probabilities = rows.softmax(-1)
    weighted = probabilities * tangents
    return weighted - probabilities * weighted.sum(-1, keepdim=True)


def _softmax_hessian_factor(rows: Tensor) -> Tensor:
    probabilities = rows.softmax(-1)
    roots = probabilities.sqrt()
    return torch.diag_embed(roots) - roots.unsqueeze(-1) * probabilities.unsqueeze(-2)


def _softmax_scores(rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    probabilities = rows.softmax(-1)
    classes = torch.multinomial(probabilities, draws, replacement=True, generator=generator).T
    return probabilities - F.one_hot(classes, rows.shape[-1]).to(rows.dtype)
