"""Gram route: the exact non-zero spectrum of ``A^T A`` from ``A A^T``, where A has few rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra.density.density import SpectralDensity
from spectra.errors import UserError
from spectra.model import Batch
from spectra.nested import mapped
from spectra.operators import Fisher, GaussNewton, JacobianSandwich

# Columns of A that are held in float64 at a time.
CHUNK_COLUMNS = 4096


def gram_rows(operator: JacobianSandwich) -> int | None:
    """Rows of A, or None where no square root of B is at hand (a plain callable as cost).

    Args:
        operator: a Gauss-Newton or Fisher matrix.

    Returns:
        Samples times outputs a sample; samples times draws for the sampled and the empirical Fisher.
    """
    if isinstance(operator, GaussNewton) and operator.landscape.likelihood is None:
        return None
    total = 0
    for batch, outputs in zip(operator.landscape.iterate(), operator.landscape.outputs(operator.theta), strict=True):
        total += _row_count(operator, outputs, batch)
    return total


def gram_bytes(rows: int, size: int, dtype: torch.dtype) -> int:
    """Bytes that the Gram route takes besides one backward pass.

    Args:
        rows: number of rows of A.
        size: n, its columns.
        dtype: dtype of its entries.

    Returns:
        A, a chunk of its columns in float64, and in float64 the Gram matrix and the copy that is decomposed.

    >>> gram_bytes(2, 10, torch.float32)
    304
    """
    return rows * size * dtype.itemsize + rows * min(size, CHUNK_COLUMNS) * 8 + 2 * rows**2 * 8


def gram_spectrum(operator: JacobianSandwich) -> SpectralDensity:
    """The exact spectrum of a Gauss-Newton or Fisher matrix from its Gram matrix.

    Args:
        operator: ``J^T B J`` with ``B = S^T S``; A = S J is held, rows times n numbers.

    Returns:
        The density: the Gram matrix's eigenvalues, the other n - rows of them zero (plus the landscape's L2).
        Eigenvalues below the rounding of the largest are set to zero: A A^T has no negative ones.

    Raises:
        UserError: if the operator has no square root at hand, or A is not finite.

    Reference:
        Dangel, Tatzel and Hennig, ViViT: curvature access through the Gauss-Newton's low-rank structure, 2022.
    """
    rows = gram_rows(operator)
    if rows is None:
        raise UserError(f"the Gram route needs a cost with a closed Hessian in the outputs; {operator.name} has none")
    matrix = torch.empty(rows, operator.size, dtype=operator.dtype, device=operator.device)
    start = 0
    for batch in operator.landscape.iterate():
        leaves = operator.landscape.leaves(operator.theta)
        rest = matrix[start:]
        start += operator.landscape.evaluation.inside(
            leaves,
            lambda b=batch, p=leaves, r=rest: _fill(r, operator, b, p),  # type: ignore[misc]
        )
    gram = torch.zeros(rows, rows, dtype=torch.float64, device=operator.device)
    for columns in torch.split(matrix, CHUNK_COLUMNS, dim=1):
        part = columns.double()
        gram.addmm_(part, part.T)
    del matrix, rest, columns, part
    if not bool(torch.isfinite(gram).all()):
        raise UserError(f"a row of the {operator.name}'s factor is not finite")
    values = torch.linalg.eigvalsh(gram).cpu().numpy()[::-1][: operator.size]
    rounding = len(gram) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    values = np.where(values > rounding, values, 0.0)
    l2 = operator.landscape.l2
    found = SpectralDensity.from_eigenvalues(values + l2, operator.size, operator.name, rest=l2)
    return replace(found, coarseness=operator.coarseness)


def _row_count(operator: JacobianSandwich, outputs: Any, batch: Batch) -> int:
    """Rows of a batch's factor, known from shapes alone."""
    if isinstance(operator, Fisher) and operator.kind != "exact":
        return (operator.draws if operator.kind == "sampled" else 1) * len(operator.output_rows(outputs, batch))
    return operator.output_rows(outputs, batch).numel()


def _factor(operator: JacobianSandwich, outputs: Any, batch: Batch) -> Tensor:
    """S of each sample, (samples, r, K), with the samples' weights: ``B = S^T S``."""
    weights = operator.output_weights(outputs, batch).unsqueeze(-1)
    if isinstance(operator, Fisher) and operator.kind != "exact":
        scores = operator.scores(outputs, batch)
        root: Tensor = (scores / len(scores) ** 0.5).transpose(0, 1) * weights.sqrt()
        return root
    likelihood = operator.landscape.likelihood
    assert likelihood is not None
    factor: Tensor = likelihood.hessian_factor(likelihood.rows(outputs, batch.targets), batch.targets)
    return factor * weights.sqrt()


def _fill(matrix: Tensor, operator: JacobianSandwich, batch: Batch, leaves: dict[str, Tensor]) -> int:
    """Writes ``S J`` of a batch, (samples * r, n), into the first rows, by a backward pass each; returns how many."""
    parts = list(leaves.values())
    outputs = operator.landscape.evaluation.outputs(batch.inputs)
    rows = operator.output_rows(outputs, batch)
    factor = _factor(operator, mapped(outputs, Tensor.detach), batch)
    samples, ranks, _ = factor.shape
    for sample in range(samples):
        for rank in range(ranks):
            cotangent = torch.zeros_like(rows)
            cotangent[sample] = factor[sample, rank]
            slopes = torch.autograd.grad(rows, parts, cotangent, retain_graph=True, allow_unused=True)
            operator.landscape.parameters.concatenated(slopes, parts, out=matrix[sample * ranks + rank])
    return samples * ranks
