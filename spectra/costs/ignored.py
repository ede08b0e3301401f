"""Samples of class -100 under a cost of the user's own: whether they count in its average cannot be known."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spectra.costs.likelihood import Likelihood, cost_name
from spectra.costs.torch_losses import TorchLoss
from spectra.errors import UserError
from spectra.nested import tensors_in

IGNORED = -100


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
