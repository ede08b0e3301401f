"""Costs and gradients of chains as a recording: what torch's engine and vmap do anew at each step is done once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spectra.errors import FAST_PATH_FAILURES
from spectra.operators import record

Slopes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def recorded_slopes(slopes: Slopes, thetas: Tensor, index: Tensor, rows: int) -> Slopes | None:
    """A function of parameters (k, n) and rows (k, size) as its recorded operations for these shapes, or None.

    Parameters and positions of rows are passed as one vector, in which a position must be exact. The recording is
    compared with the function at other parameters and other rows before it is handed out: there is none where positions
    are too large for the dtype, the function reads values out, or the recording differs.

    >>> square = lambda thetas, index: ((thetas**2).sum(1) * index.sum(1), 2.0 * thetas * index.sum(1, keepdim=True))
    >>> run = recorded_slopes(square, torch.ones(2, 3), torch.tensor([[1], [2]]), 8)
    >>> run(torch.full((2, 3), 2.0), torch.tensor([[0], [3]]))[0]
    tensor([ 0., 36.])
    """
    if rows * torch.finfo(thetas.dtype).eps > 1.0:
        return None
    count, size = len(thetas), thetas.numel()

    def flat(vector: Tensor) -> Tensor:
        costs, found = slopes(vector[:size].view(count, -1), vector[size:].view(index.shape).long())
        return torch.cat([found.reshape(-1), costs])

    def vector_of(thetas: Tensor, index: Tensor) -> Tensor:
        return torch.cat([thetas.reshape(-1), index.reshape(-1).to(thetas)])

    try:
        run = record(flat, vector_of(thetas, index))
    except FAST_PATH_FAILURES:  # whatever cannot be recorded, the function itself can do
        return None

    def replayed(thetas: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        found = run(vector_of(thetas, index))
        return found[size:], found[:size].view(count, -1)

    # Other parameters, and to each chain another's rows in another order.
    others = thetas + 0.01 * (thetas.abs() + 0.1), index.flip(0).roll(1, 1)
    return replayed if _alike(slopes(*others), replayed(*others)) else None


def _alike(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    for one, two in zip(first, second, strict=True):
        tolerance = 1e3 * torch.finfo(one.dtype).eps * float(one.norm())
        if not float((one - two).norm()) <= tolerance:
            return False
    return True
