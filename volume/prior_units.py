"""Coordinates in which a Gaussian prior has unit variance: ``H -> D H D`` and ``theta -> theta / s``, D = diag(s)."""

from __future__ import annotations

from torch import Tensor

from spectra.errors import UserError
from spectra.operators import OfAnother, SymmetricOperator


class ScaledOperator(OfAnother):
    """``D H D`` for a diagonal D: the curvature in units of each parameter's prior standard deviation.

    With theta = D x, a cost of curvature H in theta has curvature D H D in x, and a normal of standard deviations D
    in theta is a standard normal in x.

    >>> import torch
    >>> from spectra.operators import MatrixOperator
    >>> ScaledOperator(MatrixOperator(torch.eye(2)), torch.tensor([1.0, 3.0])).to_dense().tolist()
    [[1.0, 0.0], [0.0, 9.0]]
    """

    def __init__(self, inner: SymmetricOperator, scales: Tensor) -> None:
        """Scales ``inner`` by ``scales`` (n,), unit of the parameters.

        Raises:
            UserError: if the scales are not n positive finite numbers.
        """
        _check(scales, inner.size)
        self.inner, self.scales = inner, scales.to(inner.device, inner.dtype)
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device
        self.definite, self.ranks = inner.definite, inner.ranks
        self.name = f"{inner.name} in prior units"

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V D H D`` for rows V (k, n)."""
        return self.inner.matmat(self._checked(vectors) * self.scales) * self.scales

    def addend(self, vectors: Tensor) -> Tensor:
        """This process's part of ``matmat``."""
        return self.inner.addend(self._checked(vectors) * self.scales) * self.scales


def prior_units(operator: SymmetricOperator, theta: Tensor, scale: Tensor) -> tuple[SymmetricOperator, Tensor, float]:
    """Curvature and anchor in coordinates where the prior's standard deviation is one number.

    Args:
        operator: H, of size n.
        theta: (n,) anchor.
        scale: (n,) standard deviations of the prior, as ``Prior.scale`` gives them.

    Returns:
        Operator, anchor (n,) and standard deviation: as they were, no copies, if all scales are equal, so that a
        spectrum of H itself can be used; else ``D H D``, ``theta / s`` in float64 and one.

    Raises:
        UserError: if the scales are not n positive finite numbers.

    >>> import torch
    >>> from spectra.operators import MatrixOperator
    >>> _, anchor, s = prior_units(MatrixOperator(torch.eye(2)), torch.ones(2), torch.tensor([0.5, 2.0]))
    >>> anchor.tolist(), s
    ([2.0, 0.5], 1.0)
    """
    _check(scale, operator.size)
    if bool((scale == scale[0]).all()):
        return operator, theta.detach(), float(scale[0])
    return ScaledOperator(operator, scale), theta.detach().double() / scale.to(theta.device).double(), 1.0


def _check(scales: Tensor, size: int) -> None:
    if scales.shape != (size,):
        raise UserError(f"scales must have shape ({size},), got {tuple(scales.shape)}")
    if not bool(((scales > 0.0) & scales.isfinite()).all()):
        raise UserError(f"scales must be positive and finite, got a smallest of {float(scales.min()):g}")
