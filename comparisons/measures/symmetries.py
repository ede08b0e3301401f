"""Changes of a network's parameters that leave its function as it is: permutation, rescaling, another unit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator

# f(a x) = a f(x) for a > 0: these commute with rescaling of nodes, and all elementwise ones with permutation.
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout)
ELEMENTWISE = (*HOMOGENEOUS, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus, nn.ReLU6)
# f(-a) = -f(a): these commute with the sign of a hidden unit.
ODD = (nn.Tanh, nn.Identity, nn.Dropout)
FACTOR = 4.0

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Joint:
    """Two layers, and hidden units between them that may be permuted, or rescaled.

    Attributes:
        before: name of the layer that makes the hidden units.
        after: name of the layer that reads them; of each unit one column of its weights, or several in a row.
        units: how many.
        homogeneous: whether the activation commutes with positive factors.
        odd: whether it commutes with signs.
        carried: tensors between the layers that have one entry, or row, for each unit, as those of batch norm.
    """

    before: str
    after: str
    units: int
    homogeneous: bool
    odd: bool = False
    carried: tuple[str, ...] = ()


def joints(landscape: Landscape) -> list[Joint]:
    """The hidden layers of a network that is a chain, in its ``nn.Sequential`` containers."""
    found = []
    names = set(landscape.parameters.names)
    for path, container in landscape.evaluation.model.named_modules():
        if not isinstance(container, nn.Sequential):
            continue
        last = ""
        between: list[nn.Module] = []
        for name, module in container.named_children():
            whole = f"{path}.{name}" if path else name
            if isinstance(module, nn.Linear):
                if last and {f"{last}.weight", f"{whole}.weight"} <= names:
                    homogeneous = all(isinstance(one, HOMOGENEOUS) for one in between)
                    odd = all(isinstance(one, ODD) for one in between)
                    found.append(Joint(last, whole, module.in_features, homogeneous, odd))
                last, between = whole, []
            elif isinstance(module, ELEMENTWISE):
                between.append(module)
            else:
                last = ""
    return found


def permuted(landscape: Landscape, *, seed: int = 0) -> Landscape:
    """The landscape around the same network with its hidden units in another order."""
    places = _some(joints(landscape), "hidden units between two linear layers of an nn.Sequential")
    tensors = _tensors(landscape)
    for number, joint in enumerate(places):
        order = torch.randperm(joint.units, generator=generator(seed, "permutation", number)).to(landscape.device)
        # Of few units chance may leave all in place, and nothing would be shown.
        if torch.equal(order, order.sort().values):
            order = order.roll(1)
        act(tensors, joint, lambda part, order=order: part[order], lambda part, order=order: part[:, order])  # type: ignore[misc]
    return _around(landscape, tensors)


def rescaled(landscape: Landscape, *, nodes: bool, factor: float = FACTOR, seed: int = 0) -> Landscape:
    """The landscape around the same function with hidden layers times a factor, the layers after them divided by it.

    Args:
        landscape: landscape of a chain with ReLU or another homogeneous activation.
        nodes: a factor for each node, log-uniform between ``1 / factor`` and ``factor``, instead of one for the layer.
        factor: positive.
        seed: seed of the factors of nodes.

    Returns:
        The landscape.

    Raises:
        UserError: if no hidden layer has a homogeneous activation.

    Reference:
        Dinh, Pascanu, Bengio and Bengio, Sharp minima can generalize for deep nets, 2017.
    """
    exact = [joint for joint in joints(landscape) if joint.homogeneous]
    places = _some(exact, "ReLU between two linear layers of an nn.Sequential, and rescaling is exact only there")
    tensors = _tensors(landscape)
    # With several hidden layers only every second: consecutive ones would undo each other's factor.
    for number, joint in enumerate(places if nodes else places[::2]):
        powers = torch.ones(joint.units, dtype=torch.float64)
        if nodes:
            draws = torch.rand(joint.units, generator=generator(seed, "rescaling", number), dtype=torch.float64)
            powers = 2.0 * draws - 1.0
        factors = torch.exp(powers * math.log(factor)).to(landscape.theta)
        act(
            tensors,
            joint,
            lambda part, f=factors: part * f.view(-1, *[1] * (part.dim() - 1)),  # type: ignore[misc]
            lambda part, f=factors: part / f.view(-1, 1),  # type: ignore[misc]
        )
    return _around(landscape, tensors)


class _Unit(nn.Module):
    """Parameters in another unit: what the model uses is what is stored over a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, stored: Tensor) -> Tensor:
        return stored / self.factor

    def right_inverse(self, used: Tensor) -> Tensor:
        return used * self.factor


def in_another_unit(landscape: Landscape, *, factor: float = FACTOR) -> Landscape:
    """The landscape as a function of ``factor * theta``: the same functions, every parameter in another unit."""
    model = copy.deepcopy(landscape.evaluation.model)
    named = dict(model.named_parameters())
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    if sorted(trained) != sorted(landscape.parameters.names):
        raise UserError("another unit for all parameters needs all of them to be variables")
    with torch.no_grad():
        for name, tensor in _tensors(landscape).items():
            named[name].copy_(tensor)
    for name in trained:
        owner, _, leaf = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(owner), leaf, _Unit(factor))
    options = {"model": model, "theta": None, "parameters": "*", "background": None}
    return Landscape(**(landscape._options() | options))


SYMMETRIES: Mapping[str, Callable[[Landscape], Landscape]] = {
    "layer-rescaling": lambda landscape: rescaled(landscape, nodes=False),
    "node-rescaling": lambda landscape: rescaled(landscape, nodes=True),
    "permutation": permuted,
    "parameter-scale": in_another_unit,
}


def _some(found: list[Joint], what: str) -> list[Joint]:
    if not found:
        raise UserError(f"the model has no {what}")
    return found


def _tensors(landscape: Landscape) -> Tensors:
    return {name: part.clone() for name, part in landscape.parameters.unflatten(landscape.theta).items()}


def act(tensors: Tensors, joint: Joint, make: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor]) -> None:
    """Change the layer that makes hidden units, and undo it in the one that reads them, in place of what is there.

    Args:
        tensors: parameters, and buffers where some are carried, by name.
        joint: the two layers.
        make: changes tensors (units, ...) of the layer that makes the units, and of what is carried.
        read: changes the weights of the one that reads them, as (outputs, units, columns of each unit).
    """
    for name in (f"{joint.before}.weight", f"{joint.before}.bias", *joint.carried):
        if name in tensors:
            tensors[name] = make(tensors[name])
    weight = tensors[f"{joint.after}.weight"]
    tensors[f"{joint.after}.weight"] = read(weight.reshape(len(weight), joint.units, -1)).reshape(weight.shape)


def _around(landscape: Landscape, tensors: Tensors) -> Landscape:
    return Landscape(**(landscape._options() | {"theta": landscape.parameters.flatten(tensors)}))
