"""Numerical rank of the curvature and of the behaviour's Gram matrix, and the zero manifold's dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spectra.density import dense_bytes
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import Batch
from spectra.operators import SymmetricOperator, floats_in

Array = NDArray[np.float64]
BEHAVIOURS = ("outputs", "probabilities")
# n <= 6,000 is 1.2 GB and a few minutes: above, an eigendecomposition is no longer a detail.
LARGEST_DENSE = 6000
# A rank is read off a gap; where neighbours of the threshold are this near each other there is none.
_CLEAR = 10.0


@dataclass(frozen=True, eq=False)
class NumericalRank:
    """How many eigenvalues of a symmetric matrix are not zero, to a tolerance.

    Attributes:
        name: name of the matrix.
        size: number of parameters n.
        magnitudes: (m,) absolute eigenvalues, decreasing; the other n - m are zero.
        tolerance: relative to the largest.
    """

    name: str
    size: int
    magnitudes: Array
    tolerance: float

    @property
    def threshold(self) -> float:
        """Magnitudes above it count, unit of the matrix."""
        return self.tolerance * float(self.magnitudes[0]) if len(self.magnitudes) else 0.0

    @property
    def rank(self) -> int:
        """Number of eigenvalues above the threshold."""
        return int((self.magnitudes > self.threshold).sum())

    @property
    def zero_dimension(self) -> int:
        """``n - rank``: directions that change nothing to second order."""
        return self.size - self.rank

    def around(self, count: int = 3) -> tuple[Array, Array]:
        """The smallest magnitudes that count and the largest that do not, over the largest, at most so many each."""
        shares = self.magnitudes / self.magnitudes[0] if self.rank else self.magnitudes
        return shares[max(self.rank - count, 0) : self.rank], shares[self.rank : self.rank + count]

    @property
    def gap(self) -> float:
        """The smallest magnitude that counts over the largest that does not; inf if that is zero or there is none."""
        above, below = self.around(1)
        if not len(above):
            return math.nan
        return float(above[0] / below[0]) if len(below) and below[0] > 0.0 else math.inf

    @property
    def caution(self) -> str:
        """A sentence if there is no gap at the threshold, else nothing."""
        if not self.gap < _CLEAR:
            return ""
        above, below = self.around(1)
        return (
            f"the rank {self.rank} of the {self.name} is read off no gap: at the relative tolerance "
            f"{self.tolerance:.2g} the magnitudes {above[0]:.3g} and {below[0]:.3g} of the largest are told apart"
        )


def numerical_rank(
    eigenvalues: ArrayLike, size: int | None = None, *, tolerance: float | None = None, name: str = "matrix"
) -> NumericalRank:
    """The rank of a symmetric matrix of size n from m eigenvalues of either sign in any order; the others are zero.

    The tolerance is relative to the largest magnitude; its default ``10 n eps`` is the rounding of a float64
    decomposition of a matrix that was itself summed up in float64.

    Raises:
        UserError: if the tolerance is not in [0, 1), n is below m, or an eigenvalue is not finite.

    >>> found = numerical_rank([1e-20, 4.0, -2.0], size=5)
    >>> found.rank, found.zero_dimension, found.gap
    (2, 3, 2e+20)
    """
    values = np.sort(np.abs(np.asarray(eigenvalues, dtype=np.float64)))[::-1]
    size = len(values) if size is None else size
    if size < len(values):
        raise UserError(f"size must be at least the number of eigenvalues {len(values)}, got {size}")
    if not np.isfinite(values).all():
        raise UserError(f"eigenvalues of the {name} must be finite")
    level = 10.0 * max(size, 1) * float(np.finfo(np.float64).eps) if tolerance is None else tolerance
    if not 0.0 <= level < 1.0:
        raise UserError(f"tolerance must be at least 0 and below 1, got {level}")
    return NumericalRank(name, size, values, level)


def curvature_rank(operator: SymmetricOperator, *, tolerance: float | None = None) -> NumericalRank:
    """The rank of a curvature, from its dense eigenvalues.

    Args:
        operator: operator of size n, in float64 if small eigenvalues are to mean anything.
        tolerance: share of the largest eigenvalue as in ``numerical_rank``, with the eps of the operator's dtype.

    Returns:
        The rank.

    Raises:
        UserError: if n is too large for a dense decomposition.

    >>> from spectra.operators import MatrixOperator
    >>> curvature_rank(MatrixOperator(torch.diag(torch.tensor([2.0, 0.0, 1.0])))).rank
    2
    """
    refuse_large(operator.size, "its rank: take the rank of the behaviour's Gram matrix (behaviour_rank) instead")
    values = torch.linalg.eigvalsh(operator.to_dense().double()).cpu().numpy()
    level = 10.0 * operator.size * torch.finfo(operator.dtype).eps if tolerance is None else tolerance
    return numerical_rank(values, tolerance=level, name=operator.name)


def behaviour_rank(
    landscape: Landscape, behaviour: str = "outputs", *, tolerance: float | None = None
) -> NumericalRank:
    """The rank of ``G = J J^T``, J the Jacobian of the behaviour: all outputs of all samples, flattened.

    Args:
        landscape: model, data and anchor; its cost plays no part.
        behaviour: ``outputs`` as the model returns them, or ``probabilities``, their softmax.
        tolerance: share of the largest eigenvalue as in ``numerical_rank``, with the eps of the landscape's dtype.

    Returns:
        The rank of G, which is that of ``J^T J``; whichever of them is smaller is decomposed.

    Raises:
        UserError: if the behaviour is unknown, or both sides of J are too large.

    >>> model, x = torch.nn.Linear(3, 1, bias=False), torch.eye(3)[:2]
    >>> at = Landscape(model, lambda outputs, targets: outputs.sum(1), x, theta=torch.ones(3))
    >>> found = behaviour_rank(at)
    >>> found.rank, found.zero_dimension
    (2, 1)
    """
    jacobian = behaviour_jacobian(landscape, behaviour).double()
    rows, size = jacobian.shape
    refuse_large(min(rows, size), "the behaviour's rank, in parameters or outputs: use fewer samples")
    gram = jacobian @ jacobian.T if rows <= size else jacobian.T @ jacobian
    values = torch.linalg.eigvalsh(gram).cpu().numpy()
    level = 10.0 * max(rows, size) * torch.finfo(landscape.dtype).eps if tolerance is None else tolerance
    return numerical_rank(values, size, tolerance=level, name=f"Gram matrix of the {behaviour}")


def behaviour_jacobian(landscape: Landscape, behaviour: str = "outputs") -> Tensor:
    """Jacobian (samples * outputs, n) of all outputs of the data or their probabilities, one backward pass an output.

    Samples of weight zero count here too.

    Raises:
        UserError: if the behaviour is unknown.
    """
    if behaviour not in BEHAVIOURS:
        raise UserError(f"behaviour must be one of {', '.join(BEHAVIOURS)}; got {behaviour!r}")
    parts = []
    for batch in landscape.iterate():
        leaves = landscape.leaves(landscape.theta)
        parts.append(
            landscape.evaluation.inside(
                leaves,
                lambda b=batch, p=leaves: _slopes(landscape, b, p, behaviour),  # type: ignore[misc]
            )
        )
    return torch.cat(parts)


def refuse_large(size: int, what: str) -> None:
    """Refuses a dense decomposition of a size that would not end or not fit, saying for what and what to do instead."""
    if size > LARGEST_DENSE:
        gigabytes = dense_bytes(size, torch.float64) / 1e9
        raise UserError(f"{size:,} is above {LARGEST_DENSE:,}, too large to decompose ({gigabytes:.3g} GB) for {what}")


def _logits(landscape: Landscape, outputs: Any, batch: Batch) -> Tensor:
    """What a softmax is taken of: along the classes of the cost, or the last dimension of a matrix."""
    if landscape.softmax is not None and landscape.likelihood is not None:
        return landscape.likelihood.rows(outputs, batch.targets)
    if not isinstance(outputs, Tensor) or outputs.dim() > 2:
        raise UserError(
            "probabilities need a cost of a softmax, or outputs of shape (samples, classes): which dimension holds the "
            "classes cannot be told"
        )
    return outputs


def _slopes(landscape: Landscape, batch: Batch, leaves: dict[str, Tensor], behaviour: str) -> Tensor:
    outputs = landscape.evaluation.outputs(batch.inputs)
    if behaviour == "probabilities":
        rows = _logits(landscape, outputs, batch).softmax(-1).reshape(-1)
    else:
        rows = torch.cat([one.reshape(-1) for one in floats_in(outputs)])
    parts = list(leaves.values())
    found = torch.empty(len(rows), landscape.size, dtype=landscape.dtype, device=landscape.device)
    for place, one in enumerate(rows):
        slopes = torch.autograd.grad(one, parts, retain_graph=True, allow_unused=True)
        landscape.parameters.concatenated(slopes, parts, out=found[place])
    return found
