"""Symmetric operators: matrices known by their products with blocks of row vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from spectra.errors import UserError, UserTypeError
from spectra.model import Patterns
from spectra.ranks import ALONE, Pieces, Ranks


def not_finite(operator: str = "operator") -> str:
    """What is said where products are not finite."""
    return f"a product with the {operator} is not finite; the cost's curvature overflows or is undefined"


class SymmetricOperator(ABC):
    """A real symmetric matrix H (n, n), accessed by products alone.

    Attributes:
        size: number of rows n.
        dtype: dtype of the vectors.
        device: where the vectors live.
        definite: whether H is known to have no negative eigenvalue.
        name: what it is, for messages.
        ranks: the processes over which products are summed; one alone for an operator that each process has whole.
        pieces: how its vectors are cut where they live in pieces, one on each rank; None where they are whole.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    definite: bool = False
    name: str = "operator"
    ranks: Ranks = ALONE
    pieces: Pieces | None = None

    @property
    def width(self) -> int:
        """Columns of the vectors that this process holds: n, or fewer where they live in pieces."""
        return self.size if self.pieces is None else self.pieces.width

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how products are computed."""
        return ()

    @property
    def coarseness(self) -> float:
        """Relative error of products that are coarser than their dtype says; 0 where none was found."""
        return 0.0

    @abstractmethod
    def matmat(self, vectors: Tensor) -> Tensor:
        """``V H`` for rows V (k, n), as (k, n)."""

    def matvec(self, vector: Tensor) -> Tensor:
        """``H v`` for v (n,), as (n,)."""
        return self.matmat(vector.unsqueeze(0))[0]

    def addend(self, vectors: Tensor) -> Tensor:
        """This process's part of ``matmat``: the sum over the ranks is the product."""
        return self.matmat(vectors)

    def of_pieces(self, parts: Tensor) -> Tensor:
        """Products with rows in pieces (k, width), as pieces; of an operator whose vectors live so."""
        raise UserTypeError(f"the vectors of the {self.name} are whole, got pieces of shape {tuple(parts.shape)}")

    def shifted(self, shift: float) -> SymmetricOperator:
        """``H + shift I``."""
        return Shifted(self, shift)

    def restricted(self, patterns: Patterns) -> SymmetricOperator:
        """The diagonal block of H that belongs to the parameters which match.

        Raises:
            UserTypeError: if the operator does not know parameters by name.
        """
        raise UserTypeError(f"{self.name} has no named parameters to restrict to {patterns!r}")

    def to_dense(self, *, chunk: int = 256) -> Tensor:
        """The whole matrix (n, n), from n products, symmetrised; for small n."""
        rows = []
        for start in range(0, self.size, chunk):
            stop = min(start + chunk, self.size)
            block = torch.zeros(stop - start, self.size, dtype=self.dtype, device=self.device)
            block.diagonal(start).fill_(1.0)
            rows.append(self.matmat(block))
        matrix = torch.cat(rows)
        return (matrix + matrix.T) / 2.0

    def to_scipy(self) -> LinearOperator:
        """The operator for scipy (ARPACK and others), which works on the host in float64 or float32."""
        dtype = np.float64 if self.dtype == torch.float64 else np.float32

        def product(block: NDArray[np.floating]) -> NDArray[np.floating]:
            columns = np.ascontiguousarray(block.reshape(self.size, -1).T)
            rows = torch.from_numpy(columns).to(self.device, self.dtype)
            return np.asarray(self.matmat(rows).T.cpu().to(torch.float64).numpy().astype(dtype).reshape(block.shape))

        return LinearOperator((self.size, self.size), matvec=product, matmat=product, rmatvec=product, dtype=dtype)

    def _checked(self, vectors: Tensor) -> Tensor:
        if vectors.dim() != 2 or vectors.shape[1] != self.size:
            raise UserError(f"vectors must have shape (k, {self.size}), got {tuple(vectors.shape)}")
        return vectors.to(self.device, self.dtype)


class OfAnother(SymmetricOperator):
    """An operator made from another one, which says of its products what that one does."""

    inner: SymmetricOperator

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the inner operator."""
        return self.inner.notes

    @property
    def coarseness(self) -> float:
        """That of the inner operator."""
        return self.inner.coarseness


class Shifted(OfAnother):
    """``H + shift I``."""

    def __init__(self, inner: SymmetricOperator, shift: float) -> None:
        """Shifts ``inner`` by ``shift``, unit of its eigenvalues."""
        self.inner, self.shift = inner, float(shift)
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device
        self.definite = inner.definite and shift >= 0.0
        self.name, self.ranks = f"{inner.name} + {shift:g}", inner.ranks

    def addend(self, vectors: Tensor) -> Tensor:
        """The shift is the first rank's to add."""
        found = self.inner.addend(vectors)
        return found + self.shift * vectors if self.ranks.first else found

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V (H + shift I)`` for rows V (k, n)."""
        return self.inner.matmat(vectors) + self.shift * vectors

    def restricted(self, patterns: Patterns) -> SymmetricOperator:
        """The shifted diagonal block."""
        return Shifted(self.inner.restricted(patterns), self.shift)


class Restricted(OfAnother):
    """The diagonal block of some of the coordinates."""

    def __init__(self, inner: SymmetricOperator, positions: Tensor) -> None:
        """Restricts ``inner`` to the coordinates at ``positions`` (k,)."""
        self.inner, self.positions = inner, positions
        self.size, self.dtype, self.device = len(positions), inner.dtype, inner.device
        self.definite, self.name = inner.definite, f"{inner.name} block"

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V H[block, block]`` for rows V (k, block size)."""
        vectors = self._checked(vectors)
        whole = vectors.new_zeros(len(vectors), self.inner.size)
        whole[:, self.positions] = vectors
        return self.inner.matmat(whole)[:, self.positions]


class MatrixOperator(SymmetricOperator):
    """A symmetric matrix that is held whole: the oracle's operator, and that of tests."""

    def __init__(self, matrix: Tensor, *, name: str = "matrix") -> None:
        """Holds ``matrix`` (n, n).

        Raises:
            UserError: if it is not square and symmetric up to rounding.
        """
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise UserError(f"matrix must be square, got shape {tuple(matrix.shape)}")
        asymmetry = float((matrix - matrix.T).abs().max()) if len(matrix) else 0.0
        scale = float(matrix.abs().max()) if len(matrix) else 0.0
        if asymmetry > 1e3 * torch.finfo(matrix.dtype).eps * scale:
            raise UserError(f"matrix must be symmetric, but entries differ from the transpose by {asymmetry:.3g}")
        self.matrix, self.name = matrix, name
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V M`` for rows V (k, n)."""
        return self._checked(vectors) @ self.matrix
