"""Data as re-iterable batches: read the same way twice, merged where small, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UserError, UserTypeError
from spectra.randomness import preserved_random_state

CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Batch:
    """One batch: what the model takes, what the cost takes, and how much each sample counts.

    Attributes:
        inputs: a tensor ``model(x)``, a tuple ``model(*x)`` or a mapping ``model(**x)``.
        targets: whatever the cost takes; None if it takes nothing.
        weights: (samples,) non-negative weights, or None if each counts one.
        number: position in the data.
        first: how many samples the data has before it; what is drawn for a sample depends on its place alone.
    """

    inputs: Any
    targets: Any = None
    weights: Tensor | None = None
    number: int = 0
    first: int = 0

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """The batch on a device, floating-point inputs and targets in ``dtype`` if one is given."""
        inputs, targets, weights = (_moved(part, device, dtype) for part in (self.inputs, self.targets, self.weights))
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    def head(self, rows: int) -> Batch:
        """Its first rows, where all of its tensors have one leading length; else the whole."""
        return self.cut(slice(rows)) if self.divisible else self

    @property
    def divisible(self) -> bool:
        """Whether all of its tensors have one leading length, so that it can be cut by rows."""
        return len({len(tensor) if tensor.dim() else 0 for tensor in self.tensors()}) == 1

    def cut(self, rows: slice) -> Batch:
        """Some of its rows; for a divisible batch."""
        inputs, targets, weights = (_cut(part, rows) for part in (self.inputs, self.targets, self.weights))
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the batch, in a fixed order."""
        for part in (self.inputs, self.targets, self.weights):
            yield from _tensors(part)

    @property
    def rows(self) -> int:
        """Length of the leading dimension of the first input."""
        first = next(self.tensors(), None)
        return len(first) if first is not None and first.dim() else 0

    @property
    def bytes(self) -> int:
        """Bytes its tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())


def as_batch(item: Any) -> Batch:
    """Reads one item of a loader as a batch.

    Args:
        item: a ``Batch``; a tensor (inputs alone); a pair (inputs, targets) or triple (inputs, targets,
            weights); a mapping of keyword arguments, of which ``labels`` are the targets.

    Returns:
        The batch.

    Raises:
        UserTypeError: if the item is none of these.

    >>> as_batch((torch.zeros(3, 2), torch.zeros(3))).rows
    3
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch(item)
    if isinstance(item, Mapping):
        rest = {key: value for key, value in item.items() if key != "labels"}
        return Batch(rest, item.get("labels"))
    if isinstance(item, tuple | list) and 1 <= len(item) <= 3:
        return Batch(*item)
    raise UserTypeError(
        "a batch must be a tensor, (inputs, targets), (inputs, targets, weights) or a mapping; got "
        f"{type(item).__name__}{f' of length {len(item)}' if hasattr(item, '__len__') else ''}"
    )


class Batches:
    """Re-iterable batches, verified to be the same on each pass; small data is kept in memory.

    Attributes:
        sha256: digest of all tensors in the order of iteration.
        count: number of batches as the source gives them.
    """

    def __init__(self, source: Any, *, cache_bytes: int = CACHE_BYTES) -> None:
        """Reads the source twice and keeps it if it fits.

        Args:
            source: a tensor, a tuple (inputs, targets[, weights]) of tensors, or a re-iterable of batches
                such as a list or a DataLoader.
            cache_bytes: data up to this size is kept in memory and the source not read again.

        Raises:
            UserError: if it is empty, is a one-shot iterator, or two passes differ.
            UserTypeError: if an item cannot be read as a batch.
        """
        self._source = _as_iterable(source)
        with preserved_random_state():
            first = _digests(self._source)
            second = _digests(self._source)
            self._kept = _kept(self._source, cache_bytes)
        if not first:
            raise UserError("the data is empty: expected at least one batch, got none")
        if first != second:
            where = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))
            raise UserError(
                f"the data is not deterministic: two passes differ from batch {where} on; turn off shuffling and "
                "random augmentation (shuffle=False)"
            )
        self.count = len(first)
        self.sha256 = hashlib.sha256("".join(first).encode()).hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        """The batches, in order."""
        return iter(self._kept) if self._kept is not None else map(as_batch, self._source)

    @property
    def kept(self) -> bool:
        """Whether the data is held in memory."""
        return self._kept is not None


def merged(batches: Iterable[Batch], rows: int) -> list[Batch]:
    """Consecutive batches joined where their shapes allow it.

    Args:
        batches: in order.
        rows: that a joined batch has at most.

    Returns:
        Fewer batches, with the same rows in the same order.
    """
    groups: list[list[Batch]] = []
    for batch in batches:
        joins = groups and sum(b.rows for b in groups[-1]) + batch.rows <= rows
        if joins and all(_joinable(a, b) for a, b in _pairs(groups[-1][-1], batch)):
            groups[-1].append(batch)
        else:
            groups.append([batch])
    return [group[0] if len(group) == 1 else _joined(group) for group in groups]


def _as_iterable(source: Any) -> Iterable[Any]:
    if isinstance(source, Batches):
        return source._source
    if isinstance(source, Batch | Tensor | Mapping):
        return [source]
    if isinstance(source, tuple | list) and source and isinstance(source[0], Tensor):
        return [tuple(source)]
    if isinstance(source, tuple) and len(source) in (2, 3) and isinstance(source[0], Mapping):
        return [source]
    if isinstance(source, Iterator):
        raise UserError("the data is an iterator, which can be read only once; pass a list or a DataLoader")
    if not isinstance(source, Iterable):
        raise UserTypeError(f"the data must be tensors or an iterable of batches, got {type(source).__name__}")
    return source


def _digests(source: Iterable[Any]) -> list[str]:
    digests = []
    for item in source:
        digest = hashlib.sha256()
        for tensor in as_batch(item).tensors():
            digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        digests.append(digest.hexdigest())
    return digests


def _kept(source: Iterable[Any], budget: int) -> list[Batch] | None:
    kept, total = [], 0
    for item in source:
        batch = as_batch(item)
        total += batch.bytes
        if total > budget:
            return None
        kept.append(batch)
    return kept


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        for key in part:
            yield from _tensors(part[key])
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _tensors(item)


def _moved(part: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, dtype if part.is_floating_point() else None)
    if isinstance(part, Mapping):
        return {key: _moved(value, device, dtype) for key, value in part.items()}
    if isinstance(part, tuple | list):
        return tuple(_moved(item, device, dtype) for item in part)
    return part


def _cut(part: Any, rows: slice) -> Any:
    if isinstance(part, Tensor):
        return part[rows]
    if isinstance(part, Mapping):
        return {key: _cut(value, rows) for key, value in part.items()}
    if isinstance(part, tuple | list):
        return tuple(_cut(item, rows) for item in part)
    return part


def _pairs(first: Batch, second: Batch) -> list[tuple[Any, Any]]:
    return [(getattr(first, name), getattr(second, name)) for name in ("inputs", "targets", "weights")]


def _joinable(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dim() > 0 and first.shape[1:] == second.shape[1:] and first.dtype == second.dtype
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(_joinable(first[k], second[k]) for k in first)
    return first is None and second is None


def _joined(batches: list[Batch]) -> Batch:
    def join(parts: list[Any]) -> Any:
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        if isinstance(parts[0], Mapping):
            return {key: join([part[key] for part in parts]) for key in parts[0]}
        return None

    merged = {name: join([getattr(b, name) for b in batches]) for name in ("inputs", "targets", "weights")}
    return replace(batches[0], **merged)
