"""A cost as a function of the parameters: what sampling needs of a landscape, and closed forms that have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class CostSurface(Protocol):
    """What the star-domain sampler needs: ``spectra.landscape.Landscape`` has it, and so has a closed form."""

    @property
    def theta(self) -> Tensor:
        """(n,) the anchor."""

    @property
    def size(self) -> int:
        """Number of parameters n."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of theta."""

    @property
    def device(self) -> torch.device:
        """Where theta lives."""

    @property
    def anchor_cost(self) -> float:
        """The cost at the anchor."""

    def costs(self, thetas: Tensor) -> Tensor:
        """The costs at rows of thetas (k, n), as float64 (k,)."""


@dataclass(frozen=True, eq=False)
class ClosedFormCost:
    """A cost given by a formula of the displacement from the anchor, zero there.

    Attributes:
        formula: displacements (k, n) -> costs (k,), float64.
        theta: (n,) the anchor, float64.

    >>> ClosedFormCost(lambda x: x.square().sum(-1), torch.ones(2)).costs(torch.tensor([[1.0, 4.0]])).tolist()
    [9.0]
    """

    formula: Callable[[Tensor], Tensor]
    theta: Tensor

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return len(self.theta)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of theta."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where theta lives."""
        return self.theta.device

    @property
    def anchor_cost(self) -> float:
        """Zero."""
        return 0.0

    def costs(self, thetas: Tensor) -> Tensor:
        """The costs at rows of thetas (k, n), as float64 (k,)."""
        return self.formula(thetas - self.theta).double()


class CountingSurface:
    """A surface that counts how many costs were evaluated.

    Attributes:
        inner: the surface.
        evaluations: how many costs so far.
    """

    def __init__(self, inner: CostSurface) -> None:
        """Starts at zero."""
        self.inner, self.evaluations = inner, 0
        self.theta, self.size, self.dtype = inner.theta, inner.size, inner.dtype
        self.device, self.anchor_cost = inner.device, inner.anchor_cost

    def costs(self, thetas: Tensor) -> Tensor:
        """The costs at rows of thetas (k, n), as float64 (k,)."""
        self.evaluations += len(thetas)
        return self.inner.costs(thetas)
