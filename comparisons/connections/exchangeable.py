"""Which hidden units of any model may change places: guessed from the order of its layers, and shown on its outputs.

Between two layers that follow each other, whose shapes fit, units are permuted together with all that has one entry for
each of them; a permutation is believed where a random one changes no output. So a forward method of the user's own,
convolutions, batch norm and the inner layers of residual blocks are found as the layers of an ``nn.Sequential`` are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor, nn

from comparisons.measures import Joint, arrange
from spectra.errors import FAST_PATH_FAILURES, ForeignError
from spectra.landscape import Landscape
from spectra.model import generator
from spectra.nested import tensors_in

WITH_UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Roundings of the largest output that the order of summation may change.
_ROUNDINGS = 1e3

Tensors = Mapping[str, Tensor]


def hidden_layers(landscape: Landscape, tensors: Tensors) -> list[Joint]:
    """The hidden layers whose units may be permuted without changing the model's outputs on its first batch.

    Args:
        landscape: the model and its data.
        tensors: parameters and buffers by name, at which it is tried.

    Returns:
        The layers, in the model's order.
    """
    with torch.no_grad():
        batch = next(landscape.iterate())
        plain = _outputs(landscape, tensors, batch.inputs)
        found = []
        for number, joint in enumerate(_candidates(landscape, tensors)):
            still = torch.arange(joint.units)
            order = torch.randperm(joint.units, generator=generator(0, "hidden layer", number))
            # Of few units chance may leave all in place, and nothing would be shown.
            order = order.roll(1) if torch.equal(order, still) else order
            signs = 1.0 - 2.0 * (still % 2)
            if not _same(landscape, tensors, joint, order, torch.ones(joint.units), plain, batch.inputs):
                continue
            odd = not joint.carried and _same(landscape, tensors, joint, still, signs, plain, batch.inputs)
            found.append(replace(joint, odd=odd))
    return found


def _candidates(landscape: Landscape, tensors: Tensors) -> Iterator[Joint]:
    """Pairs of layers in a row whose shapes fit, with the tensors between them that have an entry for each unit."""
    names, between = set(landscape.parameters.names), list[str]()
    last, units = "", 0
    for path, module in landscape.evaluation.model.named_modules():
        own = [f"{path}.{name}" for name, _ in (*module.named_parameters(recurse=False), *_buffers(module))]
        if not isinstance(module, WITH_UNITS) or getattr(module, "groups", 1) > 1:
            between += own
            continue
        weight = f"{path}.weight"
        if units > 1 and {weight, f"{last}.weight"} <= names and tensors[weight].shape[1] % units == 0:
            carried = tuple(name for name in between if name in tensors and tensors[name].shape[:1] == (units,))
            yield Joint(last, path, units, homogeneous=False, carried=carried)
        last, units, between = path, len(tensors[weight]) if weight in tensors else 0, []


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, one) for name, one in module.named_buffers(recurse=False) if one.dim()]


def _same(
    landscape: Landscape,
    tensors: Tensors,
    joint: Joint,
    order: Tensor,
    signs: Tensor,
    plain: list[Tensor],
    inputs: object,
) -> bool:
    """Whether the outputs stay the same when units are put into another order and change signs."""
    moved = dict(tensors)
    device = landscape.device
    arrange(moved, joint, order.to(device), signs.to(device))
    try:
        outputs = _outputs(landscape, moved, inputs)
    except (*FAST_PATH_FAILURES, ForeignError):  # a guess that the model cannot take is no symmetry
        return False
    return same_outputs(outputs, plain, landscape.parameters.computed)


def same_outputs(ones: list[Tensor], others: list[Tensor], dtype: torch.dtype) -> bool:
    """Whether a model gave the same outputs twice, up to the rounding of sums in another order; masks may be infinite.

    >>> inf = float("inf")
    >>> same_outputs([torch.tensor([1.0, -inf])], [torch.tensor([1.0 + 1e-6, -inf])], torch.float32)
    True
    >>> same_outputs([torch.tensor([1.0, -inf])], [torch.tensor([1.1, -inf])], torch.float32)
    False
    """
    rounding = _ROUNDINGS * torch.finfo(dtype).eps
    for one, other in zip_longest(ones, others, fillvalue=None):
        if one is None or other is None or one.shape != other.shape:
            return False
        apart = torch.where(one == other, 0.0, one - other).abs()
        largest = torch.where(other.isfinite(), other, 0.0).abs()
        if other.numel() and not bool(apart.max() <= rounding * largest.max()):
            return False
    return True


def _outputs(landscape: Landscape, tensors: Tensors, inputs: object) -> list[Tensor]:
    found = tensors_in(landscape.evaluation(tensors, inputs))
    return [one.double() for one in found if one.is_floating_point()]
