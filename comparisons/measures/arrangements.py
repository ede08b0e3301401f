"""How many copies of a network its symmetries make, and whether chains show that these copies are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from comparisons.measures.symmetries import Joint, act, joints
from spectra.landscape import Landscape
from spectra.model import generator

# Chains that are compared, each with each; points inside a line; sweeps over hidden layers.
CHAINS, INSIDE, SWEEPS = 8, 15, 20
# Of the cutoff: what a symmetry may change a cost by, in rounding.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Arrangements:
    """The order of the group of hidden units' permutations and signs, and lines between chains.

    Attributes:
        log_order: log of the order, nats; 0 where no symmetry is known.
        units: words on what is permuted; empty where nothing is.
        reason: why no symmetry is known; empty where one is.
        pairs: pairs of chains that were compared; 0 where none were.
        joined: those that a straight line joins, none of whose points costs more than the cutoff or its ends.
        aligned: those that such a line joins after the hidden units of one were put in the other's order.
        both: those that are joined in both ways, though the order is another: two copies in one piece.
    """

    log_order: float = 0.0
    units: str = ""
    reason: str = ""
    pairs: int = 0
    joined: int = 0
    aligned: int = 0
    both: int = 0


def copies_of(
    landscape: Landscape, log_density: Callable[[Tensor], float], thetas: Tensor, cutoff: float
) -> Arrangements:
    """What is known of a network's copies below a cutoff.

    Symmetries of a landscape are believed if one of them, drawn at random, changes neither the cost nor the prior.

    Args:
        landscape: the cost.
        log_density: log density of the prior at parameters (n,), nats.
        thetas: (k, n) parameters that chains have come to; of no rows where none are known.
        cutoff: T, unit of the cost.

    Returns:
        The order of the group, and the shares of pairs that lines join.

    Reference:
        Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation symmetries, 2023 (weight
        matching).
    """
    places = joints(landscape)
    if not places:
        return Arrangements(reason="no hidden units between two linear layers of an nn.Sequential were found")
    points = torch.cat([landscape.theta.unsqueeze(0), thetas[:CHAINS]])
    moved = torch.stack([_shuffled(landscape, places, point) for point in points])
    shift = landscape.costs(moved) - landscape.costs(points)
    if float(shift.abs().max()) > _ROUNDING * cutoff:
        return Arrangements(reason="another order of the hidden units that were found costs something else")
    before, after = log_density(points[0]), log_density(moved[0])
    if abs(after - before) > 1e-6 * abs(before):
        return Arrangements(reason="the prior is not the same for all orders of the hidden units")
    order = sum(math.lgamma(one.units + 1) + one.odd * one.units * math.log(2.0) for one in places)
    units = ", ".join(f"{one.units} hidden units{' and their signs' if one.odd else ''}" for one in places)
    found = [_joined(landscape, places, a, b, cutoff) for a, b in combinations(points[1:], 2)]
    counts = [sum(column) for column in zip(*found, strict=True)] or [0, 0, 0]
    return Arrangements(order, units, "", len(found), *counts)


def aligned(landscape: Landscape, places: list[Joint], fixed: Tensor, moving: Tensor) -> Tensor:
    """The copy of some parameters (n,), by the symmetries of hidden units, that is near fixed ones (n,).

    Layers are matched in turn until none moves: with one hidden layer it is the nearest copy.
    """
    there, tensors = landscape.parameters.unflatten(fixed), dict(landscape.parameters.unflatten(moving))
    align(there, tensors, places)
    return landscape.parameters.flatten(tensors)


def align(there: Mapping[str, Tensor], tensors: dict[str, Tensor], places: list[Joint]) -> bool:
    """Put the hidden units of some tensors by name into the order that is nearest to fixed ones, in place.

    Layers are matched in turn until none moves. Buffers that are carried move with their units, and do not decide.

    Args:
        there: fixed parameters by name.
        tensors: parameters, and buffers where some are carried, that are changed.
        places: the hidden layers.

    Returns:
        Whether the units have come to rest, within ``SWEEPS`` sweeps over the layers.

    Reference:
        Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation symmetries, 2023.
    """
    for _ in range(SWEEPS):
        still = True
        for joint in places:
            products = _rows(there, joint) @ _rows({name: tensors[name] for name in there}, joint).T
            signs = torch.where(products < 0.0, -1.0, 1.0) if joint.odd else torch.ones_like(products)
            # The lengths of the rows are the same in every order, so that near means a large product.
            rows, order = linear_sum_assignment((products * signs).cpu().numpy(), maximize=True)
            still &= bool((order == rows).all()) and bool((signs.diagonal() == 1.0).all())
            arrange(tensors, joint, torch.as_tensor(order, device=products.device), signs[rows, order])
        if still:
            return True
    return False


def _joined(
    landscape: Landscape, places: list[Joint], one: Tensor, other: Tensor, cutoff: float
) -> tuple[bool, bool, bool]:
    """Whether a line joins two parameter vectors as they are, aligned, and in both of these though they differ."""
    near = aligned(landscape, places, one, other)
    ends = landscape.costs(torch.stack([one, other]))
    level = max(cutoff + landscape.anchor_cost, float(ends.max()) * (1.0 + _ROUNDING))
    where = torch.linspace(0.0, 1.0, INSIDE + 2, device=one.device, dtype=one.dtype)[1:-1].unsqueeze(1)
    free = [float(landscape.costs(one + where * (end - one)).max()) <= level for end in (other, near)]
    return free[0], free[1], free[0] and free[1] and not torch.equal(near, other)


def _rows(tensors: Mapping[str, Tensor], joint: Joint) -> Tensor:
    """All weights of each hidden unit (units, m), float64."""
    names = (f"{joint.before}.weight", f"{joint.before}.bias", *joint.carried)
    parts = [tensors[name].reshape(joint.units, -1) for name in names if name in tensors]
    read = tensors[f"{joint.after}.weight"]
    read = read.reshape(len(read), joint.units, -1).transpose(0, 1)
    return torch.cat([*parts, read.reshape(joint.units, -1)], 1).double()


def arrange(tensors: dict[str, Tensor], joint: Joint, order: Tensor, signs: Tensor) -> None:
    """Put the hidden units of a joint into another order (units,), and change their signs (units,), in place."""

    def make(part: Tensor) -> Tensor:
        return part[order] * signs.to(part).view(-1, *[1] * (part.dim() - 1))

    act(tensors, joint, make, lambda part: part[:, order] * signs.to(part).view(-1, 1))


def _shuffled(landscape: Landscape, places: list[Joint], theta: Tensor) -> Tensor:
    """Parameters (n,) with the hidden units of all layers in an order, and of signs, drawn at random."""
    tensors = dict(landscape.parameters.unflatten(theta))
    for number, joint in enumerate(places):
        source = generator(0, "arrangement", number)
        order = torch.randperm(joint.units, generator=source).to(theta.device)
        signs = 2.0 * torch.randint(0, 2, (joint.units,), generator=source) - 1.0 if joint.odd else torch.ones(1)
        arrange(tensors, joint, order, signs.expand(joint.units))
    return landscape.parameters.flatten(tensors)
