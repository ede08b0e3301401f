"""What decides the numbers of a calibration, and its axes as they are typed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from comparisons.words import SAMPLERS
from spectra.errors import UserError, require_counts

# Step sizes of cells where none are given, as shares of each cell's limit: from a slow burn-in to a visible bias, and
# where steps are accepted or rejected, from nearly all accepted to a third.
STEP_SHARES, ACCEPTED_SHARES = (0.01, 0.02, 0.04, 0.08, 0.16), (0.05, 0.1, 0.2, 0.4, 0.8)
# Rows of a minibatch where no number is given.
BATCH_SIZE = 64
# Values of the two other axes where none are given.
USUAL_VALUES = 3
# What --penalty takes beside a number.
PENALTIES = ("auto", "none")


@dataclass(frozen=True)
class SweepSettings:
    """Everything that decides the numbers of a calibration, apart from the landscape.

    Attributes:
        step_sizes: e, ascending; empty for shares of the limit that the spectrum sets in each cell.
        inverse_temperatures: nb, ascending; empty for half of, once and twice ``n / log n`` of n samples.
        localisations: g, ascending; empty for three values that the spectrum sets.
        calls: independent calls of each cell, whose spread is the error.
        chains: chains of each call.
        steps: steps of each chain, of which at most half are burn-in.
        batch_size: rows of a minibatch; None for all rows, and so the exact gradient. ``mala`` takes all rows.
        checks: steps at which the Metropolis acceptance probability is computed, two full gradients a chain each; not
            of ``mala``, which has it at each step.
        sampler: ``sgld``; ``rmsprop``, whose steps are shorter in directions of large gradients, by factors that short
            plain chains fix beforehand; or ``mala``, which accepts or rejects each step.
        penalty: l2 of the cost that is sampled: a number as text, ``none`` for the task's own cost, ``auto`` to add a
            penalty where the checkpoint is a minimum with it alone.
        tolerance: share by which estimates of one plateau may differ.
        probes: of the spectrum.
        lanczos_steps: of the spectrum, a probe.
        seed: the one seed that all randomness comes from.
    """

    step_sizes: tuple[float, ...] = ()
    inverse_temperatures: tuple[float, ...] = ()
    localisations: tuple[float, ...] = ()
    calls: int = 4
    chains: int = 2
    steps: int = 1500
    batch_size: int | None = BATCH_SIZE
    checks: int = 2
    sampler: str = "sgld"
    penalty: str = "auto"
    tolerance: float = 0.15
    probes: int = 6
    lanczos_steps: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"calls": 1, "chains": 1, "steps": 8, "checks": 0, "probes": 1, "lanczos_steps": 1, "seed": 0}
        require_counts(self, least)
        if self.batch_size is not None:
            require_counts(self, {"batch_size": 1})
        for name in ("step_sizes", "inverse_temperatures", "localisations"):
            _check_axis(name, getattr(self, name))
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r}")
        if self.sampler == "mala":
            if self.batch_size not in (None, BATCH_SIZE):
                raise UserError(
                    f"batch_size must be left out with sampler mala, which takes all rows, got {self.batch_size}"
                )
            object.__setattr__(self, "batch_size", None)
        if not 0.0 < self.tolerance < 1.0:
            raise UserError(f"tolerance must lie between 0 and 1, got {self.tolerance:g}")
        if self.penalty not in PENALTIES:
            penalty_of(self.penalty)

    @property
    def step_shares(self) -> tuple[float, ...]:
        """Step sizes where none are given, as shares of each cell's limit."""
        return ACCEPTED_SHARES if self.sampler == "mala" else STEP_SHARES

    @property
    def members(self) -> int:
        """Chains of a cell, over all its calls."""
        return self.calls * self.chains

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of inverse temperatures, localisations and step sizes."""
        return (
            len(self.inverse_temperatures) or USUAL_VALUES,
            len(self.localisations) or USUAL_VALUES,
            len(self.step_sizes) or len(self.step_shares),
        )

    @property
    def longest_burn_in(self) -> int:
        """Steps that a chain has to forget its start in: half of all."""
        return self.steps // 2


def penalty_of(text: str) -> float:
    """The number that a penalty was given as.

    Raises:
        UserError: if it is none, or negative.

    >>> penalty_of("5e-4")
    0.0005
    """
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found >= 0.0):
        raise UserError(f"penalty must be {' or '.join(PENALTIES)}, or a number of at least 0; got {text!r}")
    return found


def axis(name: str, text: str) -> tuple[float, ...]:
    """The values of an axis as it is typed: ``A:B:N`` for N from A to B at equal ratios, or numbers apart by commas.

    Args:
        name: name of the option, for the message.
        text: what was typed.

    Returns:
        The values, ascending.

    Raises:
        UserError: if it is neither, or a value is not positive and finite, or given twice.

    >>> axis("--localisation", "1:100:3"), axis("--step-sizes", "1e-3,5e-4"), axis("--localisation", "7")
    ((1.0, 10.0, 100.0), (0.0005, 0.001), (7.0,))
    """
    words = f"{name} must be A:B:N, N values from A to B, or numbers separated by commas, got {text!r}"
    try:
        if ":" in text:
            first, last, count = text.split(":")
            low, high, many = float(first), float(last), int(count)
        else:
            listed = tuple(sorted(float(one) for one in text.split(",")))
    except ValueError:
        raise UserError(words) from None
    if ":" not in text:
        found = listed
    elif many >= 2 and 0.0 < low < high < math.inf:
        found = tuple(float(one) for one in np.geomspace(low, high, many))
    else:
        raise UserError(f"{words}: 0 < A < B and N of at least 2 are needed")
    _check_axis(name, found)
    return found


def _check_axis(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        if not 0.0 < value < math.inf:
            raise UserError(f"{name} must be positive and finite, got {value:g}")
    if any(second <= first for first, second in zip(values, values[1:], strict=False)):
        raise UserError(f"{name} must ascend and have no value twice, got {', '.join(f'{one:g}' for one in values)}")
