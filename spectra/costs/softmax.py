"""Costs of softmax outputs: cross-entropy as torch trains it, and the divergence from the anchor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spectra.costs.likelihood import (
    Likelihood,
    Part,
    Uniforms,
    check_tensor,
    check_tensors,
    precise,
    shape_of,
)
from spectra.errors import UserError
from spectra.words import dtype_title

# Rounding to half precision changes each probability, and so their sum, by at most 2^-11 of itself.
PROBABILITY_ERROR = 2.0**-10
FEW_CLASSES = 16


def log_probabilities(logits: Tensor) -> Tensor:
    """``log_softmax`` over the classes of rows of logits (samples, K)."""
    if logits.shape[-1] <= FEW_CLASSES and logits.device.type == "cpu":
        # Along the samples torch's loops are vectorised; along ten classes they are not, and take 8 times as long.
        return F.log_softmax(logits.T, dim=0).T
    return F.log_softmax(logits, dim=-1)


@dataclass(frozen=True, eq=False)
class _Softmax(Likelihood):
    """What the costs of softmax outputs share: logits, and ``p`` their softmax.

    Samples whose class is ``ignore_index`` have weight zero, as in ``torch.nn.functional.cross_entropy``.

    Attributes:
        ignore_index: class of samples to ignore.
        class_axis: axis of the classes in the outputs; None takes axis 1 for outputs (N, K, ...) with classes
            (N, ...), as torch does, the last one for (..., K) with (...), and refuses what could be both.
        torch_layout: whether axis 1 is meant where both could be.
    """

    ignore_index: int = -100
    class_axis: int | None = None
    torch_layout: bool = False

    def axis(self, outputs: Tensor, targets: Any) -> int:
        """Axis of the classes."""
        if self.class_axis is not None:
            return self.class_axis
        second = isinstance(targets, Tensor) and outputs.dim() > 2 and targets.shape == _without(outputs, 1)
        return 1 if second and targets.shape != outputs.shape[:-1] else -1

    def laid_out(self, outputs: Tensor, targets: Any) -> Tensor:
        """Logits (..., K), the classes last."""
        return outputs.movedim(self.axis(outputs, targets), -1)

    def rows(self, outputs: Tensor, targets: Any) -> Tensor:
        """Logits (samples, K), one row for each place that has a class."""
        found = self.laid_out(outputs, targets)
        return found.reshape(-1, found.shape[-1])

    def settled(self, outputs: Any, targets: Any) -> _Softmax:
        """The same with the axis of the classes known."""
        check_tensor(self.name, "outputs", outputs)
        if self.class_axis is None and outputs.dim() > 2:
            return replace(self, class_axis=self._found_axis(outputs, targets))
        return self

    def _found_axis(self, outputs: Tensor, targets: Any) -> int:
        axes = []
        if isinstance(targets, Tensor) and targets.is_floating_point() and targets.shape == outputs.shape:
            axes = [axis for axis in (1, -1) if _sums_to_one(targets, axis)] or [-1]
        elif isinstance(targets, Tensor):
            axes = [axis for axis in (1, -1) if targets.shape == _without(outputs, axis)] or [-1]
        if len(axes) == 1 or (axes and self.torch_layout):
            return axes[0]
        found = f"and targets of shape {shape_of(targets)} " if isinstance(targets, Tensor) else ""
        raise UserError(
            f"cost {self.name} cannot tell which axis of outputs of shape {shape_of(outputs)} {found}holds the "
            f"classes: give {type(self).__name__}(class_axis=1), as torch has it, or class_axis=-1 for the last "
            "dimension"
        )

    def scale(self, rows: Tensor, targets: Any) -> Tensor | float:  # noqa: ARG002  # cross-entropy needs them
        """Factor (samples, 1) by which weights of classes change the Hessian of the plain cost."""
        return 1.0

    def hessian_product(self, rows: Tensor, tangents: Tensor, targets: Any) -> Tensor:
        """``(diag(p) - p p^T) t`` of each sample."""
        probabilities = precise(rows).softmax(-1)
        weighted = probabilities * tangents
        found: Tensor = (weighted - probabilities * weighted.sum(-1, keepdim=True)) * self.scale(rows, targets)
        return found

    def hessian_factor(self, rows: Tensor, targets: Any) -> Tensor:
        """``diag(sqrt p) - sqrt(p) p^T`` of each sample."""
        probabilities = precise(rows).softmax(-1)
        roots, scale = probabilities.sqrt(), self.scale(rows, targets)
        factor = torch.diag_embed(roots) - roots.unsqueeze(-1) * probabilities.unsqueeze(-2)
        return factor * scale.sqrt().unsqueeze(-1) if isinstance(scale, Tensor) else factor

    def hessian_diagonal(self, rows: Tensor, targets: Any) -> Tensor:
        """``p (1 - p)`` of each sample."""
        probabilities = precise(rows).softmax(-1)
        found: Tensor = probabilities * (1.0 - probabilities) * self.scale(rows, targets)
        return found

    def sample_scores(self, rows: Tensor, uniforms: Uniforms, targets: Any) -> Tensor:
        """``p - e_y`` for classes y drawn from p, by the inverse of its distribution function in float64."""
        reached = rows.double().softmax(-1).cumsum(-1)
        # Neither zero nor past the sum: a class of probability zero is never the first to reach it.
        levels = uniforms(1).squeeze(-1).T * reached[:, -1:]
        classes = torch.searchsorted(reached, levels.contiguous()).T
        probabilities, scale = precise(rows).softmax(-1), self.scale(rows, targets)
        scores = probabilities - F.one_hot(classes, rows.shape[-1]).to(probabilities.dtype)
        return scores * scale.sqrt() if isinstance(scale, Tensor) else scores


@dataclass(frozen=True, eq=False)
class CrossEntropy(_Softmax):
    """Softmax cross-entropy in nats of logits (..., K) or (N, K, ...); targets are classes or probabilities.

    With class weights and label smoothing it averages as ``torch.nn.CrossEntropyLoss`` with ``reduction="mean"`` does:
    classes by the sum of their weights, probabilities by the number of samples.

    Attributes:
        class_weights: (K,) weights of the classes, or None.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        normalised: whether the outputs have to be log-probabilities, as for ``torch.nn.NLLLoss``.
    """

    name: str = "cross-entropy"
    unit: str = "nat"
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    normalised: bool = False
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is the code length of the targets: without weights of classes and smoothing."""
        return self.class_weights is None and self.label_smoothing == 0.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cost of each sample, (samples,)."""
        logits = precise(self.rows(outputs, targets))
        options: dict[str, Any] = {"reduction": "none"}
        if self.class_weights is not None:
            options["weight"] = self.class_weights.to(logits)
        smoothing = self.label_smoothing
        if targets.is_floating_point():
            return F.cross_entropy(logits, self.rows(targets, targets).to(logits), label_smoothing=smoothing, **options)
        classes = targets.reshape(-1).long()
        options["ignore_index"] = self.ignore_index
        if smoothing:
            costs = F.cross_entropy(logits, classes, label_smoothing=smoothing, **options)
        else:
            costs = F.nll_loss(log_probabilities(logits), classes, **options)
        if self.class_weights is None:
            return costs
        weights = self._of_classes(classes).to(costs)
        return torch.where(weights > 0.0, costs / weights.where(weights > 0.0, 1.0), 0.0)

    def weights(self, targets: Tensor) -> Tensor | None:
        """Of a class its weight, and zero for those that are ignored."""
        if targets.is_floating_point():
            return None
        classes = targets.reshape(-1)
        if self.class_weights is not None:
            return self._of_classes(classes.long())
        return (classes != self.ignore_index).to(torch.float64)

    def _of_classes(self, classes: Tensor) -> Tensor:
        assert self.class_weights is not None
        weights, kept = self.class_weights.to(classes.device, torch.float64), classes != self.ignore_index
        return torch.where(kept, weights[torch.where(kept, classes, 0)], 0.0)

    def scale(self, rows: Tensor, targets: Any) -> Tensor | float:
        """Sum of the target's probabilities, each times its class's weight, over the sample's own weight."""
        if self.class_weights is None:
            return 1.0
        weights, smoothing = self.class_weights.to(rows), self.label_smoothing
        if targets.is_floating_point():
            sums = self.rows(targets, targets).to(rows) @ weights
            return ((1.0 - smoothing) * sums + smoothing * weights.mean()).unsqueeze(-1)
        own = self._of_classes(targets.reshape(-1).long()).to(rows).unsqueeze(-1)
        return torch.where(own > 0.0, 1.0 - smoothing + smoothing * weights.mean() / own.where(own > 0.0, 1.0), 0.0)

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses what are neither classes nor probabilities."""
        check_tensors(self.name, outputs, targets)
        axis = self.axis(outputs, targets) if outputs.dim() > 1 else -1
        count = outputs.shape[axis] if outputs.dim() > abs(axis) - (axis < 0) else 0
        if count < 2:
            raise UserError(
                f"cost {self.name} needs outputs of shape (..., K), K at least 2, got {shape_of(outputs)}"
                f"{'; for one logit use binary_cross_entropy' if count == 1 else ''}"
            )
        classes, soft = tuple(_without(outputs, axis)), targets.is_floating_point()
        if shape_of(targets) != (shape_of(outputs) if soft else classes):
            raise UserError(
                f"cost {self.name} needs classes (integers) of shape {classes} or probabilities of shape "
                f"{shape_of(outputs)}, got {dtype_title(targets.dtype)} targets of shape {shape_of(targets)}"
                f"{'; for real targets use mean_squared_error' if soft else ''}"
            )
        self._check_options(count, outputs, axis)
        if soft:
            self._check_probabilities(targets, axis)
            return
        wrong = targets[((targets < 0) | (targets >= count)) & (targets != self.ignore_index)]
        if len(wrong):
            raise UserError(
                f"cost {self.name} needs classes from 0 to {count - 1}, or {self.ignore_index} for "
                f"samples to ignore, got {int(wrong[0])}"
            )

    def _check_options(self, count: int, outputs: Tensor, axis: int) -> None:
        weights = self.class_weights
        if weights is not None and weights.shape != (count,):
            raise UserError(f"cost {self.name} needs {count} class weights, one a class, got shape {shape_of(weights)}")
        if weights is not None and not bool((weights >= 0.0).all() & weights.isfinite().all()):
            raise UserError(f"cost {self.name} needs class weights that are non-negative and finite")
        if weights is not None and self.label_smoothing and not bool((weights > 0.0).all()):
            raise UserError(f"cost {self.name} with label smoothing needs class weights above zero")
        if self.normalised and float(precise(outputs).logsumexp(axis).abs().max()) > 1e-3:
            raise UserError(
                f"cost {self.name} needs log-probabilities as outputs, and the exponentials of these do not sum to 1 "
                "over the classes: end the model in log_softmax, or use CrossEntropyLoss"
            )

    def _check_probabilities(self, targets: Tensor, axis: int) -> None:
        least = float(targets.min()) if targets.numel() else 0.0
        if least < 0.0:
            raise UserError(f"cost {self.name} needs probabilities as soft targets, got a negative one, {least:.6g}")
        sums = targets.double().sum(axis).reshape(-1)
        wrong = sums[~((sums - 1.0).abs() <= PROBABILITY_ERROR)]
        if len(wrong):
            raise UserError(
                f"cost {self.name} needs probabilities that sum to 1 in each row as soft targets, got a row sum of "
                f"{float(wrong[0]):.6g}"
            )


@dataclass(frozen=True, eq=False)
class KLFromAnchor(_Softmax):
    """``KL(anchor || model)`` of softmax outputs, in nats; the targets are the anchor's log-probabilities (..., K).

    A landscape with this cost computes the targets itself, at its anchor. At the anchor its Hessian is the Fisher.
    The data needs no targets; where it has classes, the samples that cross-entropy ignores are ignored here too.
    """

    name: str = "kl"
    unit: str = "nat"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Divergence of each sample, (samples,)."""
        logits, anchor = precise(self.rows(outputs, None)), targets.reshape(-1, targets.shape[-1])
        model = log_probabilities(logits)
        # 0 log 0 = 0: a class that is masked with -inf in the anchor adds nothing, whatever the model makes of it.
        apart = (anchor - model).masked_fill(anchor == -math.inf, 0.0)
        return (anchor.exp() * apart).sum(-1)

    def check(self, outputs: Any, targets: Any) -> None:
        """Refuses outputs that are no tensor."""
        check_tensors(self.name, outputs, targets)

    def ignored(self, anchor: Tensor, targets: Any) -> Tensor | None:
        """Weights (samples,) that the data's own targets give: zero for ``ignore_index``, else one.

        Args:
            anchor: log-probabilities (..., K).
            targets: the data's.

        Returns:
            The weights in float64, or None if the targets are no classes, one for each sample.
        """
        if (
            not isinstance(targets, Tensor)
            or targets.is_floating_point()
            or targets.numel() * anchor.shape[-1] != anchor.numel()
        ):
            return None
        return (targets.reshape(anchor.shape[:-1]) != self.ignore_index).to(torch.float64)


def as_cross_entropy(cost: Likelihood) -> Likelihood:
    """The cross-entropy on the same part and axis as a divergence from the anchor."""
    if isinstance(cost, Part):
        return replace(cost, likelihood=as_cross_entropy(cost.likelihood))
    assert isinstance(cost, KLFromAnchor)
    return CrossEntropy(cost.ignore_index, cost.class_axis, cost.torch_layout)


def divergence_like(cost: Likelihood, asked: KLFromAnchor) -> Likelihood:
    """The divergence from the anchor on the same part, axis and ignored class as another cost of a softmax.

    Args:
        cost: a cost of a softmax, or one on a part of the outputs.
        asked: the divergence; what it says itself counts.

    Returns:
        The divergence, on the same part.
    """
    if isinstance(cost, Part):
        return replace(cost, likelihood=divergence_like(cost.likelihood, asked))
    assert isinstance(cost, _Softmax)
    axis = cost.class_axis if asked.class_axis is None else asked.class_axis
    plain = KLFromAnchor()
    ignored = cost.ignore_index if asked.ignore_index == plain.ignore_index else asked.ignore_index
    return replace(asked, class_axis=axis, ignore_index=ignored, torch_layout=cost.torch_layout)


def _sums_to_one(targets: Tensor, axis: int) -> bool:
    return bool(((targets.double().sum(axis) - 1.0).abs() <= PROBABILITY_ERROR).all())


def _without(outputs: Tensor, axis: int) -> torch.Size:
    """The outputs' shape without one axis."""
    axis %= outputs.dim()
    return outputs.shape[:axis] + outputs.shape[axis + 1 :]
