"""What is built for each batch: kept from the first pass on, or built anew on each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from spectra.landscape.landscape import Landscape
from spectra.model import Batch

Result = TypeVar("Result")


def kept_or_rebuilt(
    build: Callable[[Batch], Result], landscape: Landscape, keep: bool
) -> Callable[[], Iterator[Result]]:
    """Passes over what is built for each batch of this process's share.

    Args:
        build: makes it from a batch.
        landscape: whose batches.
        keep: whether to build once.

    Returns:
        A function that starts a pass.
    """
    if not keep:
        return lambda: (build(batch) for batch in landscape.share())
    built = [build(batch) for batch in landscape.share()]
    return lambda: iter(built)
