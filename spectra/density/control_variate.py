"""Control variates for sampled spectral sums: what the same probes say of a sum that is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectra.density.measure import SpectralMeasure
from spectra.errors import UserError
from spectra.estimate import Estimate, from_samples
from spectra.lanczos import KrylovSpace, probe_means
from spectra.operators import KroneckerFactored, TensorFunction

Array = NDArray[np.float64]
# With fewer, a coefficient from the others is worse than none.
LEAST_SAMPLES = 5
_CHUNK = 64


def trace_controls(density: SpectralMeasure, trace: float) -> Array:
    r"""What each probe says of ``tr H`` less what it is: samples of mean zero, from a density alone.

    ``(n - k) z^T H z / |z|^2 - (tr H - tr Q H Q^T)`` for probes z in the complement of k deflated dimensions Q; the
    quadrature is exact for both forms. Over what deflation leaves, functions are nearly straight lines, so that their
    sums vary as the trace does.

    Args:
        density: a density with probes.
        trace: tr H, known otherwise.

    Returns:
        (probes,) the controls, unit of the eigenvalues.

    >>> from spectra.lanczos import from_rules
    >>> rules = from_rules(np.array([[1.0, 3.0], [1.0, 3.0]]), np.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> trace_controls(SpectralMeasure(4, rules), 9.0).round(9).tolist()
    [-1.0, 1.0]
    """
    means = probe_means((density.nodes, density.weights), lambda x: x)
    return density.complement * means - (trace - density.deflation.integrate(lambda x: x))


def kronecker_controls(
    factored: KroneckerFactored, probes: Tensor, function: TensorFunction, space: KrylovSpace | None = None
) -> Array:
    r"""What each probe says of ``tr f(K)`` less what it is: samples of mean zero.

    ``(n - k) z^T f(K) z / |z|^2 - (tr f(K) - tr Q f(K) Q^T)`` for probes z in the complement of k deflated dimensions
    Q, as the probes of a spectrum are.

    Args:
        factored: K.
        probes: (probes, n) the probes, projected on the complement.
        function: f, elementwise.
        space: the deflated space in one process, or None.

    Returns:
        (probes,) the controls.

    >>> import torch
    >>> from torch import nn
    >>> from spectra.costs import mean_squared_error
    >>> from spectra.landscape import Landscape
    >>> landscape = Landscape(nn.Linear(2, 1), mean_squared_error, (torch.ones(1, 2), torch.zeros(1, 1)))
    >>> bool(abs(kronecker_controls(KroneckerFactored(landscape), torch.eye(3), lambda x: x).sum()) < 1e-5)
    True
    """
    known, rest = factored.integrate(function), factored.size
    if space is not None:
        for first in range(0, space.captured, _CHUNK):
            known -= float(factored.forms(space.basis[first : first + _CHUNK], function).sum())
        rest -= space.captured
    forms = factored.forms(probes, function) / probes.double().square().sum(1)
    found: Array = rest * forms.cpu().numpy() - known
    return found


def controlled(estimate: Estimate, controls: Array, *, rounding: float = 0.0) -> Estimate:
    r"""An estimate less a multiple of controls of mean zero, which its samples vary with: unbiased for any controls.

    Each sample's multiple is the regression coefficient of the other samples, so that it does not depend on the control
    it multiplies.

    Args:
        estimate: mean of samples.
        controls: (samples,) the controls, of mean zero in expectation.
        rounding: by how much that mean may be off all the same; what it makes is added to the truncation error.

    Returns:
        The estimate, its samples corrected.

    Raises:
        UserError: if their numbers differ, or there are fewer than five.

    Reference:
        Lavenberg and Welch, A perspective on the use of control variables to increase the efficiency of Monte Carlo
        simulations, 1981.

    >>> noise = np.array([1.0, -2.0, 0.5, 3.0, -1.0])
    >>> found = controlled(from_samples(7.0 + 2.0 * noise), noise)
    >>> round(found.value, 9), round(found.standard_error, 9)
    (7.0, 0.0)
    """
    samples, count = estimate.samples, len(estimate.samples)
    if controls.shape != samples.shape:
        raise UserError(f"controls must be as many as samples, {count}, got shape {controls.shape}")
    if count < LEAST_SAMPLES:
        raise UserError(f"a control variate needs {LEAST_SAMPLES} probes at least, got {count}: give more --probes")
    corrected, slopes = np.empty(count), np.empty(count)
    for place in range(count):
        x, y = np.delete(controls, place), np.delete(samples, place)
        spread = float(((x - x.mean()) ** 2).sum())
        slope = float((x - x.mean()) @ (y - y.mean())) / spread if spread > 0.0 else 0.0
        corrected[place], slopes[place] = samples[place] - slope * controls[place], slope
    error = estimate.truncation_error + rounding * abs(float(slopes.mean()))
    found = from_samples(corrected, truncation_error=error, cautions=estimate.cautions)
    return replace(found, lowest=estimate.lowest, highest=estimate.highest)
