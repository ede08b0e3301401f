"""Tensors inside mappings, tuples, named tuples, lists and dataclasses: what models take and give."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor


def tensors_in(part: Any) -> Iterator[Tensor]:
    """All tensors of a nest, in a fixed order.

    >>> [one.shape[0] for one in tensors_in({"a": torch.zeros(2), "b": (torch.zeros(3), "text")})]
    [2, 3]
    """
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        for key in part:
            yield from tensors_in(part[key])
    elif isinstance(part, tuple | list):
        for item in part:
            yield from tensors_in(item)
    elif _is_record(part):
        for field in dataclasses.fields(part):
            yield from tensors_in(getattr(part, field.name))


def mapped(part: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest with each tensor replaced; all else keeps its type.

    >>> mapped({"a": (torch.ones(2), "text")}, lambda tensor: 2 * tensor)
    {'a': (tensor([2., 2.]), 'text')}
    """
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, Mapping):
        values = {key: mapped(part[key], function) for key in part}
        found: Any = copy.copy(part) if isinstance(part, MutableMapping) else {}
        for key, value in values.items():
            found[key] = value
        return found
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(mapped(item, function) for item in part))
    if isinstance(part, tuple | list):
        return type(part)(mapped(item, function) for item in part)
    if _is_record(part):
        fields = [field.name for field in dataclasses.fields(part) if field.init]
        return dataclasses.replace(part, **{name: mapped(getattr(part, name), function) for name in fields})
    return part


def cast(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str | None = None) -> Tensor:
    """A tensor on a device, its numbers in ``dtype`` if they are real, in the complex one of that width if complex."""
    if dtype is not None and tensor.is_complex():
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    elif not tensor.is_floating_point():
        dtype = None
    return tensor.to(device=device, dtype=dtype)


def joined(parts: list[Any]) -> Any:
    """Nests of one structure as one, their tensors joined along the leading dimension.

    >>> joined([(torch.zeros(2),), (torch.ones(1),)])
    (tensor([0., 0., 1.]),)
    """
    columns = zip(*(tensors_in(part) for part in parts), strict=True)
    return mapped(parts[0], lambda _: torch.cat(next(columns)))


def structure(part: Any) -> Any:
    """What two nests must have alike to be joined: all but their tensors' numbers and leading lengths.

    >>> structure((torch.zeros(2, 3), None)) == structure((torch.zeros(5, 3), None))
    True
    """
    return mapped(part, lambda tensor: (tensor.dim() > 0, tuple(tensor.shape[1:]), tensor.dtype, tensor.layout))


def _is_record(part: Any) -> bool:
    return dataclasses.is_dataclass(part) and not isinstance(part, type)
