"""The share of samples that a classifier gets right, weighted as its cost is."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from spectra.costs import CrossEntropy
from spectra.errors import UserError
from spectra.landscape import Landscape


def accuracy(landscape: Landscape, theta: Tensor | None = None) -> float:
    """Share of the samples whose class is the model's first choice.

    Args:
        landscape: landscape with cross-entropy and classes as targets.
        theta: (n,) where; default the anchor.

    Returns:
        A number in [0, 1], weighted as the cost is.

    Raises:
        UserError: if the cost is not cross-entropy with classes.

    >>> import torch
    >>> from spectra.costs import cross_entropy
    >>> x = torch.tensor([[1.0], [-1.0], [1.0], [1.0]])
    >>> model, targets = torch.nn.Linear(1, 2, bias=False), torch.tensor([0, 1, 1, 0])
    >>> accuracy(Landscape(model, cross_entropy, (x, targets), theta=torch.tensor([1.0, 0.0])))
    0.75
    """
    return accuracy_function(landscape)(landscape.theta if theta is None else theta)


def error_rate(landscape: Landscape) -> float:
    """One less the accuracy at the anchor; nan where the cost is not cross-entropy with classes."""
    return 1.0 - accuracy(landscape) if has_classes(landscape) else math.nan


def has_classes(landscape: Landscape) -> bool:
    """Whether the cost is cross-entropy with classes as targets, and not probabilities."""
    likelihood = landscape.likelihood
    if likelihood is None or not isinstance(landscape.softmax, CrossEntropy):
        return False
    return not likelihood.own_targets(next(landscape.iterate()).targets).is_floating_point()


def accuracy_function(landscape: Landscape) -> Callable[[Tensor], float]:
    """The accuracy as a function of theta (n,), weighted as the cost is, which is cross-entropy with classes."""
    likelihood = landscape.likelihood
    if likelihood is None or not has_classes(landscape):
        raise UserError(
            "accuracy needs the cost cross-entropy with classes as targets, got "
            f"{getattr(landscape.cost_function, 'name', 'another cost')}"
            f"{' with probabilities' if isinstance(landscape.softmax, CrossEntropy) else ''}"
        )

    def share(theta: Tensor) -> float:
        right = 0.0
        for outputs, batch in zip(landscape.outputs(theta), landscape.iterate(), strict=True):
            _, weights = landscape.sample_costs(outputs, batch)
            classes = likelihood.own_targets(batch.targets).reshape(-1)
            hits = (likelihood.rows(outputs, batch.targets).argmax(-1) == classes).double()
            right += float((hits if weights is None else hits * weights).sum())
        return right / landscape.total_weight

    return share
