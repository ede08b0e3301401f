"""Each rank's share of the data: consecutive rows, or whole batches where those cannot be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.model import Batch, Batches
from spectra.ranks import Ranks

# Of theta, each of which ranks compare.
_CHUNKS = 64


def share_of(batches: Batches, ranks: Ranks, rows_apart: Callable[[], str]) -> Iterator[Batch]:
    """This rank's share of the data, as read.

    Args:
        batches: all of the data.
        ranks: the processes.
        rows_apart: says why rows of the data are no samples of their own; empty if they are.

    Returns:
        Rows in order, or whole batches where the data is streamed or cannot be cut by rows.

    Raises:
        UserError: if a rank would have none.
    """
    if ranks.alone:
        return iter(batches)
    if batches.kept:
        whole = not ranks.every(not rows_apart())
        try:
            return iter(share_of_rows(batches, ranks, whole_batches=whole))
        except UserError as problem:
            reason = rows_apart()
            raise UserError(f"{problem} (batches are not cut by rows: {reason})" if reason else problem) from None
    if batches.count < ranks.count:
        raise UserError(_too_few(batches.count, "batches", ranks))
    mine = ranks.part(batches.count)
    return islice(batches, mine.start, mine.stop)


def share_of_rows(batches: Iterable[Batch], ranks: Ranks, *, whole_batches: bool = False) -> list[Batch]:
    """This rank's share of the data: consecutive rows, as even as batches that cannot be cut allow.

    Args:
        batches: all of them.
        ranks: the processes.
        whole_batches: cut none.

    Returns:
        Batches and parts of batches; those that cannot be cut are with the rank in whose share their middle row lies.

    Raises:
        UserError: if a rank would have none.

    >>> shares = [share_of_rows([Batch(torch.arange(3)), Batch(torch.arange(3, 5))], Ranks(r, 2)) for r in range(2)]
    >>> [[batch.inputs.tolist() for batch in share] for share in shares]
    [[[0, 1]], [[2], [3, 4]]]
    """
    known = list(batches)
    rows = [max(batch.rows, 1) for batch in known]
    bounds = [0] + [(rank + 1) * sum(rows) // ranks.count for rank in range(ranks.count)]
    counts, mine, first = [0] * ranks.count, [], 0
    for batch, length in zip(known, rows, strict=True):
        middle = first + length / 2
        for rank, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if whole_batches or not batch.divisible:
                part = batch if low <= middle < high else None
            else:
                start, stop = max(low - first, 0), min(high - first, length)
                part = batch.cut(slice(start, stop)) if start < stop else None
            counts[rank] += part is not None
            if part is not None and rank == ranks.rank:
                mine.append(part)
        first += length
    if not all(counts):
        kind = "rows" if all(batch.divisible for batch in known) and not whole_batches else "batches that can be cut"
        raise UserError(_too_few(sum(rows) if kind == "rows" else len(known), kind, ranks))
    return mine


def fingerprint(theta: Tensor) -> Tensor:
    """Norms and sums of chunks of theta (n,), in parts of its norm; other numbers, or another order of them, differ."""
    # A sum is divided by the root of the chunk's length, so that no number is above one.
    chunks = theta.tensor_split(_CHUNKS)
    norms = torch.stack([torch.linalg.vector_norm(chunk, dtype=torch.float64) for chunk in chunks])
    sums = torch.stack([chunk.sum(dtype=torch.float64) / max(len(chunk), 1) ** 0.5 for chunk in chunks])
    whole = norms.square().sum().sqrt()
    return torch.cat([norms, sums]) / torch.where(whole > 0, whole, 1.0)


def _too_few(found: int, kind: str, ranks: Ranks) -> str:
    return f"the data has too few {kind} for {ranks.count} ranks, {found}: use fewer ranks (--nproc-per-node)"
