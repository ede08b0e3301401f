"""Parameter vectors a piece, or a few, at a time: what keeps the memory of a hundred million parameters small."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spectra.ranks import Ranks

# Numbers in a block of parameter vectors that are held at once: 64 MB in float32.
NUMBERS = 2**24
_COLUMNS = 2**16


def pieces(size: int) -> Iterator[slice]:
    """Slices of at most 65,536 that cover n coordinates in order, so that float64 copies of directions stay small.

    >>> [part.start for part in pieces(70000)]
    [0, 65536]
    """
    for start in range(0, size, _COLUMNS):
        yield slice(start, start + _COLUMNS)


def at_once(size: int, wanted: int) -> int:
    """How many parameter vectors to hold at once: all that are wanted, or one of a large model.

    >>> at_once(4810, 64), at_once(10**8, 64)
    (64, 1)
    """
    return max(1, min(wanted, NUMBERS // size))


def squared_lengths(rows: Tensor) -> Tensor:
    """``|v|^2`` (k,) of vectors (k, n), summed in float64 without a copy of them.

    A relative error e of a length is n e in the log of a volume: float32 sums are not good enough for large n.

    >>> squared_lengths(torch.tensor([[3.0, 4.0]])).tolist()
    [25.0]
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for part in pieces(rows.shape[1]):
        total += rows[:, part].detach().double().square().sum(1)
    return total


def gathered_rows(ranks: Ranks, mine: Tensor, count: int) -> Tensor:
    """All rows (count, ...) in order from each rank's own (k, ...), the same to the bit on each rank."""
    place = ranks.part(count)
    table = mine.new_zeros(count, *mine.shape[1:])
    table[place.start : place.stop] = mine
    # Numbers and zeros add up to the numbers, to the bit.
    return ranks.total(table)
