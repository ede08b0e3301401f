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

from spectra.errors import UserError, UserTypeError

PerSampleCost = Callable[[Any, Any], Tensor]
# Numbers uniform in (0, 1) for each sample, as many as asked for: (draws, samples, asked), float64.
Uniforms = Callable[[int], Tensor]
# Rounding to half precision changes each probability, and so their sum, by at most 2^-11 of itself.
PROBABILITY_ERROR = 2.0**-10
FEW_CLASSES = 16


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

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses, in a sentence, targets that are none for these outputs; asked once for each batch."""
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

    def sample_scores(self, rows: Tensor, uniforms: Uniforms) -> Tensor:
        """(draws, samples, K) gradients of the cost in the outputs at targets drawn from the model."""
        ...


@dataclass(frozen=True)
class _Softmax:
    """What the costs of softmax outputs share: logits (..., K), and ``p`` their softmax.

    Samples whose class is ``ignore_index`` have weight zero, as in ``torch.nn.functional.cross_entropy``.
    """

    ignore_index: int = -100

    def hessian_product(self, rows: Tensor, tangents: Tensor) -> Tensor:
        """``(diag(p) - p p^T) t`` of each sample."""
        probabilities = precise(rows).softmax(-1)
        weighted = probabilities * tangents
        return weighted - probabilities * weighted.sum(-1, keepdim=True)

    def hessian_factor(self, rows: Tensor) -> Tensor:
        """``diag(sqrt p) - sqrt(p) p^T`` of each sample."""
        probabilities = precise(rows).softmax(-1)
        roots = probabilities.sqrt()
        return torch.diag_embed(roots) - roots.unsqueeze(-1) * probabilities.unsqueeze(-2)

    def sample_scores(self, rows: Tensor, uniforms: Uniforms) -> Tensor:
        """``p - e_y`` for classes y drawn from p, by the inverse of its distribution function in float64."""
        reached = rows.double().softmax(-1).cumsum(-1)
        # Neither zero nor past the sum: a class of probability zero is never the first to reach it.
        levels = uniforms(1).squeeze(-1).T * reached[:, -1:]
        classes = torch.searchsorted(reached, levels.contiguous()).T
        probabilities = precise(rows).softmax(-1)
        return probabilities - F.one_hot(classes, rows.shape[-1]).to(probabilities.dtype)


@dataclass(frozen=True)
class CrossEntropy(_Softmax):
    """Softmax cross-entropy from logits (..., K), in nats; targets are classes (...) or probabilities (..., K)."""

    name: str = "cross-entropy"
    unit: str = "nat"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cost of each sample, (samples,)."""
        logits = precise(outputs.reshape(-1, outputs.shape[-1]))
        if targets.is_floating_point():
            return F.cross_entropy(logits, targets.reshape(logits.shape).to(logits), reduction="none")
        classes = targets.reshape(-1).long()
        return F.cross_entropy(logits, classes, ignore_index=self.ignore_index, reduction="none")

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses what are neither classes nor probabilities."""
        _check_tensors(self.name, outputs, targets)
        if outputs.dim() == 0 or outputs.shape[-1] < 2:
            raise UserError(f"cost {self.name} needs outputs of shape (..., K), K at least 2, got {_shape(outputs)}")
        classes, soft = _shape(outputs[..., 0]), targets.is_floating_point()
        if _shape(targets) != (_shape(outputs) if soft else classes):
            raise UserError(
                f"cost {self.name} needs classes (integers) of shape {classes} or probabilities of shape "
                f"{_shape(outputs)}, got {_dtype(targets)} targets of shape {_shape(targets)}"
                f"{'; for real targets use mean_squared_error' if soft else ''}"
            )
        if soft:
            self._check_probabilities(targets)
            return
        wrong = targets[((targets < 0) | (targets >= outputs.shape[-1])) & (targets != self.ignore_index)]
        if len(wrong):
            raise UserError(
                f"cost {self.name} needs classes from 0 to {outputs.shape[-1] - 1}, or {self.ignore_index} for "
                f"samples to ignore, got {int(wrong[0])}"
            )

    def _check_probabilities(self, targets: Tensor) -> None:
        least = float(targets.min()) if targets.numel() else 0.0
        if least < 0.0:
            raise UserError(f"cost {self.name} needs probabilities as soft targets, got a negative one, {least:.6g}")
        sums = targets.double().sum(-1).reshape(-1)
        wrong = sums[~((sums - 1.0).abs() <= PROBABILITY_ERROR)]
        if len(wrong):
            raise UserError(
                f"cost {self.name} needs probabilities that sum to 1 in each row as soft targets, got a row sum of "
                f"{float(wrong[0]):.6g}"
            )

    def weights(self, targets: Tensor) -> Tensor | None:
        """One for each sample that is not ignored."""
        if targets.is_floating_point():
            return None
        return (targets.reshape(-1) != self.ignore_index).to(torch.float64)


@dataclass(frozen=True)
class KLFromAnchor(_Softmax):
    """``KL(anchor || model)`` of softmax outputs, in nats; the targets are the anchor's log-probabilities (..., K).

    A landscape with this cost computes the targets itself, at its anchor. At the anchor its Hessian is the Fisher.
    The data needs no targets; where it has classes, integers (...), the samples that cross-entropy ignores are
    ignored here too.
    """

    name: str = "kl"
    unit: str = "nat"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Divergence of each sample, (samples,)."""
        anchor = targets.reshape(-1, targets.shape[-1])
        logits = precise(outputs.reshape(anchor.shape))
        if anchor.shape[-1] <= FEW_CLASSES and logits.device.type == "cpu":
            # Along the samples torch's loops are vectorised; along ten classes they are not, and take 4 times as long.
            model = F.log_softmax(logits.T, dim=0).T
        else:
            model = F.log_softmax(logits, dim=-1)
        return (anchor.exp() * (anchor - model)).sum(-1)

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses outputs that are no tensor."""
        _check_tensors(self.name, outputs, targets)

    def weights(self, targets: Tensor) -> Tensor | None:  # noqa: ARG002  # the protocol's signature
        """Each sample counts one; the landscape adds the weights that the data's classes give."""
        return None

    def class_weights(self, anchor: Tensor, classes: Any) -> Tensor | None:
        """Weights (samples,) that classes give: zero for ``ignore_index``; None if they are no classes.

        Args:
            anchor: the anchor's log-probabilities (..., K).
            classes: the data's targets; classes if they are integers of shape (...).

        Returns:
            Ones and zeros in float64, or None.
        """
        if not isinstance(classes, Tensor) or classes.is_floating_point() or classes.shape != anchor.shape[:-1]:
            return None
        return (classes.reshape(-1) != self.ignore_index).to(torch.float64)


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
        self.check(outputs, targets)
        return (outputs - targets).reshape(outputs.shape[0], -1).square().mean(-1)

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses targets of another shape than the outputs: torch would broadcast them."""
        _check_tensors(self.name, outputs, targets)
        if outputs.shape != targets.shape:
            raise UserError(
                f"mean squared error needs targets of the outputs' shape {_shape(outputs)}, got {_shape(targets)}"
            )

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

    def sample_scores(self, rows: Tensor, uniforms: Uniforms) -> Tensor:
        """``2 (f - y) / K`` for y drawn from a Gaussian of variance K / 2 around f."""
        width = rows.shape[-1]
        noise: Tensor = torch.special.ndtri(uniforms(width))
        return noise.to(rows) * math.sqrt(2.0 / width)


cross_entropy = CrossEntropy()
mean_squared_error = MeanSquaredError()
kl_from_anchor = KLFromAnchor()
_BUILT_IN: tuple[Likelihood, ...] = (cross_entropy, mean_squared_error, kl_from_anchor)
BY_NAME = {cost.name: cost for cost in _BUILT_IN}


def cost_name(cost: PerSampleCost) -> str:
    """Name of a cost for messages and files."""
    return str(getattr(cost, "name", getattr(cost, "__name__", type(cost).__name__)))


def precise(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least: a softmax over a vocabulary has no right digit in half precision.

    Args:
        outputs: of a model.

    Returns:
        The same tensor, or half precision widened.

    >>> precise(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def _check_tensors(name: str, outputs: Any, targets: Any) -> None:
    if not isinstance(outputs, Tensor):
        raise UserTypeError(
            f"cost {name} needs a model that returns a tensor (or an object with logits), got {type(outputs).__name__}"
        )
    if targets is None:
        raise UserError(f"cost {name} needs targets, the data has none")
    if not isinstance(targets, Tensor):
        raise UserTypeError(f"cost {name} needs targets that are a tensor, got {type(targets).__name__}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
