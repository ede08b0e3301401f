"""The losses of torch as costs: what ``reduction="mean"`` trains, one value a sample."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.loss import _Loss

from spectra.costs.builtin import BinaryCrossEntropy, MeanSquaredError
from spectra.costs.likelihood import PerSampleCost, cost_name, precise
from spectra.costs.softmax import CrossEntropy
from spectra.errors import UserError, foreign
from spectra.nested import cast, tensors_in

# Functions that stand for a module with the same options.
_MODULES: dict[Callable[..., Tensor], type[_Loss]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.kl_div: nn.KLDivLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
}
# Relative difference of a cost's mean from torch's own: rounding, with room for float32 sums.
_SAME = 1e-4


class TorchLoss:
    """A loss of torch as a cost: its elements averaged over each sample's, so that the mean is torch's.

    Attributes:
        name: name of the loss.
        own: the loss as the user made it.
        summed: whether a sample's elements are summed, else averaged.
        notes: a sentence on how it averages.
    """

    def __init__(self, loss: _Loss) -> None:
        """Takes the loss as the user made it."""
        self.summed = loss.reduction == "batchmean"
        self.own = loss
        self._made: dict[tuple[torch.device, torch.dtype], _Loss] = {}
        self.name = type(loss).__name__
        how = "summed over each sample's elements" if self.summed else 'averaged as reduction="mean" does'
        self.notes = (f"the cost is torch's {self.name}, {how}",)

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Cost of each sample, (samples,)."""
        elements: Tensor = self._on(outputs)(outputs, targets)
        if elements.dim() == 0:
            return elements.reshape(1)
        rows = elements.reshape(len(elements), -1)
        return rows.sum(-1) if self.summed else rows.mean(-1)

    def _on(self, outputs: Tensor) -> _Loss:
        """The loss of single elements, its weights where the outputs are and in their dtype."""
        place = (outputs.device, outputs.dtype)
        if place not in self._made:
            self._made[place] = _elementwise(self.own, outputs)
        return self._made[place]


class ModuleCost:
    """A cost that is a module of the user's own: its tensors follow the outputs to their device and dtype.

    Attributes:
        name: name of its class.
        module: the module as the user made it.
        notes: says that parameters of its own are held constant, if it has any.
    """

    def __init__(self, module: nn.Module) -> None:
        """Takes the module."""
        self.module, self.name = module, cost_name(module)
        parameters = any(parameter.requires_grad for parameter in module.parameters())
        self.notes = (f"the parameters of the cost {self.name} itself are held constant",) if parameters else ()
        self._tensors: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """What the module gives."""
        like = next((one for one in tensors_in(outputs) if one.is_floating_point()), None)
        if like is None:
            return self.module(outputs, targets)
        place = (like.device, like.dtype)
        if place not in self._tensors:
            named = (*self.module.named_parameters(), *self.module.named_buffers())
            self._tensors[place] = {name: cast(tensor.detach(), like.dtype, like.device) for name, tensor in named}
        return functional_call(self.module, self._tensors[place], (outputs, targets))


def _elementwise(loss: _Loss, like: Tensor) -> _Loss:
    found = copy.deepcopy(loss).to(like.device, like.dtype)
    found.reduction = "none"
    return found


def recognised(cost: PerSampleCost) -> PerSampleCost:
    """The cost that a loss of torch stands for; any other cost as it is.

    A module of ``torch.nn``, a function of ``torch.nn.functional``, or such a function with options bound by
    ``functools.partial``. Whatever its ``reduction``, the cost is averaged as ``reduction="mean"`` averages.

    Args:
        cost: the cost as the user gives it.

    Returns:
        A likelihood for cross-entropy, negative log-likelihood, binary cross-entropy with logits and squared error, a
        ``TorchLoss`` for the others.

    Raises:
        UserError: if options are bound that the loss does not have.

    >>> recognised(nn.CrossEntropyLoss(label_smoothing=0.1)).name
    'cross-entropy, label smoothing 0.1'
    >>> recognised(F.mse_loss).name
    'mean-squared-error'
    """
    loss = _as_module(cost)
    if loss is None:
        return ModuleCost(cost) if isinstance(cost, nn.Module) else cost
    plain = type(loss).forward
    if plain in (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward):
        return _softmax(loss, normalised=plain is nn.NLLLoss.forward)
    if plain is nn.BCEWithLogitsLoss.forward:
        options = {name: getattr(loss, name) for name in ("weight", "pos_weight")}
        return BinaryCrossEntropy(name=_named("binary-cross-entropy", **options), notes=_notes(loss), **options)
    if plain is nn.MSELoss.forward:
        return MeanSquaredError(notes=_notes(loss))
    return TorchLoss(loss)


def check_mean(cost: PerSampleCost, given: PerSampleCost, outputs: Any, targets: Any, mean: float) -> None:
    """Holds the mean of a recognised cost over a batch against torch's own.

    Args:
        cost: the cost as recognised.
        given: the loss as the user gave it.
        outputs: the model's outputs on one batch.
        targets: targets of the same batch.
        mean: what the cost averages to over that batch.

    Raises:
        UserError: if they differ.
    """
    loss = _as_module(given)
    if loss is None or cost is given:
        return
    loss = copy.deepcopy(loss)
    loss.reduction = "batchmean" if loss.reduction == "batchmean" else "mean"
    with foreign(f"torch's {type(loss).__name__}"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of means that it will change one day
        if isinstance(cost, CrossEntropy) and cost.axis(outputs, targets) == -1:
            soft = targets.is_floating_point()
            outputs, targets = cost.rows(outputs, targets), cost.rows(targets, targets) if soft else targets.reshape(-1)
        like = precise(outputs)
        floats = targets.is_floating_point() or isinstance(loss, nn.BCEWithLogitsLoss | nn.BCELoss)
        own = float(loss.to(like.device, like.dtype)(like, targets.to(like.dtype) if floats else targets))
    if math.isfinite(own) and not abs(own - mean) <= _SAME * max(abs(own), abs(mean), 1e-6):
        raise UserError(
            f"torch's {type(loss).__name__} gives {own:.6g} on the first batch, the cost made of it {mean:.6g}: give "
            "a function (outputs, targets) -> (samples,) in its place"
        )


def _as_module(cost: PerSampleCost) -> _Loss | None:
    if isinstance(cost, _Loss):
        # A loss of the user's own that is derived from one of torch's computes what it likes.
        return cost if type(cost).__module__ == _Loss.__module__ else None
    function, options = cost, {}
    if isinstance(cost, functools.partial):
        function, options = cost.func, dict(cost.keywords)
        if cost.args:
            return None
    try:
        kind = _MODULES.get(function)
    except TypeError:  # a callable that cannot be hashed
        return None
    if kind is None:
        return None
    known = inspect.signature(kind).parameters
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"{kind.__name__} has no option {unknown[0]}: the cost {cost_name(function)} is given one")
    return kind(**options)


def _softmax(loss: _Loss, *, normalised: bool) -> CrossEntropy:
    weights: Any = loss.weight
    smoothing, ignored = float(getattr(loss, "label_smoothing", 0.0)), int(getattr(loss, "ignore_index", -100))
    return CrossEntropy(
        name=_named("cross-entropy", class_weights=weights, label_smoothing=smoothing),
        ignore_index=ignored,
        torch_layout=True,
        class_weights=None if weights is None else weights.detach(),
        label_smoothing=smoothing,
        normalised=normalised,
        notes=_notes(loss),
    )


def _named(name: str, **options: Any) -> str:
    """The name with the options that change the cost."""
    given = [
        key.replace("_", " ") + ("" if isinstance(value, Tensor) else f" {value:g}")
        for key, value in options.items()
        if value is not None and not (isinstance(value, float) and value == 0.0)
    ]
    return ", ".join((name, *given))


def _notes(loss: _Loss) -> tuple[str, ...]:
    weighted = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is not None
    over = ", over the sum of the samples' class weights" if weighted else ""
    return (f'the cost is torch\'s {type(loss).__name__}, averaged as reduction="mean" does{over}',)
