"""Where the anchor lies on the eigenvectors of the curvature: a measure on the eigenvalue axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from spectra.errors import UserError
from spectra.lanczos import basis_bytes, lanczos
from spectra.operators import SymmetricOperator
from volume.chunks import squared_lengths

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnchorMeasure:
    """``sum_i m_i^2 delta(l - l_i)``, m_i the component of theta* on eigenvector i, or its Gauss quadrature.

    Attributes:
        nodes: (k,) eigenvalues or Ritz values, unit of the curvature.
        masses: (k,) squared components, squared unit of the parameters; they sum to ``|theta*|^2``.
        coarse_nodes: (e,) the same from half the Lanczos steps, for the truncation error; empty if exact.
        coarse_masses: (e,) masses of the coarse nodes.
    """

    nodes: Array
    masses: Array
    coarse_nodes: Array = field(default_factory=lambda: np.empty(0))
    coarse_masses: Array = field(default_factory=lambda: np.empty(0))

    @property
    def square_norm(self) -> float:
        """``|theta*|^2``."""
        return float(self.masses.sum())


def at_origin() -> AnchorMeasure:
    """The measure of an anchor at the origin: a prior centred at the checkpoint."""
    return AnchorMeasure(np.empty(0), np.empty(0))


def from_components(eigenvalues: ArrayLike, components: ArrayLike) -> AnchorMeasure:
    """The exact measure, from all eigenvalues and the anchor's components on their eigenvectors.

    Args:
        eigenvalues: (k,) in any order.
        components: (k,) m_i in the same order.

    Returns:
        The measure.

    Raises:
        UserError: if their numbers differ.

    >>> from_components([1.0, 2.0], [3.0, 4.0]).square_norm
    25.0
    """
    values, parts = (np.asarray(x, dtype=np.float64) for x in (eigenvalues, components))
    if values.shape != parts.shape or values.ndim != 1:
        raise UserError(f"eigenvalues and components must match, got shapes {values.shape} and {parts.shape}")
    return AnchorMeasure(values, parts**2)


def anchor_measure(
    operator: SymmetricOperator,
    theta: Tensor,
    steps: int = 128,
    *,
    memory: float = math.inf,
    progress: Callable[[int], None] | None = None,
) -> AnchorMeasure:
    """The measure from one Lanczos run that starts at the anchor; deterministic.

    Args:
        operator: H, of size n.
        theta: (n,) anchor.
        steps: Lanczos steps, one product each.
        memory: bytes that the run's basis may take; past them there is none, and ghost copies of converged nodes share
            their masses.
        progress: called after each step with the number of products it took.

    Returns:
        The Gauss quadrature of the measure, exact for polynomials in the eigenvalue of degree ``2 steps - 1``.

    Raises:
        UserError: if theta has another size or is not finite, or a product is not finite.

    >>> import torch
    >>> from spectra.operators import MatrixOperator
    >>> found = anchor_measure(MatrixOperator(torch.diag(torch.tensor([1.0, 2.0]))), torch.tensor([3.0, 4.0]))
    >>> found.nodes.round(5).tolist(), found.masses.round(4).tolist()
    ([1.0, 2.0], [9.0, 16.0])
    """
    if theta.shape != (operator.size,):
        raise UserError(f"theta must have shape ({operator.size},), got {tuple(theta.shape)}")
    start = theta.detach().unsqueeze(0)
    square = float(squared_lengths(start))
    if square == 0.0:
        return at_origin()
    fits = basis_bytes(operator.size, 1, min(steps, operator.size), operator.dtype) <= memory
    kept = "full" if fits else "none"
    run = lanczos(operator, start, steps, reorthogonalise=kept, progress=progress).tridiagonal
    nodes, weights = run.quadrature()
    if run.lengths[0] < run.steps or (fits and run.steps == operator.size):
        return AnchorMeasure(nodes[0], square * weights[0])
    coarse_nodes, coarse_weights = run.quadrature((run.steps + 1) // 2)
    return AnchorMeasure(nodes[0], square * weights[0], coarse_nodes[0], square * coarse_weights[0])
