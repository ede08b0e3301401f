"""The grid of a calibration: what was asked for, and what the spectrum puts in place of what was not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparisons.calibration.outlook import Outlook
from comparisons.calibration.settings import USUAL_VALUES, SweepSettings
from comparisons.langevin import RELAXATIONS
from spectra.errors import UserError

Array = NDArray[np.float64]
# Share of the value that the slope at the checkpoint may take away: more, and it is no minimum for these settings.
LARGEST_FALL = 0.1
# Share of its limit at which the smallest step of a usual plateau of three lies.
_SLOW_SHARE = 0.02
# Ratio of the last localisation to the first, and of neighbouring temperatures, where none are given.
_REACH, _COOLER = 16.0, 2.0
# The largest localisation that is tried, and the ratio from one to the next.
_LARGEST, _RATIO = 1e12, 10.0**0.125


@dataclass(frozen=True, eq=False)
class Axes:
    """The settings of all cells.

    Attributes:
        inverse_temperatures: (t,) nb, ascending.
        localisations: (l,) g, ascending.
        step_sizes: (t, l, s) e, ascending along the last axis.
        shares: (s,) shares of each cell's limit that the step sizes are; empty where they were given.
    """

    inverse_temperatures: Array
    localisations: Array
    step_sizes: Array
    shares: Array

    @property
    def places(self) -> Iterator[tuple[int, int, int]]:
        """All places of the grid: of the inverse temperature, the localisation and the step size."""
        yield from np.ndindex(*self.step_sizes.shape)

    def at(self, place: tuple[int, int, int]) -> tuple[float, float, float]:
        """Inverse temperature, localisation and step size of a place."""
        warm, pull, _ = place
        return (
            float(self.inverse_temperatures[warm]),
            float(self.localisations[pull]),
            float(self.step_sizes[place]),
        )


def usual_temperature(samples: float) -> float:
    """``n / log n`` of n samples.

    Raises:
        UserError: if there are too few of them.
    """
    if samples <= 2.0:
        raise UserError(
            f"the inverse temperature n / log n needs more than two samples, got {samples:g}: give "
            "--inverse-temperature"
        )
    return samples / math.log(samples)


def temperatures(settings: SweepSettings, samples: float) -> Array:
    """The inverse temperatures asked for, else the usual one with one below and one above."""
    if settings.inverse_temperatures:
        return np.array(settings.inverse_temperatures)
    usual = usual_temperature(samples)
    return np.array([usual / _COOLER, usual, usual * _COOLER])


def localisations(settings: SweepSettings, warm: Array, outlook: Outlook, *, of_a_minimum: bool = False) -> Array:
    """The localisations asked for, else three from the least at which chains of each temperature are sound.

    Args:
        settings: settings of the sweep.
        warm: (t,) inverse temperatures.
        outlook: what the spectrum says.
        of_a_minimum: whether the slope at the checkpoint is left out.

    Returns:
        (l,) g, ascending; infinite where no localisation will do.
    """
    if settings.localisations:
        return np.array(settings.localisations)
    low = max(_least_for_burn_in(settings, nb, outlook) for nb in warm)
    if not of_a_minimum:
        low = least_localisation(outlook, warm, low)
    if math.isinf(low):
        return np.full(USUAL_VALUES, math.inf)
    return np.array([_rounded(one) for one in np.geomspace(low, _REACH * low, USUAL_VALUES)])


def axes_of(settings: SweepSettings, warm: Array, pull: Array, outlook: Outlook) -> Axes:
    """The grid of these temperatures and localisations."""
    shares = np.empty(0) if settings.step_sizes else np.array(settings.step_shares)
    if settings.step_sizes:
        steps = np.broadcast_to(np.array(settings.step_sizes), (len(warm), len(pull), len(settings.step_sizes)))
    else:
        steps = np.stack([outlook.limits(nb, pull)[:, None] * shares for nb in warm])
    return Axes(warm, pull, np.array(steps), shares)


def least_localisation(outlook: Outlook, temperatures: Iterable[float], at_least: float) -> float:
    """The least g at which the quadratic is bound and the slope takes no more than a tenth of any value; else inf.

    Args:
        outlook: what the spectrum says.
        temperatures: inverse temperatures at which that has to hold.
        at_least: where the search begins.
    """
    warm, pull = [float(nb) for nb in temperatures], at_least
    while pull < _LARGEST:
        if all(outlook.at(nb, pull).lowered <= LARGEST_FALL for nb in warm):
            return pull
        pull *= _RATIO
    return math.inf


def _least_for_burn_in(settings: SweepSettings, inverse_temperature: float, outlook: Outlook) -> float:
    """The least g at which half of a chain's steps forget its start, at ``_SLOW_SHARE`` of the limit.

    It solves ``RELAXATIONS 2 / (e a_min) = steps / 2`` with ``e = share 4 / a_max``.
    """
    low, high = (inverse_temperature * end for end in outlook.ends)
    half, needed = float(settings.longest_burn_in), RELAXATIONS / (2.0 * _SLOW_SHARE)
    pull = (needed * max(high, 0.0) - half * min(low, 0.0)) / max(half - needed, 0.1 * half)
    # Bound negative curvature is amplified by no more than two.
    return float(max(pull, -2.0 * low, 1e-6))


def _rounded(value: float) -> float:
    """Upwards to two figures."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
