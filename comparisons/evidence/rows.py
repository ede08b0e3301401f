"""Data by rows: all batches joined, rows picked from them, and a landscape for each part."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch, joined_batch
from spectra.nested import structure


def all_rows(batches: Iterable[Batch]) -> Batch:
    """All rows of batches as one batch; the leading dimension of their tensors counts rows.

    Raises:
        UserError: if the batches' tensors do not have one leading length each, or do not fit together.

    >>> one = Batch(torch.zeros(2, 3), torch.zeros(2))
    >>> all_rows([one, one]).rows
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


def split(landscape: Landscape, size: int) -> list[Landscape]:
    """The landscape of each ``size`` consecutive rows alone, around the same anchor; the last part may have fewer."""
    if not landscape.batches.kept:
        raise UserError("only data kept in memory can be split by rows; this data is read anew at each pass")
    if reason := landscape.rows_apart():
        raise UserError(f"data can only be split by rows that are samples of their own: {reason}")
    whole = all_rows(landscape.taken())
    parts = torch.split(torch.arange(whole.rows, device=landscape.device), size)
    return [landscape.derived([whole.cut(rows)], l2=landscape.l2) for rows in parts]
