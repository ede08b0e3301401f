"""The user's data as batches: a file or a folder, what a function gives, or an object of Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from basinscope.tasks import named_object
from basinscope.tasks.own.call import called, split_query
from basinscope.tasks.own.choice import DATA_FORMS
from basinscope.tasks.own.columns import Rows, as_tensor, checked, divided, told_apart
from basinscope.tasks.own.data_files import columns_of, read_data
from spectra.errors import UserError
from spectra.model import Batch
from spectra.nested import mapped, tensors_in

# Rows a batch, and numbers that its inputs have at most; batches are joined where that changes nothing.
_BATCH, _NUMBERS = 256, 2**22
_FUNCTION = re.compile(r".+:[A-Za-z_]\w*", re.DOTALL)
_ARRAYS = (Tensor, np.ndarray)


def batches_of(data: Any, known: tuple[str, ...]) -> tuple[Iterable[Any], bool, tuple[str, ...]]:
    """The user's data as a re-iterable of batches, whether rows were put together here, and sentences on it.

    Args:
        data: what is typed for it, or an object: a pair or a mapping of arrays, a data set, a loader, batches.
        known: names of what the model's forward pass takes.

    Returns:
        The batches; whether they are cut here, so that they must not matter; and the sentences.

    Raises:
        FileNotFoundError: if it names a file that is not there.
        UserError: if it cannot be read, or told what is what.
    """
    if not isinstance(data, str | Path):
        return _of_object("the data", data, known)
    place, options = split_query(str(data))
    if Path(place).exists() or not _FUNCTION.fullmatch(place):
        return _shortened(read_data(Path(place), options, known), place, options)
    function = named_object(place, "data", DATA_FORMS)
    made = called(function, options, f"--data {place}") if callable(function) else function
    return _of_object(f"--data {place}", made, known)


def _shortened(rows: Rows, place: str, options: Mapping[str, Any]) -> tuple[list[Batch], bool, tuple[str, ...]]:
    """Rows of a file as batches, as many as asked for."""
    for name in ("rows", "batch", "divide"):
        if type(options.get(name, 1)) not in ((int, float) if name == "divide" else (int,)):
            raise UserError(f"--data {place}: {name} must be a number, got {options[name]!r}")
    size, count = options.get("batch", _size(rows)), options.get("rows")
    if not (size >= 1 and (count is None or count >= 1) and options.get("divide", 1) != 0):
        raise UserError(f"--data {place}: rows, batch and divide must be at least 1")
    if "divide" in options:
        rows = divided(rows, float(options["divide"]))
    whole = Batch(rows.inputs, rows.targets).rows
    notes = rows.notes
    if count is not None and count < whole:
        inputs, targets = (mapped(part, lambda tensor: tensor[:count]) for part in (rows.inputs, rows.targets))
        rows = replace(rows, inputs=inputs, targets=targets)
        notes = (*notes, f"the first {count:,} of its {whole:,} rows are taken")
    return rows.batches(size), True, notes


def _of_object(what: str, data: Any, known: tuple[str, ...]) -> tuple[Iterable[Any], bool, tuple[str, ...]]:
    if isinstance(data, TensorDataset):
        data = data.tensors
    if hasattr(data, "column_names") and hasattr(data, "with_format"):
        data = columns_of(data)
    if isinstance(data, tuple | list) and len(data) > 2 and all(isinstance(one, _ARRAYS) for one in data):
        raise UserError(f"{what} is {len(data)} arrays: expected a pair, of several inputs as ((one, two), targets)")
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(one, _ARRAYS) for one in data):
        data = {str(place): one for place, one in enumerate(data)}
    elif isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], tuple | list | Mapping):
        rows = checked(what, Rows(_tensors(what, data[0]), _tensors(what, data[1])))
        return rows.batches(_size(rows)), True, ()
    if isinstance(data, Mapping):
        rows = told_apart(what, data, known, {})
        return rows.batches(_size(rows)), True, rows.notes
    if isinstance(data, Batch):
        return [data], False, ()
    if isinstance(data, _ARRAYS):
        raise UserError(f"{what} is one array alone: expected a pair (inputs, targets)")
    ours = isinstance(data, Dataset)
    if ours:
        data = DataLoader(data, batch_size=_BATCH)
    if isinstance(data, Iterable):
        _check_items(what, data)
        return data, ours, ()
    raise UserError(f"{what} must be arrays, tensors, a data set, a loader or batches, got {type(data).__name__}")


def _size(rows: Rows) -> int:
    """Rows a batch."""
    numbers = sum(tensor.numel() // len(tensor) for tensor in tensors_in(rows.inputs))
    return max(1, min(_BATCH, _NUMBERS // max(numbers, 1)))


def _tensors(what: str, part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: _tensors(what, value) for name, value in part.items()}
    if isinstance(part, tuple | list) and all(isinstance(one, _ARRAYS) for one in part):
        return tuple(_tensors(what, one) for one in part)
    found = as_tensor(what, part)
    if found is None:
        raise UserError(f"{what} holds a {type(part).__name__} where an array of numbers is expected")
    return found


def _check_items(what: str, data: Iterable[Any]) -> None:
    """Refuses items of three entries or more, of which the third would be taken as weights."""
    if isinstance(data, list) and not data:
        raise UserError(f"{what} has no rows: the data is empty")
    if isinstance(data, Iterator):
        return  # refused where it is read
    first = next(iter(data), None)
    if isinstance(first, Mapping) and "labels" not in first:
        raise UserError(
            f"{what} gives batches of {', '.join(map(str, first))} by name: expected pairs (inputs, targets), or the "
            "arguments of the model's forward by name and the targets as labels"
        )
    if isinstance(first, tuple | list) and len(first) != 2:
        raise UserError(
            f"{what} gives batches of {len(first)} entries: expected pairs (inputs, targets), several inputs together "
            "as ((one, two), targets)"
        )
