"""Tensors inside mappings, tuples, named tuples, lists and dataclasses: what models take and give."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors_in(part: Any) -> Iterator[Tensor]:
    """All tensors of a nest, in a fixed order.

    >>> [one.shape[0] for one in tensors_in({"a": torch.zeros(2), "b": (torch.zeros(3), "text")})]
    [2, 3]
    """
    if isinstance(part, str | int | float | None):
        return
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


def plain_in(part: Any) -> Iterator[Any]:
    """All texts and numbers of a nest that are no tensors, keys of mappings left out.

    >>> list(plain_in({"a": torch.zeros(2), "b": (3, "text", None)}))
    [3, 'text']
    """
    if isinstance(part, str | bytes | int | float | complex):
        yield part
    elif isinstance(part, Mapping):
        for key in part:
            yield from plain_in(part[key])
    elif isinstance(part, tuple | list):
        for item in part:
            yield from plain_in(item)


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
    if isinstance(part, PackedSequence):
        # Its lengths have to stay where they are.
        order = (None if one is None else function(one) for one in (part.sorted_indices, part.unsorted_indices))
        return PackedSequence(function(part.data), part.batch_sizes, *order)
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


def concatenated(parts: list[Any]) -> Any:
    """Nests of one structure as one, their tensors joined along the leading dimension.

    >>> concatenated([(torch.zeros(2),), (torch.ones(1),)])
    (tensor([0., 0., 1.]),)
    """
    columns = zip(*(tensors_in(part) for part in parts), strict=True)
    return mapped(parts[0], lambda _: torch.cat(next(columns)))


def structure(part: Any) -> Any:
    """What two nests must have alike to be joined: all but their tensors' numbers and leading lengths.

    >>> structure((torch.zeros(2, 3), None)) == structure((torch.zeros(5, 3), None))
    True
    """
    if isinstance(part, Tensor):
        return (part.dim() > 0, tuple(part.shape[1:]), part.dtype, part.layout)
    if isinstance(part, Mapping):
        return {key: structure(part[key]) for key in part}
    if isinstance(part, tuple | list):
        return [type(part), *map(structure, part)]
    if _is_record(part):
        return [type(part), *(structure(getattr(part, field.name)) for field in dataclasses.fields(part))]
    return part


def _is_record(part: Any) -> bool:
    return dataclasses.is_dataclass(part) and not isinstance(part, type)
