"""The quadratic model that a bridge starts from, and the inverse temperature that belongs to a cutoff."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spectra.lanczos import hutchinson, top_eigenpairs
from spectra.landscape import Landscape
from spectra.operators import SymmetricOperator
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from volume.prior_units import ScaledOperator
from volume.priors import Prior
from volume.quadratic import LeadingCurvature, QuadraticForm, log_distribution

# Up to this size the whole matrix is decomposed: n^2 numbers, and of the order of a minute.
LARGEST_DENSE = 6000
PAIRS = 400
TRACE_PRODUCTS = 64


def leading_curvature(
    landscape: Landscape,
    prior: Prior,
    settings: SpectrumSettings,
    pairs: int | None = None,
) -> LeadingCurvature:
    """Eigenpairs of a landscape's curvature at its anchor, in standard deviations of the prior.

    Negative eigenvalues count as zero: the bridge needs a Gaussian near the ensemble, and corrects all else.

    Args:
        landscape: the cost.
        prior: a Gaussian one.
        settings: name of the curvature, seed of the Krylov space and of the trace's probes, strategy of the products
            and the memory that they may take.
        pairs: number of eigenpairs; None takes all up to 6,000 parameters, else 400.

    Returns:
        The curvature, which names the strategy.
    """
    operator = make_operator(landscape, settings)
    scaled = ScaledOperator(operator, prior.scale(landscape.size).to(landscape.device))
    if pairs is None and landscape.size <= LARGEST_DENSE:
        found = dense_curvature(scaled.to_dense())
    else:
        found = _top(scaled, min(pairs or PAIRS, landscape.size), settings.seed)
    return replace(found, strategy=str(getattr(operator, "strategy", "")))


def dense_curvature(matrix: Tensor) -> LeadingCurvature:
    """All eigenpairs of a symmetric matrix (n, n) in its own precision, negative eigenvalues set to zero."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return LeadingCurvature(values.flip(0).double().clamp(min=0.0), vectors.T.flip(0).contiguous())


def no_curvature(like: Tensor) -> LeadingCurvature:
    """The curvature of no cost at all, with the size, dtype and device of a tensor (n,): its ensemble is the prior."""
    return LeadingCurvature(torch.zeros(0, dtype=torch.float64, device=like.device), like.new_zeros(0, len(like)))


def _top(operator: SymmetricOperator, count: int, seed: int) -> LeadingCurvature:
    found = top_eigenpairs(operator, count, which="largest", tolerance=1e-2, seed=seed)
    values = torch.as_tensor(found.values, dtype=torch.float64, device=operator.device).clamp(min=0.0)
    vectors = found.vectors.to(operator.device, operator.dtype)
    # Lanczos leaves rows orthonormal to rounding; the map's determinant needs them so to the last digit.
    vectors = torch.linalg.qr(vectors.double().T)[0].T.to(operator.dtype)
    if count == operator.size:
        return LeadingCurvature(values, vectors)
    lost = hutchinson(operator, TRACE_PRODUCTS, seed=seed).value - float(values.sum())
    return LeadingCurvature(values, vectors, max(lost / (operator.size - count), 0.0))


def inverse_temperature(curvature: LeadingCurvature, anchor: Tensor, cutoff: float) -> float:
    """The b at which the quadratic model's ensemble has the cutoff as its mean cost, anchor in units of the prior.

    It is ``-t0``, the saddle of the quadratic mass, or a tenth of an inverse cutoff where the cutoff is above the
    prior's own mean cost.

    >>> curvature = LeadingCurvature(torch.ones(2).double(), torch.eye(2).double())
    >>> round(inverse_temperature(curvature, torch.zeros(2).double(), 0.01), 6)  # mean cost 1 / (1 + b)
    99.0
    """
    values = curvature.values.cpu().numpy()
    others = curvature.size - len(values)
    parts = (curvature.vectors @ anchor.to(curvature.vectors)).double().cpu().numpy() ** 2
    left = max(float(anchor.square().sum()) - float(parts.sum()), 0.0) if others else 0.0
    nodes, masses = np.append(values, curvature.rest), np.append(parts, left)
    counts = np.append(np.ones(len(values)), float(others))
    saddle = float(log_distribution(QuadraticForm(nodes, counts, nodes, masses), np.array([cutoff])).saddle[0])
    return max(-saddle, 0.1 / cutoff)
