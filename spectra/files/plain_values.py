"""Plain values of what a checkpoint keeps beside its weights: numbers, texts, and lists and dictionaries of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from spectra.files.opaque import Opaque

# Of one entry; a checkpoint may nest its lists without end, or hold one list twice in a list, and that twice again.
DEEPEST, MOST = 32, 100_000
_LARGEST = 2**64
_NOT_PLAIN = object()


def plain_entries(entries: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries of a dictionary that are plain values, copied.

    Numbers of numpy and tensors of one number become Python's numbers, instances of classes dictionaries of their
    attributes.

    Args:
        entries: the entries by name.

    Returns:
        Those that are plain throughout; what holds a tensor, an array or anything else is left out, and so is what is
        nested more than 32 deep, has more than 100,000 values, or has an integer of more than 64 bits.

    >>> plain_entries({"step": np.int64(3), "rates": [0.1, None], "weights": np.zeros(3)})
    {'step': 3, 'rates': [0.1, None]}
    """
    found = {str(name): _Copy().of(value, DEEPEST) for name, value in entries.items()}
    return {name: value for name, value in found.items() if value is not _NOT_PLAIN}


class _Copy:
    """Copies one value, counting."""

    def __init__(self) -> None:
        self.left = MOST

    def of(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth < 0:
            return _NOT_PLAIN
        if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
            value = value.item()
        if isinstance(value, Mapping):
            return self._mapping(value.entries if isinstance(value, Opaque) else value, depth, value)
        if isinstance(value, list | tuple):
            return self._sequence(value, depth)
        if isinstance(value, int):
            return value if -_LARGEST < value < _LARGEST else _NOT_PLAIN
        return value if value is None or isinstance(value, float | str) else _NOT_PLAIN

    def _mapping(self, entries: Mapping[Any, Any], depth: int, source: Any) -> Any:
        if isinstance(source, Opaque) and not entries:
            return _NOT_PLAIN
        found = {}
        for name, value in entries.items():
            # A name may be an enumeration's member, or bytes of Python 2.
            copied = self.of(value, depth - 1) if isinstance(name, str | int | float) else _NOT_PLAIN
            if copied is _NOT_PLAIN:
                return _NOT_PLAIN
            found[name] = copied
        return found

    def _sequence(self, values: list[Any] | tuple[Any, ...], depth: int) -> Any:
        found = []
        for value in values:
            copied = self.of(value, depth - 1)
            if copied is _NOT_PLAIN:
                return _NOT_PLAIN
            found.append(copied)
        return found if isinstance(values, list) else tuple(found)
