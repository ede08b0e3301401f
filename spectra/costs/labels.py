"""Labels: shifted where a model of transformers shifts them in its own loss, and those of class -100."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectra.costs.likelihood import Likelihood, cost_name
from spectra.costs.torch_losses import TorchLoss
from spectra.errors import ForeignError, UserError
from spectra.model import Batch, Evaluation
from spectra.nested import tensors_in

IGNORED = -100
# Relative difference up to which two means of the same costs are equal: rounding, in half precision too.
_SAME = 5e-3


def takes_labels(model: nn.Module) -> bool:
    """Whether a model's forward pass has an argument ``labels``.

    >>> takes_labels(nn.Linear(1, 1))
    False
    """
    try:
        return "labels" in inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return False


def shifted(batch: Batch) -> Batch:
    """The batch with each place's target the next place's label, as a causal language model is trained.

    >>> shifted(Batch({}, torch.tensor([[4, 5, 6]]))).targets
    tensor([[   5,    6, -100]])
    """
    return replace(batch, targets=F.pad(batch.targets, (0, 1), value=IGNORED)[..., 1:])


def with_decoder_inputs(model: nn.Module, batch: Batch) -> Batch:
    """The batch with the inputs of the decoder that an encoder-decoder model would make of its labels."""
    make = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    present = {"decoder_input_ids", "decoder_inputs_embeds"} & set(batch.inputs)
    if make is None or present or not isinstance(batch.targets, Tensor):
        return batch
    return replace(batch, inputs={**batch.inputs, "decoder_input_ids": make(labels=batch.targets)})


def relabelling(
    evaluation: Evaluation,
    tensors: Mapping[str, Tensor],
    batch: Batch,
    mean: Callable[[Batch], float],
    known: bool,
) -> tuple[bool, tuple[str, ...]]:
    """Whether a mapping's ``labels`` have to be shifted, so that the cost is the model's own loss.

    Args:
        evaluation: the model.
        tensors: its parameters by name.
        batch: the first one.
        mean: the cost averaged over a batch.
        known: whether the cost is one that takes labels as they are (cross-entropy and its like).

    Returns:
        Whether to shift, and sentences on it.

    Raises:
        UserError: if the cost is known and is the model's own loss neither with labels shifted nor as they are.
    """
    if not (batch.labelled and isinstance(batch.inputs, Mapping) and takes_labels(evaluation.model)):
        return False, ()
    try:
        with torch.no_grad():
            own = evaluation.inside(tensors, lambda: evaluation.own_loss(batch.inputs, batch.targets))
    except ForeignError as error:
        return False, (f"the cost was not held against the model's own loss on labels: {error}",)
    if own is None:
        return False, ()
    plain = mean(batch)
    if _close(float(own), plain):
        return False, ()
    causal = known and isinstance(batch.targets, Tensor) and batch.targets.dim() > 1
    moved = mean(shifted(batch)) if causal else plain
    if causal and _close(float(own), moved):
        return True, (
            "the labels are shifted by one place, as the model's own loss does: each token predicts the next",
        )
    if not known:
        return False, (f"the model's own loss on labels is {float(own):.6g}, and the cost given is {plain:.6g}",)
    raise UserError(
        f"the model's own loss on the labels of the first batch is {float(own):.6g}, and the cost gives {plain:.6g}"
        f"{f', or {moved:.6g} with labels shifted by one place' if causal else ''}: give a cost that is the model's "
        "loss, or targets apart from the inputs, (inputs, targets)"
    )


def refuse_ignored(cost: Any, costs: Tensor, weights: Tensor | None, batch_targets: Any) -> None:
    """Refuses an average over samples that a plain callable seems to ignore.

    Args:
        cost: likelihoods and losses of torch know what they ignore; any other callable is looked at.
        costs: (samples,) of a batch.
        weights: the samples' weights, or None.
        batch_targets: the batch's targets, a tensor or tensors in containers, searched for -100.

    Raises:
        UserError: if samples of class -100 cost exactly nothing and yet count in the average.
    """
    if isinstance(cost, Likelihood | TorchLoss):
        return
    for targets in tensors_in(batch_targets):
        if targets.is_floating_point() or targets.numel() != len(costs):
            continue
        ignored = targets.reshape(-1) == IGNORED
        counted = ignored if weights is None else ignored & (weights > 0)
        if bool(counted.any()) and not bool(costs[counted].any()):
            raise UserError(
                f"{int(counted.sum())} samples of the batch have the class -100, and cost {cost_name(cost)} gives 0 "
                "for them: whether they count in the average or are ignored cannot be told; give torch's loss itself "
                "(nn.CrossEntropyLoss, which ignores them), or weights that are zero for them"
            )


def _close(one: float, two: float) -> bool:
    return abs(one - two) <= _SAME * max(abs(one), abs(two), 1e-6)
