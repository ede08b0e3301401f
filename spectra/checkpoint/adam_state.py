"""The state that an Adam optimizer saved, held against what Adam can have before anything is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from spectra.errors import UserError

_FIRST, _SECOND = "exp_avg", "exp_avg_sq"
_ABSENT = "has no Adam state"


class DamagedStateError(UserError):
    """There is a state of an optimizer, and it is not as Adam would have it."""


@dataclass(frozen=True)
class AdamState:
    """What an optimizer saved of Adam.

    Attributes:
        keys: keys of its parameters, in its order.
        sizes: number of parameters of each of its groups.
        names: names of its parameters where it kept names, else none.
        moments: averages of the gradient and of its square, and the number of steps, by key; keys that were never
            stepped are absent.
    """

    keys: tuple[Any, ...]
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    moments: Mapping[Any, tuple[Tensor, Tensor, int]]


def read_adam_state(optimizer: Mapping[str, Any]) -> AdamState:
    """The state of Adam in an optimizer's state dict; refused if there is none or it is not as Adam would have it.

    Raises:
        UserError: if there is none.
        DamagedStateError: if it is not as Adam would have it: a part is missing, of another type or twice there, or an
            average of squares is negative.

    >>> group = {"params": [0]}
    >>> zero = torch.zeros(2)
    >>> read_adam_state({"state": {0: {"exp_avg": zero, "exp_avg_sq": zero, "step": 3}}, "param_groups": [group]}).keys
    (0,)
    """
    states, groups = optimizer.get("state"), optimizer.get("param_groups")
    if not states or not groups:
        raise UserError(_ABSENT)
    if not isinstance(states, Mapping) or not isinstance(groups, list | tuple):
        _refuse("its state is no dictionary, or its groups are no list")
    keys, names = list(_listed(groups, "params")), list(_listed(groups, "param_names"))
    for what, entries in (("parameter", keys), ("name", names)):
        if not all(isinstance(entry, int | str) for entry in entries):
            _refuse(f"a {what} is neither a number nor a text")
        if twice := [entry for entry, count in Counter(entries).items() if count > 1]:
            _refuse(f"it has the {what} {str(twice[0])[:80]} twice")
    if names and len(names) != len(keys):
        _refuse(f"it has {len(names)} names for {len(keys)} parameters")
    if foreign := [key for key in states if key not in keys]:
        _refuse(f"it has moments of {str(foreign[0])[:80]}, which is in none of its groups")
    moments = {key: _moments(str(key)[:80], states[key]) for key in keys if key in states}
    sizes = tuple(len(group["params"]) for group in groups)
    return AdamState(tuple(keys), sizes, tuple(map(str, names)), moments)


def _refuse(what: str) -> NoReturn:
    raise DamagedStateError(f"has an optimizer's state that is damaged, or not of torch's Adam: {what}")


def _listed(groups: list[Any] | tuple[Any, ...], name: str) -> Iterator[Any]:
    """The entries of all groups under a name."""
    for group in groups:
        if not isinstance(group, Mapping) or "params" not in group:
            _refuse("a group has no list of parameters")
        entries = group.get(name, ())
        if not isinstance(entries, list | tuple):
            _refuse(f"the {name} of a group are no list")
        yield from entries


def _moments(key: str, state: Any) -> tuple[Tensor, Tensor, int]:
    if not isinstance(state, Mapping):
        _refuse(f"what it keeps of parameter {key} is no dictionary")
    if not {_FIRST, _SECOND} <= state.keys():
        kept = ", ".join(str(name)[:40] for name in list(state)[:5])
        raise UserError(f"{_ABSENT}: its optimizer keeps {kept or 'nothing'}")
    first, second = (_average(key, name, state[name]) for name in (_FIRST, _SECOND))
    if first.shape != second.shape:
        _refuse(f"{_FIRST} and {_SECOND} of parameter {key} differ in shape")
    if bool((second < 0.0).any()):
        _refuse(f"{_SECOND} of parameter {key} is negative, which no average of squares is")
    return first, second, _steps(key, state.get("step", 0))


def _average(key: str, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = str(value.dtype) if isinstance(value, Tensor) else getattr(value, "words", f"a {type(value).__name__}")
        _refuse(f"{name} of parameter {key} must be a tensor of floating point, got {kind}")
    if not bool(torch.isfinite(value).all()):
        _refuse(f"{name} of parameter {key} has values that are not finite")
    return value


def _steps(key: str, value: Any) -> int:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(number, int | float) or not 0 <= number < 2**63:
        _refuse(f"the number of steps of parameter {key} is none")
    return int(number)
