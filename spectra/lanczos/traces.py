"""The trace from products alone: Hutchinson, Hutch++ and XTrace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.lanczos.probes import probes_of
from spectra.lanczos.recurrence import dots
from spectra.lanczos.shards import orthonormal_rows
from spectra.operators import SymmetricOperator

Progress = Callable[[int], None] | None
# Columns of a sketch this many roundings below its largest are rounding, and no range.
_SKETCH_ROUNDINGS = 1e2


def hutchinson(
    operator: SymmetricOperator, products: int, *, seed: int = 0, kind: str = "rademacher", block: int = 8
) -> Estimate:
    """``tr H`` as the mean of ``z^T H z`` over a number of probes fixed beforehand.

    Args:
        operator: H, of size n.
        products: number of probes, each one product; at least 1.
        seed: seed of the probes.
        kind: kind of the probes, see ``draw_probes``.
        block: probes that share a pass over the data.

    Returns:
        The estimate with its standard error.

    Raises:
        UserError: for fewer than one product.

    Reference:
        Hutchinson, A stochastic estimator of the trace, 1990.

    >>> from spectra.operators import MatrixOperator
    >>> hutchinson(MatrixOperator(torch.diag(torch.tensor([1.0, 2.0]))), 4).value
    3.0
    """
    if products < 1:
        raise UserError(f"products must be at least 1, got {products}")
    forms, lengths = [], []
    for start in range(0, products, block):
        probes = probes_of(operator, min(block, products - start), seed=seed, first=start, kind=kind)
        images = operator.matmat(probes)
        forms.append(dots(probes, images).cpu().numpy())
        lengths.append(_lengths(probes, images).cpu().numpy())
    error = _rounding(operator) * float(np.concatenate(lengths).mean())
    return from_samples(np.concatenate(forms), truncation_error=error)


def _rounding(operator: SymmetricOperator) -> float:
    """Relative error of a dot product; without it samples that agree would pass for an exact trace."""
    return float(torch.finfo(operator.dtype).eps)


def _lengths(rows: Tensor, images: Tensor) -> Tensor:
    """``|v| |H v|`` of rows v (k, n), float64 (k,): what the rounding of ``v^T H v`` is relative to."""
    return (dots(rows, rows) * dots(images, images)).sqrt()


def _basis_error(operator: SymmetricOperator, basis: Tensor, images: Tensor) -> float:
    """Rounding of ``tr Q^T H Q``, and what it is off by because Q is not orthonormal to the last digit."""
    rounded = _rounding(operator) * float(_lengths(basis, images).sum())
    defect = basis @ basis.T - torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
    return rounded + float(defect.double().norm() * (images @ basis.T).double().norm())


def deflated_trace(operator: SymmetricOperator, basis: Tensor, count: int, *, seed: int = 0) -> Estimate:
    """``tr H`` as that on a basis, exactly, plus that on its complement by probes that know nothing of the basis.

    Args:
        operator: H, of size n.
        basis: (k, n) orthonormal rows, such as eigenvectors.
        count: number of probes, at least 1.
        seed: seed of the probes.

    Returns:
        The estimate, of k + count products; its samples are the probes'. Exact where the basis is whole.

    >>> from spectra.operators import MatrixOperator
    >>> matrix = torch.diag(torch.tensor([5.0, 1.0, 1.0]))
    >>> round(deflated_trace(MatrixOperator(matrix), torch.eye(3)[:1], 2).value, 4)
    7.0
    """
    images = operator.matmat(basis)
    known, error = float(dots(basis, images).sum()), _basis_error(operator, basis, images)
    left = operator.size - len(basis)
    if left == 0:
        return Estimate(known, truncation_error=error)
    probes = probes_of(operator, count, seed=seed, kind="gaussian")
    for _ in range(2):
        probes = probes - (probes @ basis.T) @ basis
    images, squares = operator.matmat(probes), dots(probes, probes)
    # On the sphere of the complement: the norm of the probe carries no information.
    ratios = dots(probes, images) / squares
    error += _rounding(operator) * left * float((_lengths(probes, images) / squares).mean())
    return from_samples(known + left * ratios.cpu().numpy(), truncation_error=error)


def hutch_plus_plus(operator: SymmetricOperator, products: int, *, seed: int = 0) -> Estimate:
    """``tr H`` exactly on a sketched range, by probes in its complement; a third of the products each.

    Args:
        operator: H, of size n.
        products: total number of products, at least 6 (so that two probes give an error).
        seed: seed of the sketch and the probes.

    Returns:
        The estimate; its samples are those of the complement's probes.

    Raises:
        UserError: for fewer than 6 products.

    Reference:
        Meyer, Musco, Musco and Woodruff, Hutch++: optimal stochastic trace estimation, 2021.

    >>> from spectra.operators import MatrixOperator
    >>> round(hutch_plus_plus(MatrixOperator(torch.diag(torch.tensor([5.0, 0.0, 0.0, 0.0]))), 6).value, 4)
    5.0
    """
    if products < 6:
        raise UserError(f"products must be at least 6, got {products}")
    sketch = min(products // 3, operator.size)
    rows = probes_of(operator, sketch, seed=seed, stream="sketch", kind="gaussian")
    basis, _ = orthonormal_rows(operator.matmat(rows))
    return deflated_trace(operator, basis, products - 2 * sketch, seed=seed)


def xtrace(operator: SymmetricOperator, products: int, *, seed: int = 0) -> Estimate:
    r"""``tr H`` by leave-one-out low-rank approximation: each probe tests the sketch of all the others.

    With ``Y = H W = Q R`` and ``s_i`` the normalised columns of ``R^-T``, leaving probe i out of the sketch gives the
    basis ``Q (I - s_i s_i^T)``; the i-th sample is the trace there plus the probe's quadratic form in the complement,
    normalised to the sphere.

    Args:
        operator: H, of size n.
        products: total number of products, even and at least 4; half sketch, half project.
        seed: seed of the probes.

    Returns:
        The estimate. Its samples are exchangeable but not independent; their spread estimates the error (section 4
        of the reference). Where the range is smaller than the sketch, to rounding, no probe tests the others: the
        products that are left go into probes of the range's complement, for a tail below rounding adds up.

    Raises:
        UserError: for fewer than 4 products, or more than 2 n.

    Reference:
        Epperly, Tropp and Webber, XTrace: making the most of every sample in stochastic trace estimation, 2024.

    >>> from spectra.operators import MatrixOperator
    >>> round(xtrace(MatrixOperator(torch.diag(torch.tensor([5.0, 0.0, 0.0, 0.0]))), 4).value, 4)
    5.0
    """
    count = products // 2
    if count < 2 or count > operator.size:
        raise UserError(f"products must lie between 4 and twice the size {operator.size}, got {products}")
    probes = probes_of(operator, count, seed=seed, stream="sketch")
    sketch = operator.matmat(probes)
    basis, factor = orthonormal_rows(sketch)
    # rows = factor^T basis: the right singular vectors of factor^T make the basis of what is not rounding.
    _, values, mixing = torch.linalg.svd(factor.T)
    found = int((values > _SKETCH_ROUNDINGS * _rounding(operator) * values[0]).sum())
    if found < count:
        # Two probes at least are left to tell of the error.
        rank = min(found, max(count - 2, 1))
        return deflated_trace(operator, mixing[:rank] @ basis, count - rank, seed=seed)
    images = operator.matmat(basis)
    projected = _host(images @ basis.T)
    projected = (projected + projected.T) / 2.0
    whole = float(np.trace(projected))
    samples = _leave_one_out(projected, _host(factor), _host(basis @ probes.T), operator.size, whole)
    # The basis makes both parts of a sample.
    error = 2.0 * _basis_error(operator, basis, images) + _rounding(operator) * float(_lengths(probes, sketch).mean())
    return from_samples(samples, truncation_error=error)


def _leave_one_out(
    projected: np.ndarray, triangle: np.ndarray, components: np.ndarray, size: int, whole: float
) -> np.ndarray:
    """Samples of ``xtrace`` from the small matrices ``Q^T H Q``, R and ``Q^T W`` (columns are probes)."""
    count = len(triangle)
    left_out = np.linalg.inv(triangle).T
    left_out /= np.linalg.norm(left_out, axis=0)
    overlap = (left_out * components).sum(0)
    kept = components - left_out * overlap
    form = (components * triangle).sum(0) - 2.0 * (kept * triangle).sum(0) + (kept * (projected @ kept)).sum(0)
    norm = size - (kept**2).sum(0)
    trace = whole - (left_out * (projected @ left_out)).sum(0)
    samples: np.ndarray = trace + form * (size - count + 1) / norm
    return samples


def _host(matrix: Tensor) -> np.ndarray:
    return np.asarray(matrix.double().cpu().numpy())
