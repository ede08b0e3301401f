"""A landscape whose data is shared out over ranks: each evaluates its share, and sums are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape.landscape import Landscape
from spectra.model import Batch
from spectra.ranks import Ranks

# Of theta, each of which ranks compare.
_PIECES = 64


class SpreadLandscape(Landscape):
    """The same cost, gradient and curvature as of the landscape in one process, to rounding.

    Each rank has the whole model and evaluates its share of the samples: consecutive rows, or whole batches where the
    data is streamed, cannot be cut by rows, or is evaluated in train mode. ``costs`` and ``gradient``, and products
    with curvatures, must be asked for by all ranks together, and give the same to the bit on each. What reads the data
    batch by batch (``iterate``, ``outputs``) gets all of it, on each rank.
    """

    ranks: Ranks

    def __init__(self, ranks: Ranks, *arguments: Any, **options: Any) -> None:
        """Reads this rank's share; see ``Landscape`` for the arguments.

        Args:
            ranks: the processes, all of which make this landscape at the same time.
            arguments: of ``Landscape``.
            options: of ``Landscape``.

        Raises:
            UserError: as ``Landscape`` does, if the data or the anchor is not the same on all ranks, or if there are
                fewer rows, or batches where those cannot be cut, than ranks.
        """
        self.ranks = ranks
        super().__init__(*arguments, **options)

    @cached_property
    def whole(self) -> Landscape:
        """The landscape in one process, with all data; made when first needed."""
        return Landscape(**self._options())

    def iterate(self) -> Iterator[Batch]:
        """All batches as the cost sees them."""
        return self.whole.iterate()

    def outputs(self, theta: Tensor | None = None) -> list[Tensor]:
        """The model's outputs on all data at theta (n,), one tensor a batch, without graph."""
        return self.whole.outputs(theta)

    def joint(self, addend: Tensor) -> Tensor:
        """The ranks' tensors summed; ``addend`` is overwritten."""
        return self.ranks.total(addend)

    def largest(self, value: float) -> float:
        """The largest of the ranks' numbers."""
        return self.ranks.largest(value)

    @property
    def own_l2(self) -> float:
        """The penalty is the first rank's to add."""
        return self.l2 if self.ranks.first else 0.0

    def count(self) -> int:
        """How many batches ``share`` gives."""
        return super().count() if self.batches.kept else len(self.ranks.part(self.batches.count))

    def _prepare(self) -> None:
        self.ranks.require_same("data", self.batches.sha256)
        self.ranks.require_same("anchor", f"{self.size} parameters in {self.dtype}")
        self.ranks.require_close("anchor", _fingerprint(self.theta))
        super()._prepare()

    def _source(self) -> Iterator[Batch]:
        if self.batches.kept:
            whole = self.largest(float(bool(self.rows_apart()))) > 0.0
            try:
                return iter(share_of_rows(self.batches, self.ranks, whole_batches=whole))
            except UserError as problem:
                reason = self.rows_apart()
                raise UserError(f"{problem} (batches are not cut by rows: {reason})" if reason else problem) from None
        mine = self.ranks.part(self.batches.count)
        if self.batches.count < self.ranks.count:
            raise UserError(_too_few(self.batches.count, "batches", self.ranks))
        return islice(self.batches, mine.start, mine.stop)

    def _refuse_values(self, tensors: dict[str, Tensor], number: int, value: float) -> None:
        streamed = not self.batches.kept
        super()._refuse_values(tensors, number + (self.ranks.part(self.batches.count).start if streamed else 0), value)

    def _over_ranks(self, sums: list[float], firsts: list[int], samples: int) -> tuple[list[float], list[int]]:
        found = self.ranks.total(torch.tensor(sums, dtype=torch.float64)).tolist()
        before = int(self.ranks.gathered(torch.tensor([samples])).flatten()[: self.ranks.rank].sum())
        return found, [before + first for first in firsts]

    def _again(self, **changes: Any) -> Landscape:
        return self._inherited(SpreadLandscape(self.ranks, **(self._options() | changes)), changes)


def spread(landscape: Landscape, ranks: Ranks | None) -> Landscape:
    """A landscape over ranks.

    Args:
        landscape: with the same model and all data on each rank.
        ranks: as ``spectra.ranks.current_ranks`` gives them; all of them must call this.

    Returns:
        The landscape itself in one process, else one that shares its data out.

    Raises:
        UserError: if data or anchor are not the same on all ranks, or the data cannot be shared out.
    """
    return landscape if ranks is None else SpreadLandscape(ranks, **landscape._options())


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


def _fingerprint(theta: Tensor) -> Tensor:
    """Norms and sums of pieces of theta (n,), in parts of its norm; other numbers, or another order of them, differ."""
    # A sum is divided by the root of the piece's length, so that no number is above one.
    pieces = theta.tensor_split(_PIECES)
    norms = torch.stack([torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in pieces])
    sums = torch.stack([piece.sum(dtype=torch.float64) / max(len(piece), 1) ** 0.5 for piece in pieces])
    whole = norms.square().sum().sqrt()
    return torch.cat([norms, sums]) / torch.where(whole > 0, whole, 1.0)


def _too_few(found: int, kind: str, ranks: Ranks) -> str:
    return f"the data has too few {kind} for {ranks.count} ranks, {found}: use fewer ranks (--nproc-per-node)"
