"""Displacements typical of the quadratic basin: draws from its Gaussian, by Lanczos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra.lanczos import LanczosRun, basis_bytes, draw_probes, lanczos
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator

Array = NDArray[np.float64]
MEMORY = 2**30


@dataclass(frozen=True, eq=False)
class _Functions:
    """Functions of H times the starts of a Lanczos run: ``|z| Q^T f(T) e_1``."""

    run: LanczosRun
    lengths: Array
    nodes: list[Array]
    vectors: list[Array]

    @classmethod
    def of(cls, operator: SymmetricOperator, starts: Tensor, steps: int) -> _Functions:
        run = lanczos(operator, starts, steps, keep_basis=True)
        nodes, vectors = [], []
        for probe in range(len(starts)):
            count = int(run.tridiagonal.lengths[probe])
            off = run.tridiagonal.off_diagonal[probe, : count - 1]
            matrix = np.diag(run.tridiagonal.diagonal[probe, :count]) + np.diag(off, 1) + np.diag(off, -1)
            values, basis = np.linalg.eigh(matrix)
            nodes.append(values)
            vectors.append(basis)
        return cls(run, starts.double().norm(dim=1).cpu().numpy(), nodes, vectors)

    def apply(self, function: Callable[[Array], Array]) -> Tensor:
        """``f(H) z`` for each start z, (k, n)."""
        basis = self.run.basis
        assert basis is not None
        rows = []
        for probe, (nodes, vectors) in enumerate(zip(self.nodes, self.vectors, strict=True)):
            weights = self.lengths[probe] * vectors @ (function(np.maximum(nodes, 0.0)) * vectors[0])
            rows.append(torch.as_tensor(weights, dtype=basis.dtype, device=basis.device) @ basis[probe, : len(nodes)])
        return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class DrawBlock:
    """Some draws, which exist at every cutoff.

    Attributes:
        normal: functions of H times standard normal deviates.
        deviates: (k, n) the standard normal deviates themselves.
        anchor: functions of H times the anchor; None for an anchor at the origin.
    """

    normal: _Functions
    deviates: Tensor
    anchor: _Functions | None

    def displacements(self, shift: float, inverse_temperature: float) -> Tensor:
        """Draws (k, n) of ``N(-c (H + c I)^-1 theta*, (b (H + c I))^-1)``, of the same deviates at every c and b."""
        found = self.normal.apply(lambda x: 1.0 / np.sqrt(inverse_temperature * (x + shift)))
        if self.anchor is None:
            return found
        return found - self.anchor.apply(lambda x: shift / (x + shift))


def cost_ratios(
    landscape: Landscape, curvature: SymmetricOperator, displacements: Tensor, cutoff: float, unit: Tensor | None = None
) -> Array:
    """The true cost over the quadratic one, at displacements scaled to a quadratic cost of exactly the cutoff.

    Args:
        landscape: the cost.
        curvature: H, of the parameters as they are.
        displacements: (k, n) from the anchor, in units of ``unit``.
        cutoff: T.
        unit: (n,) of each parameter; None for those that they have.

    Returns:
        Ratios (k,) ``C(theta* + r u) / T`` where ``1/2 r^2 u^T H u = T``.
    """
    moved = displacements if unit is None else displacements * unit.to(displacements.dtype)
    square = (moved.double() * curvature.matmat(moved.to(curvature.dtype)).double()).sum(1)
    length = (2.0 * cutoff / square).sqrt().unsqueeze(1)
    costs = landscape.costs(landscape.theta + (length * moved).to(landscape.dtype)) - landscape.anchor_cost
    found: Array = (costs / cutoff).cpu().numpy()
    return found


class BasinGaussian:
    """Draws from the Gaussian of a quadratic basin, the Lanczos runs shared by all cutoffs.

    A run of m steps is exact for the directions it resolves; eigenvalues below its lowest nodes count as those nodes.
    """

    def __init__(self, operator: SymmetricOperator, theta: Tensor, *, steps: int = 128, seed: int = 0) -> None:
        """Takes H and the anchor (n,), both in the units of the prior; negative eigenvalues count as zero."""
        self.operator, self.theta, self.steps, self.seed = operator, theta, steps, seed

    def blocks(self, draws: int) -> Iterator[tuple[int, DrawBlock]]:
        """The draws in blocks whose bases fit the memory.

        Args:
            draws: how many in all.

        Yields:
            Number of the first draw of the block, and the block.
        """
        operator = self.operator
        anchor = None
        if bool(self.theta.any()):
            anchor = _Functions.of(operator, self.theta.to(operator.dtype).unsqueeze(0), self.steps)
        one = basis_bytes(operator.size, 1, self.steps, operator.dtype)
        block = max(1, min(16, MEMORY // one))
        for first in range(0, draws, block):
            rows = draw_probes(
                operator.size,
                min(block, draws - first),
                seed=self.seed,
                first=first,
                kind="gaussian",
                stream="typical",
                dtype=operator.dtype,
                device=operator.device,
            )
            yield first, DrawBlock(_Functions.of(operator, rows, self.steps), rows, anchor)
