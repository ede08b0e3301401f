"""Data as re-iterable batches: read the same way twice, merged where small, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from spectra.errors import UserError, UserTypeError, foreign
from spectra.model.randomness import preserved_random_state
from spectra.nested import cast, concatenated, mapped, plain_in, structure, tensors_in

CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Batch:
    """One batch: what the model takes, what the cost takes, and how much each sample counts.

    Attributes:
        inputs: a tensor ``model(x)``, a tuple or list ``model(*x)``, a mapping ``model(**x)``, or any object
            ``model(x)``, a named tuple or a dataclass say.
        targets: whatever the cost takes; None if it takes nothing.
        weights: (samples,) non-negative weights, or None if each counts one.
        number: position in the data.
        first: how many samples the data has before it; what is drawn for a sample depends on its place alone.
        labelled: whether the targets were the entry ``labels`` of a mapping, which the model may take itself.
    """

    inputs: Any
    targets: Any = None
    weights: Tensor | None = None
    number: int = 0
    first: int = 0
    labelled: bool = False

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """The batch on a device; floating-point inputs in ``dtype``, targets in float32 at least, if one is given."""
        wide = None if dtype is None else torch.promote_types(dtype, torch.float32)
        return replace(
            self,
            inputs=_moved(self.inputs, device, dtype),
            targets=_moved(self.targets, device, wide),
            weights=_moved(self.weights, device, wide),
        )

    @property
    def divisible(self) -> bool:
        """Whether all of its tensors have one leading length; whether it may be cut by rows is another question."""
        if any(tensor.layout != torch.strided for tensor in self.tensors()):
            return False
        return len({len(tensor) if tensor.dim() else 0 for tensor in self.tensors()}) == 1

    def cut(self, rows: slice | Tensor) -> Batch:
        """Some of its rows; for a divisible batch."""
        inputs, targets, weights = (mapped(part, lambda tensor: tensor[rows]) for part in self.parts)
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        """Inputs, targets and weights."""
        return self.inputs, self.targets, self.weights

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the batch, in a fixed order."""
        return tensors_in(self.parts)

    @property
    def rows(self) -> int:
        """Length of the leading dimension of the first input."""
        first = next(self.tensors(), None)
        return len(first) if first is not None and first.dim() else 0

    @property
    def bytes(self) -> int:
        """Bytes its tensors take."""
        return sum(part.numel() * part.element_size() for tensor in self.tensors() for part in _stored(tensor))


def as_batch(item: Any) -> Batch:
    """One item of a loader as a batch.

    It may be a ``Batch``, a tensor (inputs alone), a pair (inputs, targets), a triple (inputs, targets, weights), or a
    mapping of keyword arguments, of which ``labels`` are the targets.

    Raises:
        UserTypeError: if the item is none of these.

    >>> as_batch((torch.zeros(3, 2), torch.zeros(3))).rows
    3
    """
    if isinstance(item, Batch):
        return item
    item = _as_tensors(item)
    if isinstance(item, Tensor):
        return Batch(item)
    if isinstance(item, Mapping):
        rest = {key: value for key, value in item.items() if key != "labels"}
        return Batch(rest, item.get("labels"), labelled="labels" in item)
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
            _refuse_repetition(self._source)
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
        return iter(self._kept) if self._kept is not None else _read(self._source)

    @property
    def kept(self) -> bool:
        """Whether the data is held in memory."""
        return self._kept is not None


def groups(batches: Iterable[Batch], rows: int) -> list[list[Batch]]:
    """Consecutive batches that could be joined, by the shapes of their tensors.

    Args:
        batches: the batches, in order.
        rows: most rows that the batches of a group have together.

    Returns:
        The same batches in the same order, each group to be joined by ``joined_batch`` where that changes nothing.
    """
    found: list[list[Batch]] = []
    known: Any = None
    for batch in batches:
        form = structure(batch.parts)
        fits = found and sum(b.rows for b in found[-1]) + batch.rows <= rows
        if fits and form == known:
            found[-1].append(batch)
        else:
            found.append([batch])
        known = form
    return found


def joined_batch(parts: list[Batch]) -> Batch:
    """Batches of one structure as one.

    >>> joined_batch([Batch(torch.zeros(2, 3)), Batch(torch.zeros(1, 3))]).rows
    3
    """
    if len(parts) == 1:
        return parts[0]
    inputs, targets, weights = concatenated([part.parts for part in parts])
    return replace(parts[0], inputs=inputs, targets=targets, weights=weights)


def _as_iterable(source: Any) -> Iterable[Any]:
    if isinstance(source, Batches):
        return source._source
    if isinstance(source, Batch | Tensor | Mapping):
        return [source]
    if isinstance(source, np.ndarray):
        return [source]
    if isinstance(source, tuple | list) and source and isinstance(source[0], Tensor | np.ndarray):
        return [tuple(source)]
    if isinstance(source, tuple) and len(source) in (2, 3) and isinstance(source[0], Mapping):
        return [source]
    if isinstance(source, Iterator):
        raise UserError("the data is an iterator, which can be read only once; pass a list or a DataLoader")
    if not isinstance(source, Iterable):
        raise UserTypeError(f"the data must be tensors or an iterable of batches, got {type(source).__name__}")
    return source


def _refuse_repetition(source: Iterable[Any]) -> None:
    """Each worker of a loader iterates over the whole of an IterableDataset that does not share itself out."""
    if not (isinstance(source, DataLoader) and isinstance(source.dataset, IterableDataset) and source.num_workers > 1):
        return
    alone: Any = DataLoader(source.dataset, source.batch_size, collate_fn=source.collate_fn, drop_last=source.drop_last)
    once, loaded = (sum(batch.rows for batch in _read(one)) for one in (alone, source))
    if loaded > once:
        raise UserError(
            f"the loader's {source.num_workers} workers give {loaded} rows of a data set of {once}: each iterates over "
            "all of it; use num_workers=0, or share the data set out by torch.utils.data.get_worker_info"
        )


def _digests(source: Iterable[Any]) -> list[str]:
    digests = []
    for item in _read(source):
        digest = hashlib.sha256()
        digest.update("".join(repr(value) for value in plain_in(item.parts)).encode())
        for tensor in item.tensors():
            digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            for part in _stored(tensor):
                digest.update(_content(part))
        digests.append(digest.hexdigest())
    return digests


def _content(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # Contiguous numbers may keep a stride where one row or none has no use for it, and a view as bytes refuses that.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().tobytes()


def _read(source: Iterable[Any]) -> Iterator[Batch]:
    """The items of a source as batches; what the user's data set raises is told as its own."""
    with foreign("the data"):
        items = iter(source)
    while True:
        with foreign("the data"):
            try:
                item = next(items)
            except StopIteration:
                return
        yield as_batch(item)


def _kept(source: Iterable[Any], budget: int) -> list[Batch] | None:
    kept, total = [], 0
    for batch in _read(source):
        total += batch.bytes
        if total > budget:
            return None
        kept.append(batch)
    return kept


def _as_tensors(part: Any) -> Any:
    """Arrays of numpy as tensors, and no tensor of inference mode, which autograd refuses."""
    if isinstance(part, np.ndarray | np.generic) and part.dtype.kind in "biufc":
        return torch.from_numpy(np.array(part))  # a copy: tensors may be written to, and not every array may
    if isinstance(part, Mapping):
        return {key: _as_tensors(part[key]) for key in part}
    if type(part) in (tuple, list):
        return type(part)(_as_tensors(item) for item in part)
    return mapped(part, _usable)


def _usable(tensor: Tensor) -> Tensor:
    if tensor.is_nested:
        raise UserTypeError("nested tensors cannot be read as data: pad them, and mask the padding")
    return tensor.clone() if tensor.is_inference() else tensor


def _stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """The plain tensors that a sparse one consists of; a plain one itself."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        whole = tensor.coalesce()
        return whole.indices(), whole.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def _moved(part: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    return mapped(part, lambda tensor: cast(tensor, dtype, device))
