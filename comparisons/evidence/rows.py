"""Data by rows: all batches joined, rows picked from them, and a landscape for each part."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch, joined_batch
from spectra.nested import structure


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
    if any(structure(part.parts) != structure(parts[0].parts) for part in parts):
        raise UserError("rows cannot be drawn from batches of different shapes (sequences of different lengths)")
    return joined_batch(parts)


def picked(batch: Batch, index: Tensor) -> Batch:
    """The rows at ``index``, of any shape: (k, m) gives every tensor the leading dimensions k and m."""
    return batch.cut(index)


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
    if reason := landscape.rows_apart():
        raise UserError(f"data can only be split by rows that are samples of their own: {reason}")
    whole = joined(landscape.taken())
    parts = torch.split(torch.arange(whole.rows, device=landscape.device), size)
    return [landscape.derived([picked(whole, rows)], l2=landscape.l2) for rows in parts]
