"""Curvatures of a prescribed spectrum on a random basis, for any number of parameters, and a module of parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spectra.operators import SymmetricOperator


class HartleyRotated(SymmetricOperator):
    """``R^T diag(l) R`` with ``R = F D_2 F D_1``, F the orthonormal Hartley transform, D random signs.

    F is symmetric and its own inverse, and a product takes n log n operations.

    >>> values = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    >>> found = HartleyRotated(values, torch.Generator().manual_seed(0)).to_dense()
    >>> torch.linalg.eigvalsh(found).numpy().round(9).tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(self, eigenvalues: Tensor, source: torch.Generator) -> None:
        """Takes all eigenvalues (n,) and where the signs come from."""
        self.eigenvalues = eigenvalues
        self.size, self.dtype, self.device = len(eigenvalues), eigenvalues.dtype, eigenvalues.device
        self.definite, self.name = bool((eigenvalues >= 0.0).all()), "rotated spectrum"
        self.signs = 2.0 * torch.randint(0, 2, (2, self.size), generator=source).to(self.dtype) - 1.0

    def to_eigenvectors(self, vectors: Tensor) -> Tensor:
        """Components (k, n) of rows (k, n) on the eigenvectors."""
        return _hartley(_hartley(vectors * self.signs[0]) * self.signs[1])

    def from_eigenvectors(self, components: Tensor) -> Tensor:
        """Rows (k, n) with these components (k, n)."""
        return _hartley(_hartley(components) * self.signs[1]) * self.signs[0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V H`` for rows V (k, n), as (k, n)."""
        return self.from_eigenvectors(self.to_eigenvectors(self._checked(vectors)) * self.eigenvalues)

    def forms(self, vectors: Tensor) -> Tensor:
        """``v^T H v`` (k,) of rows v (k, n), at half the cost of a product."""
        components = self.to_eigenvectors(self._checked(vectors))
        return (components.square() * self.eigenvalues).sum(-1)


def _hartley(rows: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.fft(rows)
    return (spectrum.real - spectrum.imag) / math.sqrt(rows.shape[-1])


class ParameterModule(nn.Module):
    """A module whose output is its one parameter: any function of theta is a cost on it."""

    def __init__(self, theta: Tensor) -> None:
        """Starts at ``theta`` (n,)."""
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    def forward(self, ones: Tensor) -> Tensor:
        """Theta as one row, (1, n), for inputs that are a one."""
        return ones * self.theta
