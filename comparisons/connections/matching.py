"""The copy of a checkpoint, its hidden units in another order, that is near another: by weights or by activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from comparisons.measures import Joint, align, arrange
from spectra.landscape import Landscape

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of a network.

    Attributes:
        tensors: its parameters and buffers, by name.
        layers: in words how many units of each layer moved.
        notes: sentences on the matching.
    """

    tensors: dict[str, Tensor]
    layers: tuple[str, ...]
    notes: tuple[str, ...] = ()


def nearest_copy(landscape: Landscape, places: list[Joint], one: Tensors, other: Tensors, matching: str) -> Copy:
    """The copy of a network that is near another one.

    Args:
        landscape: the model and its data.
        places: its hidden layers.
        one: parameters and buffers by name, which stay.
        other: those of the network whose units are put into another order.
        matching: ``weights`` brings the parameters near (exactly so with one hidden layer, else layer by layer in
            turn); ``activations`` pairs the units of each layer whose outputs before the activation correlate most.

    Returns:
        The copy.

    Reference:
        Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation symmetries, 2023.
    """
    numbered = dict(other) | {_label(joint): _numbers(joint, landscape) for joint in places}
    labelled = [_with_label(joint) for joint in places]
    notes: tuple[str, ...] = ()
    if matching == "weights":
        variables = {name: one[name] for name in landscape.parameters.names}
        if not align(variables, numbered, labelled):
            notes = ("the units had not come to rest when matching them was stopped",)
    else:
        for joint, (order, signs) in zip(labelled, _by_outputs(landscape, places, one, other), strict=True):
            arrange(numbered, joint, order.to(landscape.device), signs.to(landscape.device))
    layers = []
    for joint in places:
        moved = numbered.pop(_label(joint)) != _numbers(joint, landscape)
        layers.append(f"{joint.before} > {joint.after}: {int(moved.sum())} of {joint.units} units moved")
    return Copy(numbered, tuple(layers), notes)


def _label(joint: Joint) -> str:
    return f"{joint.before} > {joint.after}"


def _with_label(joint: Joint) -> Joint:
    """The joint with the numbers of its units carried along, which show where each has gone."""
    return Joint(joint.before, joint.after, joint.units, False, joint.odd, (*joint.carried, _label(joint)))


def _numbers(joint: Joint, landscape: Landscape) -> Tensor:
    # From one on, so that a change of sign shows too.
    return torch.arange(1.0, joint.units + 1.0, device=landscape.device)


def _by_outputs(landscape: Landscape, places: list[Joint], one: Tensors, other: Tensors) -> list[tuple[Tensor, Tensor]]:
    """The order of units and their signs in each layer by which outputs before the activation correlate most."""
    sums = [_Moments(joint.units, landscape.device) for joint in places]
    modules = dict(landscape.evaluation.model.named_modules())
    seen: dict[str, Tensor] = {}
    handles = [modules[joint.before].register_forward_hook(_keeping(seen, joint.before)) for joint in places]
    try:
        with torch.no_grad():
            for batch in landscape.iterate():
                landscape.evaluation(one, batch.inputs)
                first = dict(seen)
                landscape.evaluation(other, batch.inputs)
                for joint, moments in zip(places, sums, strict=True):
                    moments.add(first[joint.before], seen[joint.before])
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for joint, moments in zip(places, sums, strict=True):
        related = moments.correlation()
        signs = np.where(related < 0.0, -1.0, 1.0) if joint.odd else np.ones_like(related)
        rows, order = linear_sum_assignment(related * signs, maximize=True)
        found.append((torch.as_tensor(order), torch.as_tensor(signs[rows, order])))
    return found


def _keeping(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(module: nn.Module, _: Any, outputs: Tensor) -> None:
        wide = outputs.detach().double()
        seen[name] = (wide if isinstance(module, nn.Linear) else wide.movedim(1, -1)).flatten(0, -2)

    return keep


class _Moments:
    """Sums over rows of two sets of units, from which their correlations follow."""

    def __init__(self, units: int, device: torch.device) -> None:
        kind: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.count, self.means = 0, torch.zeros(2, units, **kind)
        self.squares, self.products = torch.zeros(2, units, **kind), torch.zeros(units, units, **kind)

    def add(self, one: Tensor, other: Tensor) -> None:
        self.count += len(one)
        self.means += torch.stack([one.sum(0), other.sum(0)])
        self.squares += torch.stack([one.square().sum(0), other.square().sum(0)])
        self.products += one.T @ other

    def correlation(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Correlation (units, units) of each unit of the first with each of the second; 0 where one is constant."""
        means = self.means / self.count
        spread = (self.squares / self.count - means.square()).clamp_min(0.0).sqrt()
        covariance = self.products / self.count - torch.outer(means[0], means[1])
        scale = torch.outer(spread[0], spread[1])
        found = torch.where(scale > 1e-12 * scale.max(), covariance / scale, torch.zeros_like(scale))
        values: np.ndarray[Any, np.dtype[np.float64]] = found.cpu().numpy()
        return values
