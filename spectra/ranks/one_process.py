"""The places where a landscape on several ranks differs from one in a single process, as the latter has them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from spectra.model import Batch, Batches
    from spectra.ranks.group import Ranks


class OneProcess:
    """Nothing is shared: ``spectra.landscape.SpreadLandscape`` overrides these.

    Attributes:
        ranks: the processes that share the data; None for one.
        batches: the data as read, all of it.
        l2: coefficient of the penalty.
    """

    ranks: Ranks | None = None
    batches: Batches
    l2: float
    _merged: list[Batch] | None

    @abstractmethod
    def share(self) -> Iterator[Batch]:
        """This process's batches as the cost sees them; ``joint`` joins what is found on them."""

    def iterate(self) -> Iterator[Batch]:
        """All batches as the cost sees them."""
        return self.share()

    def joint(self, addend: Tensor) -> Tensor:
        """What the processes found on their shares, summed."""
        return addend

    def largest(self, value: float) -> float:
        """The largest of the processes' numbers, by which they decide alike."""
        return value

    @property
    def own_l2(self) -> float:
        """Coefficient of the penalty in what this process adds to such a sum."""
        return self.l2

    def count(self) -> int:
        """How many batches ``share`` gives."""
        return self.batches.count if self._merged is None else len(self._merged)

    def _source(self) -> Iterator[Batch]:
        """This process's data, as read."""
        return iter(self.batches)

    def _over_ranks(
        self,
        sums: list[float],
        firsts: list[int],
        samples: int,  # noqa: ARG002  # the other ranks' need it
    ) -> tuple[list[float], list[int]]:
        """Sums, and places of the batches' first samples in all data, from those of this process."""
        return sums, firsts
