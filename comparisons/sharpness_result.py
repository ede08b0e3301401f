"""What a sharpness measure reports, and the cost with a count of what was asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.landscape import Landscape

Array = NDArray[np.float64]
# Above this share the slope at the checkpoint, and not its curvature, makes a worst case.
SLOPE_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Sharpness:
    """A sharpness with its error and its price.

    Attributes:
        value: the measure; its unit is the measure's.
        standard_error: standard error over random draws; 0 where nothing is random but the starts of a search.
        search_error: height of the best of several starts above the second best; 0 where two found the same.
        samples: (k,) what each draw, batch, start or repeat says; empty if there is one only.
        cost_evaluations: costs over all data that it took.
        gradient_evaluations: gradients over all data that it took.
        products: curvature-vector products that it took.
        cautions: sentences on why not to trust it.
    """

    value: float
    standard_error: float = 0.0
    search_error: float = 0.0
    samples: Array = field(default_factory=lambda: np.empty(0))
    cost_evaluations: float = 0.0
    gradient_evaluations: float = 0.0
    products: int = 0
    cautions: tuple[str, ...] = ()


class CountedCost:
    """A landscape's costs and gradients, counted.

    Attributes:
        landscape: the cost.
        costs: costs asked for.
        gradients: gradients asked for.
    """

    def __init__(self, landscape: Landscape) -> None:
        """Starts to count."""
        self.landscape = landscape
        self.costs = 0
        self.gradients = 0

    def rises(self, thetas: Tensor) -> Array:
        """Costs at rows of thetas (k, n) above the anchor's, (k,)."""
        self.costs += len(thetas)
        found: Array = self.landscape.costs(thetas).cpu().numpy() - self.landscape.anchor_cost
        return found

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Gradient at theta (n,), default the anchor."""
        self.gradients += 1
        return self.landscape.gradient(theta)


def slope_caution(first_order: float, rise: float) -> tuple[str, ...]:
    """A sentence if the anchor's gradient alone gives much of a worst case within the region, else none.

    >>> slope_caution(0.001, 1.0)
    ()
    """
    if not rise > 0.0 or first_order <= SLOPE_SHARE * rise:
        return ()
    return (
        f"the checkpoint is not stationary for this cost: its slope alone gives {min(first_order / rise, 1.0):.0%} of "
        "the value; train to the end, or measure the cost that was trained where it had a penalty (l2)",
    )


def positive(**values: float) -> None:
    """Refuses a setting that is not positive and finite, by its name."""
    for name, value in values.items():
        if not 0.0 < value < float("inf"):
            raise UserError(f"{name} must be positive and finite, got {value}")


def counted(**values: int) -> None:
    """Refuses a count below one, by its name."""
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
