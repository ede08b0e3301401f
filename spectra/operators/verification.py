"""Whether two ways to compute a product agree, and what each takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from spectra.timing import synchronise


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference up to which two ways count as equal: rounding, with room for cancellation."""
    return max(100.0 * torch.finfo(dtype).eps, 1e-11)


def difference(product: Callable[[Tensor], Tensor], vectors: Tensor, truth: Tensor) -> tuple[float, float]:
    """Relative error of a block's products, the second time: a program that writes into its constants is right once.

    Returns:
        The relative error, and the seconds that the second call took.
    """
    product(vectors)
    found, seconds = timed(product, vectors)
    return float((found - truth).norm() / truth.norm().clamp_min(torch.finfo(truth.dtype).tiny)), seconds


def timed(product: Callable[[Tensor], Tensor], vectors: Tensor) -> tuple[Tensor, float]:
    """A block's products, and what they take."""
    synchronise(vectors.device)
    start = time.perf_counter()
    found = product(vectors)
    synchronise(vectors.device)
    return found, time.perf_counter() - start
