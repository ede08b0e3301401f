"""Top eigenpairs with residuals, by block Lanczos with thick restarts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.lanczos.probes import probes_of
from spectra.lanczos.quadrature import Array
from spectra.lanczos.shards import orthonormal_rows
from spectra.model import ParameterLayout
from spectra.operators import SymmetricOperator

_RANKS: dict[str, Callable[[Array], Array]] = {
    "magnitude": lambda values: -np.abs(values),
    "largest": lambda values: -values,
    "smallest": lambda values: values,
}


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenpairs and how well they are known.

    Attributes:
        values: (k,) eigenvalues, in the order asked for.
        vectors: (k, n) orthonormal rows.
        residuals: (k,) ``|H q - l q|``; each eigenvalue is within this of a true one.
        products: products spent.
        converged: whether all residuals met the tolerance; if not, more products are needed.
        bound: residual up to which a pair counts as converged, the rounding of a product included.
        parameters: names and shapes of the parameters; None for an operator that is of no model.
    """

    values: Array
    vectors: Tensor
    residuals: Array
    products: int
    converged: bool
    parameters: ParameterLayout | None = None
    bound: float = math.inf

    def named(self, number: int) -> dict[str, Tensor]:
        """An eigenvector as one tensor a parameter.

        Args:
            number: of the pair, from 0.

        Returns:
            By parameter name, in the parameters' shapes; the squares of all entries sum to one.

        Raises:
            UserError: if the operator is of no model, or there is no pair of that number.
        """
        if self.parameters is None:
            raise UserError("the operator knows no parameters by name: its eigenvectors are the rows of vectors")
        if not -len(self.values) <= number < len(self.values):
            raise UserError(f"there are {len(self.values)} eigenpairs, numbered from 0, got {number}")
        return self.parameters.unflatten(self.vectors[number])


def top_eigenpairs(
    operator: SymmetricOperator,
    count: int,
    *,
    which: str = "magnitude",
    tolerance: float | None = None,
    max_products: int | None = None,
    block: int = 4,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The ``count`` eigenpairs at one end of the spectrum.

    A block Krylov space with full orthogonalisation grows to ``2 count + 8 block`` vectors; then the best Ritz
    vectors and the remainder start it anew (thick restart). The final residuals are computed from products.

    Args:
        operator: H, of size n.
        count: k, number of pairs.
        which: ``magnitude``, ``largest`` or ``smallest``.
        tolerance: residual over the largest magnitude; default 1e-10 in float64 and 1e-5 in float32.
        max_products: stop after this many; default ``100 count + 1000``.
        block: vectors a step; eigenvalues of that multiplicity are found.
        seed: seed of the start vectors.
        progress: called with the number of products of each step.

    Returns:
        The pairs; ``converged`` says whether the tolerance was met.

    Raises:
        UserError: if count is not between 1 and n, or ``which`` is unknown.

    Reference:
        Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000.

    >>> from spectra.operators import MatrixOperator
    >>> top_eigenpairs(MatrixOperator(torch.diag(torch.tensor([1.0, 5.0, 2.0]).double())), 1).values.round(9).tolist()
    [5.0]
    """
    if which not in _RANKS:
        raise UserError(f"which must be one of {', '.join(_RANKS)}; got {which!r}")
    if not 1 <= count <= operator.size:
        raise UserError(f"count must lie between 1 and the size {operator.size}, got {count}")
    epsilon = torch.finfo(operator.dtype).eps
    tolerance = max(1e-10, 80 * epsilon) if tolerance is None else tolerance
    limit = 100 * count + 1000 if max_products is None else max_products
    width = min(operator.size, 2 * count + 8 * block)
    space = _Space(operator, width, count, progress)
    space.start(probes_of(operator, min(block, width), seed=seed, stream="eigenpairs"))
    while True:
        space.grow(limit)
        values, vectors, residuals = space.ritz(_RANKS[which])
        scale = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
        met = bool((residuals[:count] <= tolerance * scale).all())
        if met or space.exhausted or space.products >= limit:
            break
        space.restart(values, vectors, min(count + block, width // 2 + 1))
    return _measured(operator, space, values[:count], vectors[:, :count], tolerance * scale)


def _measured(operator: SymmetricOperator, space: _Space, values: Array, vectors: Array, bound: float) -> Eigenpairs:
    """Ritz pairs with residuals from actual products, in the order found."""
    mixing = torch.as_tensor(vectors.T, dtype=operator.dtype, device=operator.device)
    rows, _ = orthonormal_rows(mixing @ space.basis[: space.filled])
    images = operator.matmat(rows)
    values = (rows * images).sum(1).double().cpu().numpy()
    levels = torch.as_tensor(values, dtype=operator.dtype, device=operator.device).unsqueeze(1)
    residuals = (images - levels * rows).norm(dim=1).double().cpu().numpy()
    # A product's own rounding is added to what the iteration can reach.
    floor = 100 * torch.finfo(operator.dtype).eps * float(np.abs(values).max(initial=0.0))
    bound += floor
    converged = bool((residuals <= bound).all())
    landscape = getattr(operator, "landscape", None)
    parameters = None if landscape is None else landscape.parameters
    return Eigenpairs(values, rows, residuals, space.products + len(rows), converged, parameters, bound)


class _Space:
    """An orthonormal basis, the operator projected on it, and the block that comes next."""

    def __init__(
        self, operator: SymmetricOperator, width: int, wanted: int, progress: Callable[[int], None] | None
    ) -> None:
        self.operator, self.wanted, self.progress = operator, wanted, progress
        self.basis = torch.zeros(width, operator.size, dtype=operator.dtype, device=operator.device)
        self.projected = np.zeros((width, width))
        self.filled = self.products = 0
        self.exhausted = False

    def start(self, rows: Tensor) -> None:
        self.next, _ = orthonormal_rows(rows)
        self.coupling = np.zeros((len(rows), 0))

    def grow(self, limit: int) -> None:
        """Adds blocks until the basis is full, an invariant subspace is found, or the products are spent."""
        while not self.exhausted and self.filled + len(self.next) <= len(self.basis) and self.products < limit:
            rows, begin = self.next, self.filled
            self.filled += len(rows)
            self.basis[begin : self.filled] = rows
            known = self.basis[: self.filled]
            product = self.operator.matmat(rows)
            self.products += len(rows)
            if self.progress is not None:
                self.progress(len(rows))
            columns = torch.zeros(self.filled, len(rows), dtype=torch.float64, device=known.device)
            for _ in range(2):
                part = known @ product.T
                product = product - part.T @ known
                columns += part.double()
            coefficients = columns.cpu().numpy()
            self.projected[: self.filled, begin : self.filled] = coefficients
            self.projected[begin : self.filled, : self.filled] = coefficients.T
            self._continue_with(product, known)

    def _continue_with(self, product: Tensor, known: Tensor) -> None:
        _, values, right = torch.linalg.svd(product, full_matrices=False)
        scale = max(float(np.abs(self.projected[: self.filled, : self.filled]).max()), 1e-300)
        kept = values > 30.0 * torch.finfo(product.dtype).eps * scale
        rows = right[kept]
        self.exhausted = self.filled == self.operator.size or (len(rows) == 0 and self.filled >= self.wanted)
        if len(rows) == 0 and not self.exhausted:
            # An invariant subspace smaller than what is wanted: go on from a fresh direction.
            rows = probes_of(self.operator, 1, seed=self.filled, stream="fresh")
        if len(rows):
            for _ in range(2):
                rows = rows - (rows @ known.T) @ known
            rows, _ = orthonormal_rows(rows)
        self.next = rows[: self.operator.size - self.filled]
        self.coupling = (self.next @ product.T).double().cpu().numpy()

    def ritz(self, rank: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
        core = self.projected[: self.filled, : self.filled]
        values, vectors = np.linalg.eigh((core + core.T) / 2.0)
        order = np.argsort(rank(values), kind="stable")
        values, vectors = values[order], vectors[:, order]
        last = vectors[self.filled - self.coupling.shape[1] :]
        residuals = np.linalg.norm(self.coupling @ last, axis=0) if len(self.coupling) else np.zeros(len(values))
        return values, vectors, residuals

    def restart(self, values: Array, vectors: Array, kept: int) -> None:
        mixing = torch.as_tensor(vectors[:, :kept].T, dtype=self.basis.dtype, device=self.basis.device)
        rows = mixing @ self.basis[: self.filled]
        self.basis[:kept] = orthonormal_rows(rows)[0] if kept > 1 else rows / rows.norm()
        # QR may flip signs; the projection is diagonal in the Ritz basis, so signs do not matter to it.
        self.projected[:] = 0.0
        self.projected[np.arange(kept), np.arange(kept)] = values[:kept]
        self.filled = kept
        self.next = self.next - (self.next @ self.basis[:kept].T) @ self.basis[:kept]
        self.next, _ = orthonormal_rows(self.next)
