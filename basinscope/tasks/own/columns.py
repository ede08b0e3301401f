"""Which of several named arrays are inputs and which are targets: by convention, as told, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basinscope.choices import nearest
from spectra.errors import UserError
from spectra.model import Batch
from spectra.nested import mapped, tensors_in
from spectra.words import dtype_title

INPUTS = ("x", "X", "inputs", "input", "images", "image", "features")
TARGETS = ("y", "Y", "targets", "target", "labels", "label")
_SHOWN = 8


@dataclass(frozen=True)
class Rows:
    """Data in memory, row by row.

    Attributes:
        inputs: a tensor, a tuple of tensors or a mapping of them, each (rows, ...).
        targets: a tensor (rows, ...), or a tuple of them.
        labelled: whether the model of transformers takes the targets as ``labels`` beside the inputs.
        notes: sentences on what was taken as what.
    """

    inputs: Any
    targets: Any
    labelled: bool = False
    notes: tuple[str, ...] = ()

    def batches(self, size: int) -> list[Batch]:
        """The rows in batches; the last one may be smaller."""
        count = len(next(tensors_in(self.inputs)))
        whole = Batch(self.inputs, self.targets, labelled=self.labelled)
        return [whole.cut(slice(start, start + size)) for start in range(0, count, size)]


def told_apart(
    what: str, arrays: Mapping[str, Any], known: tuple[str, ...], asked: Mapping[str, Any], *, ordered: bool = True
) -> Rows:
    """Inputs and targets out of named arrays.

    Targets are what ``targets`` says, else the one array of a name in ``TARGETS``, else the second of two in order.
    Inputs are what ``inputs`` says, else the array that is left, else those that are left where the model takes them
    all by these names. Several inputs go to the model by name where it takes these names, else in order.

    Args:
        what: where the arrays come from, for messages.
        arrays: arrays or tensors by name.
        known: names of what the model's forward pass takes.
        asked: options ``inputs`` and ``targets``: a name, or several with commas between.
        ordered: whether the arrays come in the order in which the user gave them.

    Returns:
        The rows; integers are int64.

    Raises:
        UserError: if it cannot be told which is which.
    """
    tensors = {name: as_tensor(f"{what}: {name}", array) for name, array in arrays.items()}
    numbers = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    found = ", ".join(f"{name} {_form(tensor)}" for name, tensor in list(numbers.items())[:_SHOWN]) or "no arrays"
    told = {key: _names(what, asked[key], numbers, found) for key in ("inputs", "targets") if key in asked}
    free = [name for name in numbers if name not in told.get("inputs", ())]
    targets = told.get("targets") or _targets(what, free, found, ordered)
    left = [name for name in numbers if name not in targets]
    inputs = told.get("inputs") or _inputs(what, left, known, found)
    if shared := set(inputs) & set(targets):
        raise UserError(f"{what}: {shared.pop()} cannot be both inputs and targets")
    by_name = all(name in known for name in inputs) and (len(inputs) > 1 or targets == ["labels"])
    values = {name: numbers[name] for name in inputs}
    given: Any = values if by_name else (tuple(values.values()) if len(values) > 1 else values[inputs[0]])
    goals = [numbers[name] for name in targets]
    skipped = [name for name in arrays if name not in inputs and name not in targets]
    plain = tuple(arrays) == ("0", "1")  # a pair, of which nothing need be said
    notes = [] if plain else [f"inputs are {', '.join(inputs)} and targets {', '.join(targets)} of {what}"]
    notes += [f"left out of {what}: {', '.join(skipped)}"] if skipped else []
    labelled = by_name and targets == ["labels"]
    return checked(what, Rows(given, goals[0] if len(goals) == 1 else tuple(goals), labelled, tuple(notes)))


def checked(what: str, rows: Rows) -> Rows:
    """The rows, if there are any, as many of each tensor, and all of them numbers.

    Raises:
        UserError: otherwise.
    """
    every = list(tensors_in((rows.inputs, rows.targets)))
    lengths = [len(tensor) if tensor.dim() else 0 for tensor in every]
    if len(set(lengths)) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in every)
        raise UserError(
            f"{what}: inputs and targets have different numbers of rows (shapes {shapes}): rows come first in each; "
            "for others, such as sequences with time first, name a function that gives batches"
        )
    if not lengths or lengths[0] == 0 or any(tensor.numel() == 0 for tensor in every):
        raise UserError(f"{what} has no rows: the data is empty")
    for name, part in (("inputs", rows.inputs), ("targets", rows.targets)):
        for tensor in tensors_in(part):
            if wrong := _not_a_number(tensor):
                raise UserError(f"{what}: the {name} hold NaN, {wrong}: take such rows out")
    return rows


def as_tensor(what: str, array: Any) -> Tensor | None:
    """An array as a tensor, whole numbers as int64; None for what is no array of numbers.

    Raises:
        UserError: for a ragged array.
    """
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_nested:
            return None
        whole = not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
        return array.detach().long() if whole else array.detach()
    if isinstance(array, list):
        array = np.array(array, dtype=object if len({np.shape(one) for one in array}) > 1 else None)
    if not isinstance(array, np.ndarray):
        return None
    if array.dtype.kind == "O" and array.size and isinstance(array.flat[0], list | np.ndarray | Tensor):
        raise UserError(f"{what} has rows of different lengths: pad them to one")
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array)) if array.dtype.kind in "bifc" else None


def divided(rows: Rows, divisor: float) -> Rows:
    """The rows with inputs that are whole numbers divided, as bytes of images are by 255."""

    def share(tensor: Tensor) -> Tensor:
        return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype()) / divisor

    return Rows(
        mapped(rows.inputs, share), rows.targets, rows.labelled, (*rows.notes, f"inputs are divided by {divisor:g}")
    )


def _targets(what: str, names: list[str], found: str, ordered: bool) -> list[str]:
    named = [name for name in names if name in TARGETS]
    if len(named) == 1:
        return named
    if len(names) == 2 and not named and ordered:
        return names[1:]
    why = f"{' and '.join(named)} could both be" if named else "none is called y, targets or labels as"
    raise UserError(f"{what} has {found}, and {why} the targets: add '?inputs=NAME&targets=NAME' to it")


def _inputs(what: str, left: list[str], known: tuple[str, ...], found: str) -> list[str]:
    if len(left) == 1 or (left and all(name in known for name in left)):
        return left
    takes = f" (the model takes {', '.join(known[:_SHOWN])})" if known else ""
    raise UserError(
        f"{what} has {found}, and it cannot be told which are the inputs{takes}: add '?inputs=NAME' to it, or "
        "several with commas between"
    )


def _names(what: str, value: Any, numbers: Mapping[str, Tensor], found: str) -> list[str]:
    names = [str(one) for one in value] if isinstance(value, tuple | list) else str(value).split(",")
    for name in names:
        if name not in numbers:
            raise UserError(f"{what} has no array of numbers {name!r}: it has {found}{nearest(name, numbers)}")
    return names


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {dtype_title(tensor.dtype)}"


def _not_a_number(tensor: Tensor) -> str:
    """Where the first of them is, in words; empty if there is none."""
    if not tensor.is_floating_point() or not bool(tensor.isnan().any()):
        return ""
    rows = tensor.isnan().reshape(len(tensor), -1).any(1).nonzero().flatten()
    return f"first in row {int(rows[0])}, in {len(rows)} of {len(tensor)} rows"
