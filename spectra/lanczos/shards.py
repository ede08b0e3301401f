"""Where the long vectors of a Krylov method live: whole in one process, or a shard of each on every rank.

Memory of a basis falls with the number of ranks, and inner products are sums over the ranks. Only a product needs
whole vectors: they are joined for it, and its result is cut again as it is summed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.operators import SymmetricOperator
from spectra.ranks import ALONE, Pieces, Ranks


class Shards:
    """Rows (k, n), each rank's shard of which is a slice of columns (k, width); one process holds them whole.

    Attributes:
        size: length n of the rows.
        width: columns of each rank's shard.

    Reference:
        Demmel, Grigori, Hoemmen and Langou, Communication-optimal parallel and sequential QR, 2012.
    """

    def __init__(self, size: int, ranks: Ranks = ALONE) -> None:
        """For rows of ``size`` numbers on these ranks: those of an operator, or one that holds the rows whole."""
        self.size, self.ranks, self.width = size, ranks, ranks.width(size)

    def part(self, rows: Tensor) -> Tensor:
        """This rank's shard (k, width) of rows (k, n), zeros past the end."""
        return self.ranks.sliced(rows)

    def joined(self, parts: Tensor) -> Tensor:
        """The rows (k, n), on every rank, of which each holds a shard (k, width)."""
        return self.ranks.joined(parts, self.size)

    def total(self, addend: Tensor) -> Tensor:
        """The sum of what the ranks found on their shards."""
        return self.ranks.total(addend)

    def product(self, operator: SymmetricOperator, parts: Tensor) -> Tensor:
        """The shard of the products: of the whole rows with this rank's share of the operator, summed."""
        if self.ranks.alone:  # of the rows, though perhaps not of the operator
            return operator.matmat(parts)
        return self.ranks.summed_slice(operator.addend(self.joined(parts)))

    def orthonormal(self, parts: Tensor) -> Tensor:
        """Shards of orthonormal rows with the same span."""
        return self._factored(parts)[0]

    def singular(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Singular values (k,) of rows, and shards of the right singular vectors (k, width)."""
        if self.ranks.alone:
            _, values, right = torch.linalg.svd(parts, full_matrices=False)
            return values, right
        # From the triangular factor, which is small.
        rows, factor = self._factored(parts)
        _, values, right = torch.linalg.svd(factor.T, full_matrices=False)
        return values, right @ rows

    def _factored(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal rows (their shards), and the factor F with ``rows = F^T @ orthonormal``."""
        if self.ranks.alone:
            return orthonormal_rows(parts)
        # A factorisation of each shard, then one of the stacked triangular factors.
        columns, factor = torch.linalg.qr(parts.T)
        mixing, whole = torch.linalg.qr(self.ranks.gathered(factor).view(-1, factor.shape[1]))
        first = self.ranks.rank * len(factor)
        return (columns @ mixing[first : first + len(factor)]).T.contiguous(), whole


class HeldShards(Shards):
    """Rows that live as pieces, one on each rank, and are never joined: those of an operator of a sharded model."""

    def __init__(self, operator: SymmetricOperator, pieces: Pieces) -> None:
        super().__init__(operator.size, pieces.ranks)
        self.width = pieces.width

    def part(self, rows: Tensor) -> Tensor:
        """The rows as given, which are pieces already."""
        return rows

    def joined(self, parts: Tensor) -> Tensor:
        """The pieces as they are."""
        return parts

    def product(self, operator: SymmetricOperator, parts: Tensor) -> Tensor:
        """The pieces of the products."""
        return operator.of_pieces(parts)


def shards_of(operator: SymmetricOperator) -> Shards:
    """How the rows of Krylov methods on this operator are held."""
    if operator.pieces is not None:
        return HeldShards(operator, operator.pieces)
    return Shards(operator.size, operator.ranks)


def orthonormal_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows with the same span, and the triangular factor: ``rows = factor^T @ orthonormal``."""
    columns, factor = torch.linalg.qr(rows.T)
    return columns.T.contiguous(), factor
