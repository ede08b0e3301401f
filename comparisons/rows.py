"""Data by rows: all batches joined, rows picked from them, and a landscape for each part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spectra.batches import Batch
from spectra.errors import UserError
from spectra.landscape import Landscape


def joined(batches: Iterable[Batch]) -> Batch:
    """All rows as one batch.

    Args:
        batches: of tensors whose leading dimension counts rows.

    Returns:
        The batch.

    Raises:
        UserError: if the batches' tensors do not have one leading length each, or do not fit together.

    >>> one = Batch(torch.zeros(2, 3), torch.zeros(2))
    >>> joined([one, one]).rows
    4
    """
    parts = list(batches)
    for part in parts:
        lengths = {len(tensor) if tensor.dim() else 0 for tensor in part.tensors()}
        if lengths != {part.rows} or part.rows == 0:
            raise UserError(f"rows cannot be drawn from a batch whose tensors have leading lengths {sorted(lengths)}")
    fields = {name: _cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets", "weights")}
    return replace(parts[0], **fields)


def picked(batch: Batch, index: Tensor) -> Batch:
    """The rows at ``index``, of any shape: (k, m) gives every tensor the leading dimensions k and m."""
    inputs, targets, weights = (
        _mapped(part, lambda tensor: tensor[index]) for part in (batch.inputs, batch.targets, batch.weights)
    )
    return replace(batch, inputs=inputs, targets=targets, weights=weights)


def split(landscape: Landscape, size: int) -> list[Landscape]:
    """The landscape of each ``size`` consecutive rows alone, around the same anchor.

    Args:
        landscape: on data kept in memory.
        size: rows of each part; the last may have fewer.

    Returns:
        The parts, in the order of the data.

    Raises:
        UserError: if the data is not kept in memory, or has no rows to split.
    """
    if not landscape.batches.kept:
        raise UserError("only data kept in memory can be split by rows; this data is read anew at each pass")
    whole = joined(landscape.batches)
    return [
        Landscape(
            landscape.model,
            landscape.cost_function,
            [picked(whole, rows)],
            theta=landscape.theta,
            parameters=landscape.parameters.names,
            l2=landscape.l2,
            mode=landscape.mode,
            background=landscape.evaluation.background,
        )
        for rows in torch.split(torch.arange(whole.rows), size)
    ]


def _mapped(part: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, Mapping):
        return {key: _mapped(value, function) for key, value in part.items()}
    if isinstance(part, tuple | list):
        return tuple(_mapped(item, function) for item in part)
    return part


def _cat(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        if any(part.shape[1:] != first.shape[1:] for part in parts):
            raise UserError("rows cannot be drawn from batches of different shapes (sequences of different lengths)")
        return torch.cat(parts)
    if isinstance(first, Mapping):
        return {key: _cat([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(_cat([part[place] for part in parts]) for place in range(len(first)))
    return first
