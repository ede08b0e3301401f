"""What computing cost: passes over the data and time, counted apart from what was computed."""

from __future__ import annotations

from dataclasses import dataclass

# A gradient is two to three forward passes, a product with the Hessian about two gradients (DESIGN: compute rules).
GRADIENTS_PER_EVALUATION = 1.0 / 3.0
GRADIENTS_PER_PRODUCT = 2.0


@dataclass
class Tally:
    """Counts of passes over the whole data, added to while an item of evidence is computed.

    Attributes:
        evaluations: forward passes.
        gradients: gradients.
        products: products of a vector with a curvature matrix.
    """

    evaluations: float = 0.0
    gradients: float = 0.0
    products: float = 0.0

    @property
    def in_gradients(self) -> float:
        """All passes so far in units of a gradient."""
        return ComputeCost(self.evaluations, self.gradients, self.products).in_gradients


@dataclass(frozen=True)
class ComputeCost:
    """What something cost.

    Attributes:
        evaluations: forward passes over the whole data.
        gradients: gradients of it.
        products: products of a vector with a curvature matrix.
        seconds: wall time.
    """

    evaluations: float = 0.0
    gradients: float = 0.0
    products: float = 0.0
    seconds: float = 0.0

    @property
    def in_gradients(self) -> float:
        """All passes in units of a gradient: a third each for forward passes, two for products.

        >>> ComputeCost(evaluations=3.0, gradients=1.0, products=2.0).in_gradients
        6.0
        """
        forward = GRADIENTS_PER_EVALUATION * self.evaluations
        return forward + self.gradients + GRADIENTS_PER_PRODUCT * self.products

    def __add__(self, other: ComputeCost) -> ComputeCost:
        return ComputeCost(
            self.evaluations + other.evaluations,
            self.gradients + other.gradients,
            self.products + other.products,
            self.seconds + other.seconds,
        )
