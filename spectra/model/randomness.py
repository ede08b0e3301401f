"""Randomness: one user seed, split into named streams; the user's own random state left as found."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, stream: str, index: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one item of a named stream; adding items never changes earlier ones.

    Args:
        seed: the user's seed, non-negative.
        stream: name of the purpose, for example ``probes``.
        index: number of the item within the stream.
        device: device on which the numbers are drawn; they depend on the kind of device.

    Returns:
        A freshly seeded generator.

    >>> a, b = generator(0, "probes", 1), generator(0, "probes", 1)
    >>> bool(torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b)))
    True
    """
    digest = hashlib.sha256(f"{seed}/{stream}/{index}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def preserved_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Restores the global random states of Python, NumPy and torch (and of ``device``) afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
