"""Columns of a comparison that measures are held against: gaps, costs, hyperparameters, other measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from comparisons.comparison import Comparison, Examined
from spectra.errors import UserError

Array = NDArray[np.float64]
TARGETS: Mapping[str, Callable[[Examined], float]] = {
    "gap": lambda one: one.gap,
    "error-gap": lambda one: one.error_gap,
    "held-out-loss": lambda one: one.held_out_cost,
    "loss": lambda one: one.cost,
}


def target_values(comparison: Comparison, against: str) -> Array:
    """What the measures are to predict, one value a checkpoint.

    Args:
        comparison: comparison of some checkpoints.
        against: one of ``TARGETS``, or the name of a hyperparameter: a number, or a label of two values, which count
            as 0 and 1 in the order of their names.

    Returns:
        (checkpoints done,), nan where a checkpoint has none.

    Raises:
        UserError: if no checkpoint has it, or a label has more than two values.
    """
    done = comparison.done
    values = np.array([TARGETS[against](one) for one in done]) if against in TARGETS else _labels(done, against)
    if not np.isfinite(values).any():
        missing = "no checkpoint has held-out data" + (" with classes" if against == "error-gap" else "")
        raise UserError(
            f"nothing can be ranked against {against}: {missing if against in TARGETS else 'no checkpoint has it'}"
        )
    return values


def column_values(comparison: Comparison, name: str) -> Array:
    """Any column, one value a checkpoint, such as one that a rank correlation is to be taken given.

    Args:
        comparison: comparison of some checkpoints.
        name: name of a target, one of the comparison's measures, or a hyperparameter.

    Returns:
        (checkpoints done,), nan where a checkpoint has none.

    Raises:
        UserError: as ``target_values``.
    """
    if name in comparison.measures and name not in TARGETS:
        return np.array([one.value(name) for one in comparison.done])
    return target_values(comparison, name)


def _labels(done: Sequence[Examined], name: str) -> Array:
    found = [one.hyperparameters.get(name) for one in done]
    texts = sorted({value for value in found if isinstance(value, str)})
    if not texts:
        return np.array([math.nan if value is None else float(value) for value in found])
    if len(texts) > 2:
        raise UserError(f"the label {name} must have two values to rank against, got {', '.join(texts[:5])}")
    return np.array([float(texts.index(value)) if isinstance(value, str) else math.nan for value in found])
