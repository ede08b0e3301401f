"""What a model's modules keep from one call to the next beside parameters and buffers: found, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from spectra.nested import tensors_in

# Registries of torch's own, and the weights that recurrent modules flatten anew when theirs change.
_OWN = ("_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs", "training")


def kept_tensors(model: nn.Module) -> dict[tuple[int, str], Any]:
    """Attributes of modules that hold tensors and are neither parameters nor buffers, by module and name.

    >>> model = nn.Linear(2, 1)
    >>> kept_tensors(model)
    {}
    """
    states = [vars(module) for module in model.modules()]
    return {(number, name): states[number][name] for number, name in _kept_in(states)}


def names_of(model: nn.Module, before: dict[tuple[int, str], Any]) -> list[str]:
    """Names of the attributes that a call has made, replaced or grown."""
    modules, after = list(model.named_modules()), kept_tensors(model)
    return [
        f"{modules[number][0]}.{name}".lstrip(".")
        for (number, name), value in after.items()
        if _identity(value) != _identity(before.get((number, name)))
    ]


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Puts attributes that hold tensors back afterwards: no call sees what an earlier one has kept."""
    modules = list(model.modules())
    before = [dict(vars(module)) for module in modules]
    contents = {id(v): v.copy() for v in kept_tensors(model).values() if isinstance(v, dict | list)}
    try:
        yield
    finally:
        for number, name in {*kept_tensors(model), *_kept_in(before)}:
            if name not in before[number]:
                delattr(modules[number], name)
                continue
            value = vars(modules[number])[name] = before[number][name]
            if id(value) in contents:
                value.clear()
                (value.update if isinstance(value, dict) else value.extend)(contents[id(value)])


def _kept_in(states: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    holds: dict[int, bool] = {}  # modules share a configuration, which may be long
    for number, state in enumerate(states):
        for name, value in state.items():
            if name in _OWN or isinstance(value, nn.Module):
                continue
            if id(value) not in holds:
                holds[id(value)] = next(tensors_in(value), None) is not None
            if holds[id(value)]:
                yield number, name


def _identity(value: Any) -> list[int]:
    return [id(tensor) for tensor in tensors_in(value)]
