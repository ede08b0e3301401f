"""The trace and its kin from products alone: Hutchinson, Hutch++ and XTrace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.lanczos import dots
from spectra.operators import SymmetricOperator
from spectra.parallel_rows import orthonormal_rows
from spectra.probes import draw_probes

Progress = Callable[[int], None] | None


def hutchinson(
    operator: SymmetricOperator, products: int, *, seed: int = 0, kind: str = "rademacher", block: int = 8
) -> Estimate:
    """``tr H`` as the mean of ``z^T H z`` over a number of probes fixed beforehand.

    Args:
        operator: H, of size n.
        products: number of probes, each one product; at least 1.
        seed: of the probes.
        kind: of the probes, see ``draw_probes``.
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
    return from_samples(_quadratic_forms(operator, products, seed, kind, block)[0])


def squared_frobenius_norm(
    operator: SymmetricOperator, products: int, *, seed: int = 0, kind: str = "rademacher", block: int = 8
) -> Estimate:
    """``|H|_F^2 = tr H^2`` as the mean of ``|H z|^2``, from the same products as ``hutchinson``.

    Args:
        operator: H, of size n.
        products: number of probes.
        seed: of the probes.
        kind: of the probes.
        block: probes that share a pass over the data.

    Returns:
        The estimate with its standard error.
    """
    return from_samples(_quadratic_forms(operator, products, seed, kind, block)[1])


def _quadratic_forms(
    operator: SymmetricOperator, products: int, seed: int, kind: str, block: int
) -> tuple[np.ndarray, np.ndarray]:
    if products < 1:
        raise UserError(f"products must be at least 1, got {products}")
    first, second = [], []
    for start in range(0, products, block):
        count = min(block, products - start)
        probes = draw_probes(
            operator.size, count, seed=seed, first=start, kind=kind, dtype=operator.dtype, device=operator.device
        )
        images = operator.matmat(probes)
        first.append(dots(probes, images).cpu().numpy())
        second.append(dots(images, images).cpu().numpy())
    return np.concatenate(first), np.concatenate(second)


def hutch_plus_plus(operator: SymmetricOperator, products: int, *, seed: int = 0) -> Estimate:
    """``tr H`` exactly on a sketched range, by probes in its complement; a third of the products each.

    Args:
        operator: H, of size n.
        products: total number of products, at least 6 (so that two probes give an error).
        seed: of sketch and probes.

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
    options = {"seed": seed, "dtype": operator.dtype, "device": operator.device}
    rows = draw_probes(operator.size, sketch, stream="sketch", kind="gaussian", **options)  # type: ignore[arg-type]
    basis, _ = orthonormal_rows(operator.matmat(rows))
    known = float(dots(basis, operator.matmat(basis)).sum())
    count = products - 2 * sketch
    probes = draw_probes(operator.size, count, kind="gaussian", **options)  # type: ignore[arg-type]
    for _ in range(2):
        probes = probes - (probes @ basis.T) @ basis
    left = operator.size - sketch
    if left == 0:
        return Estimate(known)
    # On the sphere of the complement: the norm of the probe carries no information.
    ratios = dots(probes, operator.matmat(probes)) / dots(probes, probes)
    return from_samples(known + left * ratios.cpu().numpy())


def xtrace(operator: SymmetricOperator, products: int, *, seed: int = 0) -> Estimate:
    r"""``tr H`` by leave-one-out low-rank approximation: each probe tests the sketch of all the others.

    With ``Y = H W = Q R`` and ``s_i`` the normalised columns of ``R^-T``, leaving probe i out of the sketch gives the
    basis ``Q (I - s_i s_i^T)``; the i-th sample is the trace there plus the probe's quadratic form in the complement,
    normalised to the sphere.

    Args:
        operator: H, of size n.
        products: total number of products, even and at least 4; half sketch, half project.
        seed: of the probes.

    Returns:
        The estimate. Its samples are exchangeable but not independent; their spread estimates the error (section 4
        of the reference). Exact where the range is found to be smaller than the sketch.

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
    probes = draw_probes(
        operator.size, count, seed=seed, kind="sphere", stream="sketch", dtype=operator.dtype, device=operator.device
    )
    basis, factor = orthonormal_rows(operator.matmat(probes))
    projected = _host(operator.matmat(basis) @ basis.T)
    projected = (projected + projected.T) / 2.0
    whole = float(np.trace(projected))
    triangle = _host(factor)
    size = np.abs(np.diag(triangle))
    if size.min() <= 1e2 * torch.finfo(operator.dtype).eps * size.max():
        return Estimate(whole)
    components = _host(basis @ probes.T)
    return from_samples(_leave_one_out(projected, triangle, components, operator.size, whole))


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
