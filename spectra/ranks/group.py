"""Several processes on one job: sums, slices and texts across the ranks of torch.distributed.

All ranks run the same program with the same numbers; what each does alone is joined here. A result is the same to the
bit on all of them, so that no two can decide differently and wait for one another in vain. One process is a group of
one, in which everything is joined already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from spectra.errors import UserError

# A rank that dies closes its connections and is noticed at once; one that hangs, or a machine that vanishes, after
# this. It is more than ranks should be apart: what each does between two sums is at most a pass over its data.
TIMEOUT = timedelta(minutes=10)
# Rows are joined or split in chunks of at most this many numbers, or of one row.
_CHUNK = 2**22
# What machines of different kinds may make of the same numbers in single precision.
_APART = 1e-5


class LostRankError(RuntimeError):
    """Another rank died, or could not be reached for ``TIMEOUT``."""


class Ranks:
    """The processes that share a job, as one of them sees them.

    Attributes:
        rank: number of this one.
        count: how many there are.
        sent: bytes that this rank handed to each kind of operation so far, before the ring multiplies them.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        """Takes the place of this process in torch's default group."""
        self.rank, self.count = rank, count
        self.sent: Counter[str] = Counter()

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of torch's default process group; this process alone where there is no group.

        >>> Ranks.current().alone
        True
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def part(self, total: int) -> range:
        """This rank's share of things in a row, contiguous, in the order of ranks.

        Args:
            total: how many things there are.

        Returns:
            Their numbers.

        >>> [list(Ranks(rank, 2).part(5)) for rank in range(2)]
        [[0, 1], [2, 3, 4]]
        """
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def total(self, addend: Tensor) -> Tensor:
        """The sum of the ranks' tensors, in their dtype; ``addend`` is overwritten by it where it is contiguous."""
        if self.alone:
            return addend
        summed = addend.contiguous()
        self._done("all_reduce", summed, lambda: dist.all_reduce(summed))
        return summed

    def largest(self, value: float) -> float:
        """The largest of the ranks' numbers."""
        if self.alone:
            return value
        found = torch.tensor([value], dtype=torch.float64)
        self._done("all_reduce", found, lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
        return float(found)

    def every(self, flag: bool) -> bool:
        """Whether a flag holds on all ranks."""
        return self.largest(float(not flag)) == 0.0

    def gathered(self, one: Tensor) -> Tensor:
        """The ranks' tensors of one shape, stacked in order, (ranks, ...)."""
        if self.alone:
            return one.unsqueeze(0)
        mine = one.contiguous()
        found = mine.new_empty(self.count, *mine.shape)
        self._done("all_gather", mine, lambda: dist.all_gather_single(found.view(-1), mine.view(-1)))
        return found

    def texts(self, text: str) -> list[str]:
        """The ranks' texts, in order."""
        if self.alone:
            return [text]
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
        lengths = self.gathered(torch.tensor([len(mine)])).flatten().tolist()
        rows = self.gathered(F.pad(mine, (0, max(lengths) - len(mine)))) if any(lengths) else [mine] * self.count
        return [bytes(row[:length].tolist()).decode() for row, length in zip(rows, lengths, strict=True)]

    def require_same(self, what: str, text: str) -> None:
        """Refuses ranks that do not have the same before them.

        Args:
            what: the name of it, for the message.
            text: a text that stands for it, such as a digest.

        Raises:
            UserError: on all ranks, naming one that differs from rank 0.
        """
        found = self.texts(text)
        other = next((rank for rank, one in enumerate(found) if one != found[0]), None)
        if other is not None:
            raise UserError(f"all ranks need the same {what}: rank 0 has {found[0]}, rank {other} has {found[other]}")

    def require_close(self, what: str, numbers: Tensor) -> None:
        """Refuses ranks that have other numbers before them, rounding apart.

        Args:
            what: the name of them, for the message.
            numbers: (k,) that stand for it, as parts of one.

        Raises:
            UserError: on all ranks, naming the one that differs most from rank 0.
        """
        found = self.gathered(numbers.cpu())
        apart = (found - found[0]).abs().amax(1).tolist()
        most = max(apart)
        if most > _APART:
            other = apart.index(most)
            raise UserError(f"all ranks need the same {what}: rank {other} is {most:.2g} of its norm from rank 0")

    def width(self, size: int) -> int:
        """Columns of each rank's slice of rows of ``size`` numbers; the last ranks' are filled with zeros."""
        return -(-size // self.count)

    def sliced(self, rows: Tensor) -> Tensor:
        """This rank's slice (k, width) of rows (k, n) that all ranks have."""
        if self.alone:
            return rows
        width = self.width(rows.shape[1])
        mine = rows[:, self.rank * width : (self.rank + 1) * width]
        return F.pad(mine, (0, width - mine.shape[1])) if mine.shape[1] < width else mine.clone()

    def joined(self, parts: Tensor, size: int) -> Tensor:
        """Rows (k, size) from their slices (k, width)."""
        if self.alone:
            return parts
        found = parts.new_empty(len(parts), size)
        for rows in self._chunks(len(parts), size):
            slices = self.gathered(parts[rows])
            found[rows] = slices.transpose(0, 1).reshape(slices.shape[1], -1)[:, :size]
        return found

    def summed_slice(self, addends: Tensor) -> Tensor:
        """This rank's slice (k, width) of the sum of the ranks' rows (k, n)."""
        if self.alone:
            return addends
        size, width = addends.shape[1], self.width(addends.shape[1])
        found = addends.new_empty(len(addends), width)
        for rows in self._chunks(len(addends), size):
            padded = F.pad(addends[rows], (0, width * self.count - size)).view(-1, self.count, width)
            slices, mine = padded.transpose(0, 1).contiguous(), padded.new_empty(len(padded), width)
            scatter = partial(dist.reduce_scatter_single, mine.view(-1), slices.view(-1))
            self._done("reduce_scatter", slices, scatter)
            found[rows] = mine
        return found

    def wait(self) -> None:
        """Waits for all ranks."""
        self.largest(0.0)

    def _chunks(self, rows: int, size: int) -> list[slice]:
        step = max(1, _CHUNK // size)
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def _done(self, kind: str, tensor: Tensor, run: Callable[[], object]) -> None:
        self.sent[kind] += tensor.numel() * tensor.element_size()
        try:
            run()
        except RuntimeError as error:
            if "No backend type" in str(error):
                raise UserError(
                    "the process group must serve tensors of the CPU and of the device: make it with "
                    "init_process_group('cpu:gloo,cuda:nccl')"
                ) from error
            raise LostRankError("another rank died or cannot be reached") from error


ALONE = Ranks()
