"""Refuses a gradient that leaves parameters out in silence: reentrant checkpoints and detached parts.

``autograd.grad`` is asked for the parameters' gradients and skips what no path in the graph leads from. A reentrant
checkpoint hides its inner parameters from the graph, so that theirs come out as zero, and torch says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.evaluation import Evaluation
from spectra.randomness import generator

# Lengths of the moves over the root mean square of each parameter: a smooth dependence halves with them, or quarters
# where its derivative is zero; jumps of a threshold do neither.
MOVES = (1e-2, 5e-3, 2.5e-3)
SMOOTH = (1.5, 5.0)
REMEDY = "use torch.utils.checkpoint with use_reentrant=False"


class UnreachedParametersError(UserError):
    """Autograd does not see a dependence of the cost on parameters."""


def refuse_checkpoints(value: Tensor) -> None:
    """Refuses a graph with a reentrant checkpoint in it.

    Args:
        value: end of the graph.

    Raises:
        UnreachedParametersError: if there is one.
    """
    seen, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "CheckpointFunction" in node.name():
            raise UnreachedParametersError(
                "the model has a reentrant activation checkpoint, which hides the parameters inside from the gradient; "
                f"{REMEDY}"
            )
        ahead.extend(one for one, _ in node.next_functions)


def refuse_hidden(evaluation: Evaluation, inputs: Any, tensors: Mapping[str, Tensor], unused: AbstractSet[str]) -> None:
    """Refuses parameters that autograd does not see, but on which the outputs depend smoothly.

    Args:
        evaluation: the model; one that returns no tensor is not looked at.
        inputs: one batch of inputs.
        tensors: parameters by name.
        unused: names of those without a gradient.

    Raises:
        UnreachedParametersError: if the outputs change with one of them, in proportion to the move or its square.
    """
    with torch.no_grad():
        at = evaluation(tensors, inputs) if unused else None
        if not isinstance(at, Tensor) or not at.numel():
            return
        floor = 1e3 * torch.finfo(at.dtype).eps * float(at.abs().max())
        for name in (name for name in tensors if name in unused):
            stream = generator(0, f"unreached/{name}", device=at.device)
            way = torch.randn(tensors[name].shape, generator=stream, device=at.device).to(tensors[name])
            way *= float(tensors[name].double().square().mean().sqrt()) or 1.0
            moved = (evaluation({**tensors, name: tensors[name] + move * way}, inputs) for move in MOVES)
            changes = [float((outputs - at).abs().max()) for outputs in moved]
            if min(changes) > floor and all(SMOOTH[0] <= a / b <= SMOOTH[1] for a, b in pairwise(changes)):
                raise UnreachedParametersError(
                    f"the outputs depend on {name}, but autograd sees no derivative by it: a reentrant activation "
                    f"checkpoint or a detached part hides it; {REMEDY}, or leave it out with parameters='!{name}'"
                )
