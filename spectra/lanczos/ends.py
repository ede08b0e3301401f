"""Both ends of a spectrum: the largest eigenpairs, and the most negative ones where there are any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from spectra.errors import UserError
from spectra.lanczos.eigenpairs import Eigenpairs, top_eigenpairs
from spectra.lanczos.quadrature import Array
from spectra.operators import SymmetricOperator

BLOCK = 4
# Eigenvalues closer than this many roundings of the largest are copies of one; nearer to zero they have no sign.
COPIES = 100.0


def ends_bytes(size: int, count: int, dtype: torch.dtype) -> int:
    """Bytes of the vectors that finding ``count`` eigenpairs at an end holds."""
    return (2 * count + 8 * BLOCK) * size * dtype.itemsize


def least_products(operator: SymmetricOperator, count: int) -> int:
    """Products that ``end_eigenpairs`` takes where the first space of each end is enough."""
    return (1 if operator.definite else 2) * (min(operator.size, 2 * count + 8 * BLOCK) + count)


def end_eigenpairs(
    operator: SymmetricOperator, count: int, *, seed: int = 0, progress: Callable[[int], None] | None = None
) -> tuple[Eigenpairs, Eigenpairs | None]:
    """The ``count`` largest eigenpairs, and as many of the most negative as there are.

    An eigenvalue that repeats is found as often as it does: a block Krylov space has no more copies of one than the
    block has vectors, so the block is doubled until no value fills it. The negative end may be crowded; it is given
    ``20 count + 200`` products, and ``converged`` says whether they were enough. Each Ritz value there lies above an
    eigenvalue of its own, so as many eigenvalues are negative as are found.

    Args:
        operator: H, of size n.
        count: K, number of pairs at each end.
        seed: seed of the start vectors.
        progress: called with the number of products of each step.

    Returns:
        The largest, descending; and those below zero beyond rounding, the lowest first, None if H has none by kind.

    Raises:
        UserError: if count is not between 1 and n.

    >>> from spectra.operators import MatrixOperator
    >>> largest, negative = end_eigenpairs(MatrixOperator(torch.diag(torch.tensor([3.0, 3.0, 1.0, -2.0]))), 2)
    >>> largest.values.round(5).tolist(), negative.values.round(5).tolist()
    ([3.0, 3.0], [-2.0])
    """
    if not 1 <= count <= operator.size:
        raise UserError(f"eigenpairs asked for must be between 1 and the {operator.size} parameters, got {count}")
    largest = _all_copies(operator, count, "largest", None, seed, progress)
    if operator.definite:
        return largest, None
    smallest = _all_copies(operator, count, "smallest", 20 * count + 200, seed, progress)
    rounding = _tie(operator, np.concatenate([largest.values, smallest.values]))
    below = int((smallest.values < -rounding).sum())
    negative = replace(
        smallest,
        values=smallest.values[:below],
        vectors=smallest.vectors[:below],
        residuals=smallest.residuals[:below],
    )
    return largest, negative


def _all_copies(
    operator: SymmetricOperator,
    count: int,
    which: str,
    limit: int | None,
    seed: int,
    progress: Callable[[int], None] | None,
) -> Eigenpairs:
    block, spent = BLOCK, 0
    while True:
        found = top_eigenpairs(
            operator, count, which=which, max_products=limit, block=block, seed=seed, progress=progress
        )
        spent += found.products
        if block >= count or _most_copies(found.values, _tie(operator, found.values)) < block:
            order = np.argsort(found.values if which == "smallest" else -found.values, kind="stable")
            place = torch.as_tensor(order, device=found.vectors.device)
            return replace(
                found,
                values=found.values[order],
                vectors=found.vectors[place],
                residuals=found.residuals[order],
                products=spent,
            )
        block *= 2


def _tie(operator: SymmetricOperator, values: Array) -> float:
    return COPIES * torch.finfo(operator.dtype).eps * float(np.abs(values).max(initial=0.0))


def _most_copies(values: Array, tie: float) -> int:
    """How often the value that repeats most does; of zero the copies do not matter.

    >>> _most_copies(np.array([3.0, 3.0, 1.0, 0.0, 0.0, 0.0]), 1e-6)
    2
    """
    some = np.sort(values[np.abs(values) > tie])
    return int((np.searchsorted(some, some + tie, side="right") - np.arange(len(some))).max(initial=0))
