"""Lanczos on all probes in lockstep, one block of products a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.lanczos.quadrature import BREAKDOWN_ROUNDINGS, Tridiagonal
from spectra.lanczos.shards import Shards, shards_of
from spectra.operators import SymmetricOperator, not_finite
from spectra.ranks import ALONE

REORTHOGONALISE = ("full", "none")
_COLUMNS = 2**20


@dataclass(frozen=True, eq=False)
class LanczosRun:
    """What a Lanczos run leaves.

    Attributes:
        tridiagonal: coefficients of all probes.
        basis: (probes, steps, n) orthonormal Lanczos vectors if kept, else None. Vectors after a breakdown are zero.
    """

    tridiagonal: Tridiagonal
    basis: Tensor | None


def basis_bytes(size: int, probes: int, steps: int, dtype: torch.dtype) -> int:
    """Bytes of the basis that full reorthogonalisation holds."""
    return size * probes * steps * dtype.itemsize


def lanczos(
    operator: SymmetricOperator,
    starts: Tensor,
    steps: int,
    *,
    reorthogonalise: str = "full",
    keep_basis: bool = False,
    progress: Callable[[int], None] | None = None,
) -> LanczosRun:
    r"""``H Q^T = Q^T T + remainder`` for each start, the probes sharing each product.

    Without reorthogonalisation ghost copies of converged Ritz values appear, whose weights still sum rightly: sums of
    smooth functions stay accurate (Greenbaum 1989), counts of eigenvalues do not. It needs three vectors a probe. With
    ``full`` each new vector is orthogonalised against all before it, once a step.

    Args:
        operator: H, of size n.
        starts: (probes, n) start vectors, none of them zero; need not be normalised.
        steps: number of steps, capped at n.
        reorthogonalise: ``full`` or ``none``.
        keep_basis: return the basis; needs ``full``.
        progress: called after each step with the number of products it took.

    Returns:
        Coefficients in float64 on the host, and the basis if it was asked for. A probe whose remainder vanishes (the
        identity after one step, rank one after two) stops there, and says so by its length.

    Raises:
        UserError: for fewer than one step, a zero or non-finite start, or products that are not finite.

    Reference:
        Golub and Van Loan, Matrix Computations, section 10.1.

    >>> from spectra.operators import MatrixOperator
    >>> run = lanczos(MatrixOperator(torch.diag(torch.tensor([1.0, 3.0]))), torch.ones(1, 2), 2)
    >>> run.tridiagonal.diagonal.round(5).tolist(), run.tridiagonal.off_diagonal[:, :1].round(5).tolist()
    ([[2.0, 2.0]], [[1.0]])
    """
    if reorthogonalise not in REORTHOGONALISE:
        raise UserError(f"reorthogonalise must be full or none, got {reorthogonalise!r}")
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps}")
    if keep_basis and reorthogonalise != "full":
        raise UserError("keep_basis needs reorthogonalise='full'")
    steps = min(steps, operator.size)
    probes = len(starts)
    # A basis that is returned is held whole, unless all of the operator's vectors are in pieces.
    shards = Shards(operator.size, ALONE) if keep_basis and operator.pieces is None else shards_of(operator)
    state = _State.begin(
        shards.part(starts.to(operator.device, operator.dtype)), steps, reorthogonalise == "full", shards
    )
    del starts  # a caller that passes them on without a name holds one vector a probe less
    for step in range(steps):
        state.advance(shards.product(operator, state.current), step)
        if progress is not None:
            progress(probes)
        if step % 8 == 7 and not bool(state.alive.any()):
            break
    return state.finish(keep_basis)


class _State:
    """Vectors and coefficients between two steps; scalars stay on the device."""

    def __init__(self, current: Tensor, steps: int, full: bool, shards: Shards) -> None:
        probes, size = current.shape
        self.shards = shards
        self.current, self.previous = current, torch.zeros_like(current)
        self.basis = current.new_zeros(probes, steps, size) if full else None
        self.diagonal = torch.zeros(probes, steps, dtype=torch.float64, device=current.device)
        self.off_diagonal = torch.zeros_like(self.diagonal)
        self.lengths = torch.zeros(probes, dtype=torch.int64, device=current.device)
        self.alive = torch.ones(probes, dtype=torch.bool, device=current.device)
        self.scale = torch.zeros(probes, dtype=torch.float64, device=current.device)

    @classmethod
    def begin(cls, starts: Tensor, steps: int, full: bool, shards: Shards) -> _State:
        norms = shards.total(dots(starts, starts)).sqrt()
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            raise UserError("starts must be finite and not zero")
        return cls(starts / norms.to(starts.dtype).unsqueeze(1), steps, full, shards)

    def advance(self, product: Tensor, step: int) -> None:
        """One step: ``product`` is H times the current vectors; it is overwritten."""
        if self.basis is not None:
            self.basis[:, step] = self.current
        alpha = self.shards.total(dots(product, self.current))
        _subtract(product, self.current, alpha)
        if step:
            _subtract(product, self.previous, self.off_diagonal[:, step - 1])
        if self.basis is not None:
            known = self.basis[:, : step + 1]
            along = self.shards.total(torch.bmm(known, product.unsqueeze(2)))
            product -= torch.bmm(along.transpose(1, 2), known).squeeze(1)
        beta = self.shards.total(dots(product, product)).sqrt()
        alpha, beta = alpha * self.alive, beta * self.alive
        self.scale = torch.maximum(self.scale, alpha.abs() + beta)
        self.diagonal[:, step] = alpha
        self.lengths += self.alive
        roundings = BREAKDOWN_ROUNDINGS * torch.finfo(product.dtype).eps
        # Written so that a beta that is not a number stays alive and is found at the end.
        self.alive = self.alive & ~(beta <= roundings * self.scale)
        beta = torch.where(self.alive, beta, 0.0)
        self.off_diagonal[:, step] = beta
        inverse = torch.where(self.alive, 1.0 / beta, 0.0).to(product.dtype)
        self.previous = self.current
        self.current = product.mul_(inverse.unsqueeze(1))

    def finish(self, keep_basis: bool) -> LanczosRun:
        if not bool(torch.isfinite(self.diagonal).all() & torch.isfinite(self.off_diagonal).all()):
            raise UserError(not_finite())
        tridiagonal = Tridiagonal(
            self.diagonal.cpu().numpy(), self.off_diagonal.cpu().numpy(), self.lengths.cpu().numpy()
        )
        return LanczosRun(tridiagonal, self.basis if keep_basis else None)


def _subtract(target: Tensor, direction: Tensor, coefficients: Tensor) -> None:
    target.addcmul_(direction, coefficients.to(target.dtype).unsqueeze(1), value=-1.0)


def dots(left: Tensor, right: Tensor) -> Tensor:
    """Dot products of matching rows (k, n), accumulated in float64 by chunks, as (k,)."""
    total = torch.zeros(len(left), dtype=torch.float64, device=left.device)
    for one, other in zip(torch.split(left, _COLUMNS, 1), torch.split(right, _COLUMNS, 1), strict=True):
        # A chunk is summed in its own dtype, pairwise; the chunks in float64.
        total += torch.linalg.vecdot(one, other).double()
    return total
