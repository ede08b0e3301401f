"""What a model holds beside the variables, between checkpoints: batch norm's running statistics, and other buffers.

Between two checkpoints the running statistics of neither fit: activations of averaged weights have another variance,
and a barrier is seen that is one of stale statistics. So they are computed anew at each point from the data at hand.

Reference: Jordan, Sedghi, Saukh, Entezari and Neyshabur, REPAIR: REnormalizing Permuted Activations for Interpolation
Repair, 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import UserError
from spectra.landscape import Landscape

State = dict[str, Tensor]


def state_of(landscape: Landscape) -> State:
    """All that the model holds beside the variables: buffers and frozen parameters, by name."""
    model, background = landscape.evaluation.model, landscape.evaluation.background
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    found = {name: background.get(name, tensor).detach() for name, tensor in named.items()}
    return {name: tensor for name, tensor in found.items() if name not in landscape.parameters.names}


def batch_norms(landscape: Landscape) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The layers whose running statistics decide the cost, by name; none where batches are normalised by their own."""
    if landscape.mode == "train":
        return {}
    kind = nn.modules.batchnorm._BatchNorm
    named = landscape.evaluation.model.named_modules()
    return {name: one for name, one in named if isinstance(one, kind) and one.running_mean is not None}


def differing(one: State, other: State) -> list[str]:
    """Names of what two models of one architecture hold differently, counters left out.

    Raises:
        UserError: if they do not hold tensors of the same names and shapes.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (one, other)]
    if unlike := sorted(name for name, _ in shapes[0].items() ^ shapes[1].items()):
        raise UserError(f"the checkpoints are of different models: {unlike[0]} is not the same tensor in both")
    found = [name for name in one if not torch.equal(one[name].to(other[name].device), other[name])]
    return [name for name in found if not name.endswith("num_batches_tracked")]


def between(one: State, other: State, share: float) -> State:
    """Floating-point values a share of the way from one state to another; of the rest those of the nearer."""
    return {
        name: torch.lerp(tensor, other[name].to(tensor), share)
        if tensor.is_floating_point()
        else (tensor if share < 0.5 else other[name].to(tensor.device))
        for name, tensor in one.items()
    }


def recomputed(landscape: Landscape, theta: Tensor, state: Mapping[str, Tensor]) -> State:
    """Running statistics of batch norm at other parameters, from one pass over the data.

    Each batch is normalised by its own moments on the way, as in training. What is kept are mean and unbiased variance
    over all entries of all batches: of the first such layer those of the whole data, however it is cut.

    Args:
        landscape: the model and its data, in eval mode.
        theta: (n,) parameters.
        state: buffers and frozen parameters by name.

    Returns:
        The state with these statistics.

    Raises:
        UserError: if a layer saw no data, or only one value of each channel.
    """
    norms = batch_norms(landscape)
    sums: dict[str, Tensor] = {}
    handles = [module.register_forward_pre_hook(_adding(sums, name)) for name, module in norms.items()]
    tensors = landscape.parameters.unflatten(theta) | dict(state)
    # Batch norm writes into its buffers as it goes; these are not the user's.
    written = (f"{name}.{kind}" for name in norms for kind in _WRITTEN)
    tensors |= {name: tensors[name].clone() for name in written if name in tensors}
    try:
        with torch.no_grad():
            for batch in landscape.taken():
                inputs = batch.inputs
                landscape.evaluation.inside(tensors, lambda inputs=inputs: _in_training(norms, landscape, inputs))  # type: ignore[misc]
    finally:
        for handle in handles:
            handle.remove()
    found = dict(state)
    for name, module in norms.items():
        width = module.num_features
        count, total, squares = landscape.ranks.total(sums.get(name, torch.zeros(3, width, dtype=torch.float64)))
        if float(count[0]) < 2.0:
            raise UserError(
                f"the running statistics of {name} cannot be computed anew: on this data it sees fewer than two values"
            )
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0.0) * count / (count - 1.0)
        like = state[f"{name}.running_mean"]
        found |= {f"{name}.running_mean": mean.to(like), f"{name}.running_var": variance.to(like)}
    return found


_WRITTEN = ("running_mean", "running_var", "num_batches_tracked")


def _adding(sums: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any], None]:
    def add(_: nn.Module, inputs: Any) -> None:
        wide = inputs[0].detach().double().transpose(0, 1).flatten(1)
        count = torch.full_like(wide[:, 0], wide.shape[1])
        found = torch.stack([count, wide.sum(1), wide.square().sum(1)])
        sums[name] = found if name not in sums else sums[name] + found

    return add


def _in_training(norms: Mapping[str, nn.modules.batchnorm._BatchNorm], landscape: Landscape, inputs: Any) -> None:
    """A forward pass with these layers in train mode, and all others as they are evaluated."""
    before = {name: module.training for name, module in norms.items()}
    for module in norms.values():
        module.training = True
    try:
        landscape.evaluation.outputs(inputs)
    finally:
        for name, module in norms.items():
            module.training = before[name]
