"""Where the long vectors of a Krylov method live: whole in one process, or a slice of each on every rank.

Memory of a basis falls with the number of ranks, and inner products are sums over the ranks. Only a product needs
whole vectors: they are joined for it, and its result is sliced again as it is summed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spectra.ranks import Ranks

if TYPE_CHECKING:
    from spectra.operators import SymmetricOperator


class Rows:
    """Rows (k, n) held whole."""

    def __init__(self, size: int) -> None:
        """For rows of ``size`` numbers."""
        self.size = self.width = size

    def part(self, rows: Tensor) -> Tensor:
        """What this process holds of rows (k, n), as (k, width)."""
        return rows

    def joined(self, parts: Tensor) -> Tensor:
        """The rows (k, n) of which each process holds parts (k, width)."""
        return parts

    def total(self, addend: Tensor) -> Tensor:
        """The sum of what the processes found on their parts."""
        return addend

    def product(self, operator: SymmetricOperator, parts: Tensor) -> Tensor:
        """Parts (k, width) of the products of rows with an operator."""
        return operator.matmat(parts)

    def orthonormal(self, parts: Tensor) -> Tensor:
        """Parts of orthonormal rows with the same span."""
        return orthonormal_rows(parts)[0]

    def singular(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Singular values (k,) of rows, and parts of the right singular vectors (k, width)."""
        _, values, right = torch.linalg.svd(parts, full_matrices=False)
        return values, right


class SlicedRows(Rows):
    """Rows (k, n) of which each rank holds a slice of columns.

    Reference:
        Demmel, Grigori, Hoemmen and Langou, Communication-optimal parallel and sequential QR, 2012.
    """

    def __init__(self, size: int, ranks: Ranks) -> None:
        """For rows of ``size`` numbers on these ranks."""
        super().__init__(size)
        self.ranks, self.width = ranks, ranks.width(size)

    def part(self, rows: Tensor) -> Tensor:
        """This rank's slice (k, width), zeros past the end."""
        return self.ranks.sliced(rows)

    def joined(self, parts: Tensor) -> Tensor:
        """The rows (k, n), on every rank."""
        return self.ranks.joined(parts, self.size)

    def total(self, addend: Tensor) -> Tensor:
        """The sum over the ranks."""
        return self.ranks.total(addend)

    def product(self, operator: SymmetricOperator, parts: Tensor) -> Tensor:
        """The slice of the products: of the whole rows with this rank's share of the operator, summed."""
        return self.ranks.summed_slice(operator.addend(self.joined(parts)))

    def orthonormal(self, parts: Tensor) -> Tensor:
        """From a factorisation of each slice, and one of the stacked triangular factors."""
        return self._factored(parts)[0]

    def singular(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """From the triangular factor, which is small."""
        rows, factor = self._factored(parts)
        _, values, right = torch.linalg.svd(factor.T, full_matrices=False)
        return values, right @ rows

    def _factored(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal rows (their parts), and the factor F with ``rows = F^T @ orthonormal``."""
        columns, factor = torch.linalg.qr(parts.T)
        stacked = self.ranks.gathered(factor)
        mixing, whole = torch.linalg.qr(stacked.view(-1, factor.shape[1]))
        first = self.ranks.rank * len(factor)
        return (columns @ mixing[first : first + len(factor)]).T.contiguous(), whole


def rows_of(operator: SymmetricOperator) -> Rows:
    """How the vectors of a Krylov method on this operator are held.

    Args:
        operator: H, of size n.

    Returns:
        Slices if its products are summed over ranks, else whole rows.
    """
    return Rows(operator.size) if operator.ranks is None else SlicedRows(operator.size, operator.ranks)


def orthonormal_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows with the same span, and the triangular factor: ``rows = factor^T @ orthonormal``."""
    columns, factor = torch.linalg.qr(rows.T)
    return columns.T.contiguous(), factor
