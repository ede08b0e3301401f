"""The curvature operators by name: each has its row in its own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra.operators.linear import SymmetricOperator


@dataclass(frozen=True)
class OperatorRow:
    """An operator that options and files know by name.

    Attributes:
        name: words joined by hyphens.
        make: ``(landscape, *, strategy, memory)`` -> the operator; raises UserError where the cost has none.
        semidefinite: whether it has no negative eigenvalue.
        models_cost: whether its quadratic form stands for the cost around a minimum, the same at each call, so that
            volumes may be taken from its determinant.
        drawn: whether it is drawn at random; ``make`` then takes ``seed`` too.
        squared: whether it is made of squares of gradients, so that its unit is the cost's squared.
    """

    name: str
    make: Callable[..., SymmetricOperator]
    semidefinite: bool = False
    models_cost: bool = False
    drawn: bool = False
    squared: bool = False
