"""Local entropy of the quadratic: a log-determinant with the width of the window as its shift."""

from __future__ import annotations

import math

from comparisons.sharpness_result import positive
from spectra.density import SpectralDensity
from spectra.estimate import Estimate


def local_entropy(
    density: SpectralDensity,
    *,
    stiffness: float = 1.0,
    inverse_temperature: float = 1.0,
) -> Estimate:
    r"""``log int exp(-b f(x) - g/2 |x - x*|^2) dx`` for ``f(x) = 1/2 (x - x*)^T H (x - x*)``.

    ``n/2 log(2 pi / g) - 1/2 log det(I + b H / g)``. Larger is flatter.

    Args:
        density: spectral density of the Hessian H of the mean cost.
        stiffness: g of the window, 1 / squared unit of the parameters.
        inverse_temperature: b; the number of samples for the cost summed over them.

    Returns:
        The estimate, nats.

    Raises:
        UserError: if a setting is not positive, or the integral does not exist because H has an eigenvalue below
            -g / b.

    Reference:
        Chaudhari et al., Entropy-SGD, 2017.

    >>> import numpy as np
    >>> flat = SpectralDensity.from_eigenvalues(np.array([0.0, 3.0]))
    >>> round(local_entropy(flat).value - math.log(2.0 * math.pi), 6) == round(-0.5 * math.log(1.0 + 3.0), 6)
    True
    """
    positive(stiffness=stiffness, inverse_temperature=inverse_temperature)
    shift = stiffness / inverse_temperature
    window = 0.5 * density.size * math.log(2.0 * math.pi / stiffness)
    return density.logdet(shift, relative=True).transform(lambda x: window - 0.5 * x, lambda _: -0.5)
