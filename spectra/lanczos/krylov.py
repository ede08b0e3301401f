"""Krylov-aware deflation: a block Krylov space is treated exactly, probes sample only its complement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.lanczos.integration import Deflation
from spectra.lanczos.quadrature import Array
from spectra.lanczos.shards import Shards, shards_of
from spectra.operators import SymmetricOperator, not_finite

_FIRST_PART = 16


@dataclass(frozen=True, eq=False)
class KrylovSpace:
    """An orthonormal basis of a block Krylov space and the operator projected on it.

    Attributes:
        basis: (captured, n) orthonormal rows: the leading part of the space, which is deflated; a shard on each rank.
        projected: (d, d) float64, ``Q H Q^T`` on the whole space, d >= captured; block tridiagonal.
        block: columns of one block step.
        remainder: (block, block) float64 coupling to the next, unbuilt block, for residuals.
        shards: how the basis is held.
        ends: dimension of the whole space after each block step.
    """

    basis: Tensor
    projected: Array
    block: int
    remainder: Array
    shards: Shards
    ends: tuple[int, ...]

    @property
    def captured(self) -> int:
        """Dimension of the deflated part."""
        return len(self.basis)

    def deflation(self) -> Deflation:
        """The deflated part's quadrature: ``tr Q f(H) Q^T ~ sum_j |S[:captured, j]|^2 f(theta_j)``."""
        extra = len(self.projected) - self.captured
        nodes, weights = _rule(self.projected, self.captured)
        if extra == 0 and not np.any(self.remainder):
            return Deflation(nodes, weights, self.captured)
        shorter = self.captured + (extra // 2 // self.block) * self.block
        coarse = _rule(self.projected[:shorter, :shorter], self.captured)
        return Deflation(nodes, weights, self.captured, *coarse)

    def complement(self, vectors: Tensor) -> Tensor:
        """Rows (k, n) projected on the complement of the basis, twice for the sake of rounding."""
        parts = self.shards.part(vectors)
        for _ in range(2):
            parts = parts - self.shards.total(parts @ self.basis.T) @ self.basis
        return self.shards.joined(parts)

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values of the whole space, descending in magnitude, and their residual norms, rounding included."""
        values, vectors = np.linalg.eigh(self.projected)
        rounding = 10.0 * torch.finfo(self.basis.dtype).eps * np.abs(values).max()
        residuals = np.hypot(np.linalg.norm(self.remainder @ vectors[-self.block :], axis=0), rounding)
        order = np.argsort(-np.abs(values), kind="stable")
        return values[order], residuals[order]


def _rule(projected: Array, captured: int) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(projected)
    return values, (vectors[:captured] ** 2).sum(0)


def krylov_space(
    operator: SymmetricOperator,
    starts: Tensor,
    depth: int,
    *,
    extra: int = 0,
    progress: Callable[[int], None] | None = None,
    on_part: Callable[[KrylovSpace], bool | None] | None = None,
) -> KrylovSpace:
    """Block Lanczos with full reorthogonalisation.

    Args:
        operator: H, of size n.
        starts: (block, n) start vectors.
        depth: block steps whose vectors make up the deflated basis.
        extra: further block steps, kept only as coefficients, that make functions on the basis accurate.
        progress: called after each block step with the number of products.
        on_part: called with the space so far after 16 block steps, and whenever they have doubled; the space ends there
            if it answers True.

    Returns:
        The space; smaller than asked for where an invariant subspace was found, and then exact.

    Raises:
        UserError: if depth is below 1, extra is negative, or the space would pass n.

    Reference:
        Chen and Hallman, Krylov-aware stochastic trace estimation, 2023.

    >>> from spectra.operators import MatrixOperator
    >>> space = krylov_space(MatrixOperator(torch.eye(3)), torch.ones(1, 3), 1)
    >>> space.deflation().nodes.round(6).tolist(), space.deflation().captured
    ([1.0], 1)
    """
    block = len(starts)
    if depth < 1 or extra < 0 or block * (depth + extra) > operator.size:
        raise UserError(
            f"depth {depth} and extra {extra} in blocks of {block} must be at least 1 and 0, and stay within the size "
            f"{operator.size}"
        )
    total, shards = depth + extra, shards_of(operator)
    basis = torch.zeros(block * total, shards.width, dtype=operator.dtype, device=operator.device)
    projected = np.zeros((block * total, block * total))
    current = shards.orthonormal(shards.part(starts.to(operator.device, operator.dtype)))
    remainder, ends, filled, scale = np.zeros((block, block)), [], 0, 0.0
    for step in range(1, total + 1):
        width = len(current)
        basis[filled : filled + width] = current
        known = basis[: filled + width]
        product = shards.product(operator, current)
        if progress is not None:
            progress(width)
        columns = shards.total(known @ product.T)
        product = product - columns.T @ known
        again = shards.total(known @ product.T)
        product = product - again.T @ known
        coefficients = (columns + again).double().cpu().numpy()
        if not np.isfinite(coefficients).all():
            raise UserError(not_finite())
        projected[: filled + width, filled : filled + width] = coefficients
        projected[filled : filled + width, : filled + width] = coefficients.T
        filled += width
        ends.append(filled)
        scale = max(scale, float(np.linalg.norm(coefficients, 2)))
        current, remainder = _next_block(product, known, scale, shards)
        if len(current) == 0:
            break
        if on_part is not None and extra < step < total and step >= _FIRST_PART and step.bit_count() == 1:
            part = _space(basis[: filled - block * extra], projected[:filled, :filled], remainder, shards, ends)
            if on_part(part):
                return part
    return _space(basis[: min(filled, block * depth)], projected[:filled, :filled], remainder, shards, ends)


def _space(basis: Tensor, core: Array, remainder: Array, shards: Shards, ends: list[int]) -> KrylovSpace:
    return KrylovSpace(basis, (core + core.T) / 2.0, max(1, remainder.shape[1]), remainder, shards, tuple(ends))


def _next_block(product: Tensor, known: Tensor, scale: float, shards: Shards) -> tuple[Tensor, Array]:
    """The next block, without directions that have vanished, and its coupling to the present one."""
    roundings = 10.0 * torch.finfo(product.dtype).eps * max(scale, torch.finfo(product.dtype).tiny)
    values, right = shards.singular(product)
    found = right[values > roundings * product.shape[0] ** 0.5]
    found = found - shards.total(found @ known.T) @ known
    found = shards.orthonormal(found) if len(found) else found
    coupling = shards.total(found @ product.T).double().cpu().numpy()
    return found, coupling
