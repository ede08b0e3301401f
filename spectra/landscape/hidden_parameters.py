"""Refuses a gradient that leaves parameters out in silence: reentrant checkpoints and detached parts.

``autograd.grad`` is asked for the parameters' gradients and skips what no path in the graph leads from. A reentrant
checkpoint hides its inner parameters from the graph, so that theirs come out as zero, and torch says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape.average_cost import AverageCost
from spectra.model import Witness, generator

# Lengths of the moves over the root mean square of each parameter: a smooth dependence halves with them, or quarters
# where its derivative is zero; jumps of a threshold do neither.
MOVES = (1e-2, 5e-3, 2.5e-3)
SMOOTH = (1.5, 5.0)
REENTRANT = "use torch.utils.checkpoint with use_reentrant=False"


class DerivativeError(UserError):
    """Autograd does not give the derivative of what the model computes."""


def refuse_hidden(part: AverageCost, theta: Tensor) -> None:
    """Refuses parameters that autograd does not see, but on which the cost depends smoothly.

    Raises:
        DerivativeError: if there is a reentrant checkpoint in the graph, or the cost changes with a parameter without
            gradient in proportion to the move or its square.
    """
    batch, leaves, witness = next(part.share()), part.leaves(theta), Witness()
    with torch.enable_grad(), witness:
        value = part.cost_at(leaves, batch)
    names = [node.name() for node in graph_nodes(value)]
    if any("CheckpointFunction" in name for name in names):
        raise DerivativeError(
            f"the model has a reentrant activation checkpoint, which hides the parameters inside from the gradient; "
            f"{REENTRANT}"
        )
    reached = {id(node.variable) for node in graph_nodes(value) if hasattr(node, "variable")}
    tensors = part.parameters.unflatten(theta)
    for name in (name for name, leaf in leaves.items() if id(leaf) not in reached):
        if _depends(part, tensors, name):
            found = f"; found in the model: {witness.sentence}" if witness.suspects else ""
            raise DerivativeError(
                f"the cost depends on {name}, but autograd sees no derivative by it: torch.no_grad, detach or .data "
                f"in the forward pass, or a reentrant activation checkpoint, hides it{found}; take that out "
                f"({REENTRANT}), or leave the parameter out with parameters='!{name}'"
            )


def graph_nodes(value: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """All nodes of the graph that ends in a value."""
    seen, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        ahead.extend(one for one, _ in node.next_functions)


def _depends(part: AverageCost, tensors: dict[str, Tensor], name: str) -> bool:
    """Whether the samples' costs change with a parameter as a smooth function does."""
    batch = next(part.share())

    def costs(at: dict[str, Tensor]) -> Tensor:
        return part.samples_at(at, batch)[0].double()

    with torch.no_grad():
        at = costs(tensors)
        floor = 1e3 * torch.finfo(part.parameters.computed).eps * float(at.abs().max())
        stream = generator(0, f"unreached/{name}", device=at.device)
        way = torch.randn(tensors[name].shape, generator=stream, device=at.device).to(tensors[name])
        way *= float(tensors[name].double().square().mean().sqrt()) or 1.0
        moved = (costs({**tensors, name: tensors[name] + move * way}) for move in MOVES)
        changes = [float((found - at).abs().max()) for found in moved]
    return min(changes) > floor and all(SMOOTH[0] <= a / b <= SMOOTH[1] for a, b in pairwise(changes))
