"""Of which cost the checkpoint is a minimum: the task's, or with the penalty that it was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from comparisons.calibration.axes import LARGEST_FALL, localisations, temperatures
from comparisons.calibration.ground import Ground
from comparisons.calibration.outlook import Outlook, Slope, with_penalty
from comparisons.calibration.settings import PENALTIES, SweepSettings, penalty_of
from spectra.density import SpectralDensity
from spectra.landscape import Landscape
from volume.chunks import pieces, squared_lengths

# Entries of a checkpoint's metadata that say the coefficient of ``l2 / 2 |theta|^2``.
ENTRIES = ("l2", "weight_decay")
# A penalty is considered if it takes away this share of the squared gradient at least.
_EXPLAINED = 0.5


Measured = Callable[[Tensor], Slope]


def find_ground(
    landscape: Landscape,
    density: SpectralDensity,
    settings: SweepSettings,
    measured: Measured,
    *,
    metadata: Mapping[str, Any],
) -> tuple[Ground, Outlook]:
    """Decides which cost is sampled, from the gradient and the spectrum alone.

    Args:
        landscape: the task's cost.
        density: spectral density of its Hessian.
        settings: settings of the sweep.
        measured: gives a gradient (n,) as a measure on the eigenvalues of that Hessian.
        metadata: of the checkpoint.

    Returns:
        The ground, and what is predicted on it.
    """
    theta, slope = landscape.theta, landscape.gradient()
    warm = temperatures(settings, landscape.samples)

    def outlook(l2: float) -> tuple[Outlook, float, float]:
        """The outlook under a penalty, the norm of the gradient, and the most that it takes away on the grid."""
        more = l2 - landscape.l2
        moved = torch.add(slope, theta, alpha=more) if more else slope
        found = measured(moved)
        here = Outlook(with_penalty(density, more), Slope(found.nodes + more, found.masses))
        pull = localisations(settings, warm, here, of_a_minimum=True)
        lowered = max(here.at(float(nb), float(g)).lowered for nb in warm for g in pull)
        return here, math.sqrt(float(squared_lengths(moved.unsqueeze(0)))), lowered

    plain, norm, lowered = outlook(landscape.l2)
    own = Ground(landscape.l2, "task", norm, norm, lowered, lowered)
    if settings.penalty not in PENALTIES:
        l2 = penalty_of(settings.penalty)
        here, left, less = outlook(l2)
        return Ground(l2, "given", norm, left, less, lowered), here
    if settings.penalty == "none" or own.stationary or landscape.l2:
        return own, plain
    for source, l2 in _candidates(theta, slope, metadata):
        here, left, less = outlook(l2)
        if less <= LARGEST_FALL:
            return Ground(l2, source, norm, left, less, lowered), here
    return own, plain


def _candidates(theta: Tensor, slope: Tensor, metadata: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Penalties that take most of the gradient away, each with where it is from."""
    square, along, steep = _inner(theta, theta), _inner(slope, theta), _inner(slope, slope)
    if square == 0.0:
        return []
    named = [metadata.get(entry) for entry in ENTRIES]
    known = [float(one) for one in named if isinstance(one, int | float) and not isinstance(one, bool)]
    found = [("metadata", one) for one in known if math.isfinite(one)]
    found.append(("fitted", -along / square))
    left = (1.0 - _EXPLAINED) * steep
    return [(source, l2) for source, l2 in found if l2 > 0.0 and steep + 2.0 * l2 * along + l2**2 * square <= left]


def _inner(one: Tensor, other: Tensor) -> float:
    """The inner product of two vectors, summed in float64 without a copy of them."""
    return float(sum((one[part].double() @ other[part].double() for part in pieces(len(one))), start=torch.zeros(())))
