"""In what order an optimizer held a model's parameters: by name where it kept names, else by the habits of trainers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from spectra.checkpoint.adam_state import AdamState
from spectra.errors import UserError

Named = list[tuple[str, nn.Parameter]]
# What transformers' Trainer leaves without weight decay; it adds torch's LayerNorms of other names, which are seldom.
_TRAINER_PLAIN = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
_Decays = Callable[[str, nn.Parameter], bool]


def optimized(state: AdamState, saved: list[str], by_name: Mapping[str, Any]) -> Named:
    """Name and parameter for each key of an optimizer's state, in its order.

    By the names it saved; else in the model's order, over all parameters or those that require a gradient; of
    optimizers with two groups first by those who split them: transformers' Trainer (biases and norms apart) and
    training loops that set vectors apart from matrices.

    Raises:
        UserError: if a saved name is not in the model or stands for a parameter that another one stands for too, the
            number of parameters fits no order, or two orders fit that give moments to different parameters.
    """
    first_names: dict[int, str] = {}
    for name, parameter in by_name.items():
        first_names.setdefault(id(parameter), name)
    if saved:
        for name in saved:
            if name not in by_name:
                raise UserError(f"has Adam's moments of {name}, which is not in the model")
        if len({id(by_name[name]) for name in saved}) < len(saved):
            raise UserError("has Adam's moments of one parameter twice, under two of its names")
        return [(first_names[id(by_name[name])], by_name[name]) for name in saved]
    every = [(name, by_name[name]) for name in first_names.values()]
    trained = [(name, parameter) for name, parameter in every if parameter.requires_grad]
    fitting = [one for one in (every, trained) if len(one) == len(state.keys)]
    if not fitting:
        raise UserError(
            f"has Adam's moments of {len(state.keys)} parameters but the model has {len(every)}, "
            f"{len(trained)} of which require a gradient"
        )
    split = [order for one in fitting for rule in _RULES if (order := _split(one, rule, state.sizes))]
    split = [order for order in split if _shapes_fit(order, state)]
    if not split:
        return fitting[0]
    if any([name for name, _ in order] != [name for name, _ in split[0]] for order in split):
        raise UserError(
            "has Adam's moments in an order that cannot be told: two ways to split the parameters in groups "
            "fit; save an optimizer that was made from named_parameters()"
        )
    return split[0]


def _trainer(name: str, _: nn.Parameter) -> bool:
    return not _TRAINER_PLAIN.search(name.lower())


def _matrices(_: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() >= 2


_RULES: tuple[_Decays, ...] = (_trainer, _matrices)


def _split(parameters: Named, decays: _Decays, sizes: tuple[int, ...]) -> Named | None:
    """Those with weight decay, then those without, if the groups have these sizes."""
    parts = [[one for one in parameters if decays(*one) is kept] for kept in (True, False)]
    return parts[0] + parts[1] if tuple(len(part) for part in parts) == sizes else None


def _shapes_fit(order: Named, state: AdamState) -> bool:
    pairs = ((state.moments.get(key), parameter) for key, (_, parameter) in zip(state.keys, order, strict=True))
    return all(moments is None or moments[0].shape == parameter.shape for moments, parameter in pairs)
