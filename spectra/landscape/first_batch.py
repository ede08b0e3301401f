"""What is settled once, on the first batch, before a landscape's cost is computed; and what is refused then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from spectra.costs import (
    KLFromAnchor,
    Likelihood,
    PerSampleCost,
    TorchLoss,
    as_cross_entropy,
    check_mean,
    cost_name,
    relabelling,
)
from spectra.errors import UserError
from spectra.landscape.average_cost import AverageCost, weighted_sums
from spectra.model import Batch, Witness
from spectra.nested import mapped, tensors_in

# Relative change of the cost that is no rounding.
_CHANGE = 1e-6


def refuse_options(mode: str, l2: float) -> None:
    """Refuses a mode or a penalty that there is none of."""
    if mode not in ("eval", "train"):
        raise UserError(f"mode must be eval or train, got {mode!r}")
    if not (math.isfinite(l2) and l2 >= 0.0):
        raise UserError(f"l2 must be finite and non-negative, got {l2}")


def refuse_parameters(tensors: Mapping[str, Tensor]) -> None:
    """Refuses parameters that are not finite."""
    for name, tensor in tensors.items():
        wrong = tensor[~torch.isfinite(tensor)]
        if len(wrong):
            raise UserError(f"parameter {name} is not finite at the anchor: it holds {float(wrong[0])}")


def label_shift(
    cost: AverageCost, tensors: Mapping[str, Tensor], outputs: Any, first: Batch, given: PerSampleCost | None
) -> tuple[bool, tuple[str, ...]]:
    """Whether labels are shifted, as in the model's own loss, and sentences on it; holds a loss of torch against torch.

    Args:
        cost: the average cost, its cost function settled.
        tensors: the parameters by name.
        outputs: the model's outputs on the first batch.
        first: the first batch.
        given: the loss of torch as the user gave it; None for other costs.

    Raises:
        UserError: if the cost is neither the model's own loss nor, on plain targets, torch's.
    """
    per_sample = cost.cost_function
    if isinstance(cost.softmax, KLFromAnchor):
        # Labels are shifted under the divergence where they would be under cross-entropy.
        assert cost.likelihood is not None
        per_sample = as_cross_entropy(cost.likelihood)

    def mean(batch: Batch) -> float:
        if isinstance(per_sample, Likelihood):
            per_sample.check(outputs, batch.targets)
        value, weight, _ = weighted_sums(
            *cost.evaluation.inside(tensors, lambda: cost.sample_costs(outputs, batch, per_sample))
        )
        return float(value) / weight if weight else math.nan

    found = relabelling(cost.evaluation, tensors, first, mean, cost.softmax is not None)
    if given is not None and not first.labelled and first.weights is None:
        check_mean(cost.cost_function, given, outputs, first.targets, mean(first))
    return found


def writes_into_targets(cost: AverageCost, tensors: Mapping[str, Tensor], first: Batch) -> bool:
    """Whether a plain callable writes into its targets; refuses one that is not deterministic.

    Raises:
        UserError: if two calls on the same batch differ.
    """
    if isinstance(cost.cost_function, Likelihood | TorchLoss):
        return False
    given = replace(first, targets=mapped(first.targets, Tensor.clone))
    once, _ = cost.samples_at(tensors, given)
    writes = any(tensor._version for tensor in tensors_in(given.targets))
    if writes:
        first = replace(first, targets=mapped(first.targets, Tensor.clone))
    twice, _ = cost.samples_at(tensors, first)
    if once.shape != twice.shape or not torch.allclose(once, twice, rtol=1e-4, atol=0.0, equal_nan=True):
        raise UserError(
            f"cost {cost_name(cost.cost_function)} is not deterministic: two calls on the same batch differ; take "
            "randomness out of it (noise, sampled negatives), or seed it at each call"
        )
    return writes


def hold_padding(cost: AverageCost, witness: Witness, tensors: dict[str, Tensor], padding: str) -> tuple[str, ...]:
    """Padding rows of embeddings, which training holds constant: as asked for where the cost depends on them.

    Raises:
        UserError: if the cost depends on them and ``padding`` is ``refuse``.
    """
    rows = witness.padding_rows(tensors)
    if not rows or padding == "variable":
        return ()
    moved = cost.theta.clone()
    parts = cost.parameters.unflatten(moved)
    for name, row in rows.items():
        parts[name][row] += float(tensors[name].double().square().mean().sqrt()) or 1.0
    at, found = cost.anchor_cost, cost.cost(cost.parameters.flatten(parts))
    if not abs(found - at) > _CHANGE * max(abs(found), abs(at)):
        return ()
    names = ", ".join(f"row {row} of {name}" for name, row in rows.items())
    if padding == "refuse":
        raise UserError(
            f"the cost depends on a padding row ({names}, padding_idx of the embedding), which training holds "
            "constant: give Landscape(..., padding='constant') to hold it so, padding='variable' to differentiate "
            "it too, or build the model with padding_idx=None"
        )
    cost.evaluation.hold(rows, tensors)
    return (f"{names} is padding and is held constant, as in training",)


def refuse_batch(cost: AverageCost, tensors: Mapping[str, Tensor], number: int, value: float) -> NoReturn:
    """Names the batch whose cost is not finite as the user numbers it, where merged ones hold several."""
    for index, batch in enumerate(cost.unjoined() if cost._merged is not None else ()):
        moved = cost._placed(batch)
        if cost._anchors is not None:
            moved = cost._anchors.seen(moved)
        found, _, _ = weighted_sums(*cost.samples_at(tensors, moved))
        if not torch.isfinite(found):
            number, value = index, float(found)
            break
    raise UserError(f"the cost at the anchor is not finite: batch {number} gives {value}")
