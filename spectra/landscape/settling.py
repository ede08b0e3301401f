"""What is settled once, on the first batch, before a landscape's cost is computed; and what is refused then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from spectra.costs import KLFromAnchor, Likelihood, TorchLoss, as_cross_entropy, check_mean, cost_name, relabelling
from spectra.errors import UserError
from spectra.model import Batch, Witness
from spectra.nested import mapped, tensors_in

if TYPE_CHECKING:
    from spectra.landscape.landscape import Landscape

# Relative change of the cost that is no rounding.
_CHANGE = 1e-6


def refuse_anchor(tensors: Mapping[str, Tensor]) -> None:
    """Refuses parameters that are not finite."""
    for name, tensor in tensors.items():
        wrong = tensor[~torch.isfinite(tensor)]
        if len(wrong):
            raise UserError(f"parameter {name} is not finite at the anchor: it holds {float(wrong[0])}")


def settle_cost(landscape: Landscape, tensors: dict[str, Tensor], first: Batch) -> None:
    """What the first batch decides of the cost: the axis of classes, whether labels are shifted."""
    outputs = landscape.evaluation(tensors, first.inputs)
    if landscape.likelihood is not None:
        landscape.cost_function = landscape.likelihood.settled(outputs, first.targets)
    cost = landscape.cost_function
    if isinstance(landscape.softmax, KLFromAnchor):
        # Labels are shifted under the divergence where they would be under cross-entropy.
        assert landscape.likelihood is not None
        cost = as_cross_entropy(landscape.likelihood)

    def mean(batch: Batch) -> float:
        if isinstance(cost, Likelihood):
            cost.check(outputs, batch.targets)
        value, weight, _ = weighted_sums(
            *landscape.evaluation.inside(tensors, lambda: landscape.sample_costs(outputs, batch, cost))
        )
        return float(value) / weight if weight else math.nan

    landscape._shifts, notes = relabelling(landscape.evaluation, tensors, first, mean, landscape.softmax is not None)
    landscape._found += notes
    if landscape._is_torchs and not first.labelled and first.weights is None:
        check_mean(landscape.cost_function, landscape._given_cost, outputs, first.targets, mean(first))
    if not isinstance(cost, Likelihood | TorchLoss):
        _examine_cost(landscape, tensors, first)


def _examine_cost(landscape: Landscape, tensors: dict[str, Tensor], first: Batch) -> None:
    """Finds out whether a plain callable writes into its targets, and refuses one that is not deterministic."""
    given = replace(first, targets=mapped(first.targets, Tensor.clone))
    once, _ = landscape.samples_at(tensors, given)
    landscape._cost_writes = any(tensor._version for tensor in tensors_in(given.targets))
    twice, _ = landscape.samples_at(tensors, first)
    if once.shape != twice.shape or not torch.allclose(once, twice, rtol=1e-4, atol=0.0, equal_nan=True):
        raise UserError(
            f"cost {cost_name(landscape.cost_function)} is not deterministic: two calls on the same batch differ; take "
            "randomness out of it (noise, sampled negatives), or seed it at each call"
        )


def settle_padding(landscape: Landscape, witness: Witness, tensors: dict[str, Tensor]) -> None:
    """Padding rows of embeddings, which training holds constant: as asked for where the cost depends on them."""
    rows = witness.padding_rows(tensors)
    if not rows or landscape._padding == "variable":
        return
    moved = landscape.theta.clone()
    parts = landscape.parameters.unflatten(moved)
    for name, row in rows.items():
        parts[name][row] += float(tensors[name].double().square().mean().sqrt()) or 1.0
    at, found = landscape.anchor_cost, landscape.cost(landscape.parameters.flatten(parts))
    depends = abs(found - at) > _CHANGE * max(abs(found), abs(at))
    names = ", ".join(f"row {row} of {name}" for name, row in rows.items())
    if depends and landscape._padding == "refuse":
        raise UserError(
            f"the cost depends on a padding row ({names}, padding_idx of the embedding), which training holds "
            "constant: give Landscape(..., padding='constant') to hold it so, padding='variable' to differentiate "
            "it too, or build the model with padding_idx=None"
        )
    if depends:
        landscape.evaluation.hold(rows, tensors)
        landscape._note(f"{names} is padding and is held constant, as in training")


def refuse_values(landscape: Landscape, tensors: dict[str, Tensor], number: int, value: float) -> NoReturn:
    """Names the batch as the user numbers it, where merged ones hold several."""
    for index, batch in enumerate(landscape.batches if landscape._merged is not None else ()):
        moved = landscape._placed(landscape._taken(batch))
        if landscape._anchors is not None:
            moved = landscape._anchors.seen(moved)
        found, _, _ = weighted_sums(*landscape.samples_at(tensors, moved))
        if not torch.isfinite(found):
            number, value = index, float(found)
            break
    raise UserError(f"the cost at the anchor is not finite: batch {number} gives {value}")


def weighted_sums(costs: Tensor, weights: Tensor | None) -> tuple[Tensor, float, float]:
    """Weighted sum of costs in float64, sum of the weights, and how many of them are above zero."""
    if weights is None:
        return costs.double().sum(), float(len(costs)), float(len(costs))
    if not bool((weights >= 0).all()):
        raise UserError("the samples' weights must be non-negative and finite")
    return (costs.double() * weights.double()).sum(), float(weights.double().sum()), float((weights > 0).sum())
