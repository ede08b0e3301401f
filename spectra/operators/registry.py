"""The curvature operators by name: each has its row in its own file, and how it is written in a sentence."""

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
    """

    name: str
    make: Callable[..., SymmetricOperator]
    semidefinite: bool = False
    models_cost: bool = False
    drawn: bool = False


_PROPER = {"hessian": "Hessian", "gauss": "Gauss", "newton": "Newton", "fisher": "Fisher"}


def operator_title(operator: str, *, first: bool = False) -> str:
    """The name of an operator as the field writes it.

    Args:
        operator: as options and files spell it.
        first: whether it is the first word of a sentence or of a title.

    Returns:
        Such as ``Gauss-Newton``; a name that is not ours comes back as it is.

    >>> operator_title("gauss-newton"), operator_title("sampled-fisher"), operator_title("sampled-fisher", first=True)
    ('Gauss-Newton', 'sampled Fisher', 'Sampled Fisher')
    >>> operator_title("my matrix")
    'my matrix'
    """
    parts = operator.split("-")
    if parts[-1] not in _PROPER:
        return operator
    written = ("-" if parts[-1] == "newton" else " ").join(_PROPER.get(part, part) for part in parts)
    return written[0].upper() + written[1:] if first else written
