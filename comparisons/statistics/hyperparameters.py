"""Which hyperparameters set checkpoints apart, and which of them share a configuration up to the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
SEED = "seed"
# Where a run was stopped: not chosen where something else decides it (steps from batch size and epochs).
LAST = ("epoch", "step", "steps")


def varying(rows: Sequence[Mapping[str, object]]) -> dict[str, Codes]:
    """The hyperparameters that differ between checkpoints, each value coded by its place among the sorted ones.

    Left out are the seed, what some checkpoint lacks, and what one hyperparameter already here decides alone, such as
    the number of steps where only the batch size changes it.

    >>> grid = [{"width": w, "batch": b, "step": 64 // b, "seed": 0} for w in (1, 2) for b in (8, 16)]
    >>> {name: codes.tolist() for name, codes in varying(grid).items()}
    {'batch': [0, 1, 0, 1], 'width': [0, 0, 1, 1]}
    """
    if not rows:
        return {}
    shared = set.intersection(*(set(row) for row in rows)) - {SEED}
    kept: dict[str, Codes] = {}
    for name in sorted(shared, key=lambda one: (one in LAST, one)):
        codes = encoded([row[name] for row in rows])
        if codes.max() > 0 and not any(_decides(other, codes) for other in kept.values()):
            kept[name] = codes
    return kept


def encoded(values: Sequence[object]) -> Codes:
    """The place of each value among the sorted distinct ones; numbers by size, anything else by its text.

    >>> encoded([0.1, 0.01, 0.1]).tolist()
    [1, 0, 1]
    """
    if all(isinstance(value, int | float) for value in values):
        return np.unique(np.array(values, dtype=np.float64), return_inverse=True)[1].astype(np.int64).reshape(-1)
    return np.unique(np.array([str(value) for value in values]), return_inverse=True)[1].astype(np.int64).reshape(-1)


def groups(columns: Sequence[Codes], count: int) -> Codes:
    """Group numbers (count,) from 0, equal where all columns (count,) are; no column puts everything in one group.

    >>> groups([np.array([0, 0, 1]), np.array([0, 1, 1])], 3).tolist()
    [0, 1, 2]
    """
    if not columns:
        return np.zeros(count, dtype=np.int64)
    return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _decides(one: Codes, other: Codes) -> bool:
    return bool(groups([one, other], len(one)).max() == one.max())
