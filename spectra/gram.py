"""Gram route: the exact non-zero spectrum of ``A^T A`` from ``A A^T``, where A has few rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spectra.batches import Batch
from spectra.density import SpectralDensity
from spectra.fisher import Fisher
from spectra.gauss_newton import GaussNewton, JacobianSandwich, as_rows


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
        factor = _factor(operator, outputs, batch)
        total += factor.shape[0] * factor.shape[1]
    return total


def gram_spectrum(operator: JacobianSandwich) -> SpectralDensity:
    """The exact spectrum of a Gauss-Newton or Fisher matrix from its Gram matrix.

    Args:
        operator: ``J^T B J`` with ``B = S^T S``; A = S J is held, rows times n numbers.

    Returns:
        The density: the Gram matrix's eigenvalues, the other n - rows of them zero (plus the landscape's L2).
        Eigenvalues below the rounding of the largest are set to zero: A A^T has no negative ones.

    Raises:
        ValueError: if the operator has no square root at hand, or A is not finite.

    Reference:
        Dangel, Tatzel and Hennig, ViViT: curvature access through the Gauss-Newton's low-rank structure, 2022.
    """
    if gram_rows(operator) is None:
        raise ValueError(f"the Gram route needs a cost with a closed Hessian in the outputs; {operator.name} has none")
    blocks = []
    for batch in operator.landscape.iterate():
        leaves = operator.landscape.leaves(operator.theta)
        blocks.append(operator.landscape.evaluation.inside(leaves, lambda b=batch, p=leaves: _rows(operator, b, p)))  # type: ignore[misc]
    matrix = torch.cat(blocks)
    gram = sum(part.double() @ part.double().T for part in torch.split(matrix, 2**20, dim=1))
    assert isinstance(gram, Tensor)
    if not bool(torch.isfinite(gram).all()):
        raise ValueError(f"a row of the {operator.name}'s factor is not finite")
    values = torch.linalg.eigvalsh(gram).cpu().numpy()[::-1][: operator.size]
    rounding = len(gram) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    values = np.where(values > rounding, values, 0.0)
    l2 = operator.landscape.l2
    return SpectralDensity.from_eigenvalues(values + l2, operator.size, operator.name, rest=l2)


def _factor(operator: JacobianSandwich, outputs: Tensor, batch: Batch) -> Tensor:
    """S of each sample, (samples, r, K), with the samples' weights: ``B = S^T S``."""
    outputs = outputs.detach()
    weights = operator.output_weights(outputs, batch).unsqueeze(-1)
    if isinstance(operator, Fisher) and operator.kind != "exact":
        scores = operator.scores(outputs, batch)
        root: Tensor = (scores / len(scores) ** 0.5).transpose(0, 1) * weights.sqrt()
        return root
    likelihood = operator.landscape.likelihood
    assert likelihood is not None
    factor: Tensor = likelihood.hessian_factor(as_rows(outputs, len(weights), operator.landscape))
    return factor * weights.sqrt()


def _rows(operator: JacobianSandwich, batch: Batch, leaves: dict[str, Tensor]) -> Tensor:
    """``S J`` of a batch, (samples * r, n), by one backward pass a row."""
    parts = list(leaves.values())
    outputs = operator.landscape.evaluation.outputs(batch.inputs)
    factor = _factor(operator, outputs, batch)
    samples, ranks, width = factor.shape
    found: list[Tensor] = []
    for sample in range(samples):
        for rank in range(ranks):
            cotangent = torch.zeros(samples, width, dtype=outputs.dtype, device=outputs.device)
            cotangent[sample] = factor[sample, rank]
            slopes = torch.autograd.grad(
                outputs, parts, cotangent.reshape(outputs.shape), retain_graph=True, allow_unused=True
            )
            found.append(operator.landscape.flat(slopes, parts))
    return torch.stack(found)
