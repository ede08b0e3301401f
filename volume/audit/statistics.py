"""What repeats of an estimator say of its error: bias, spread, coverage, and what more directions would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri

from spectra.interval import half_width, joint_freedom
from volume.audit.reading import Truth

Array = NDArray[np.float64]
# Markov's inequality is held against overestimates by these factors.
FACTORS = (2.0, 10.0)
# An estimator is near enough when its rms error is this, nats.
NEAR = 1.0


@dataclass(frozen=True)
class Figure:
    """A number with its standard error over repeats; nan where there is none.

    Attributes:
        value: the number.
        error: its standard error.
        freedom: degrees of freedom of that error.
    """

    value: float
    error: float
    freedom: float = math.inf

    @property
    def half_width(self) -> float:
        """Half of its 95 % interval."""
        return half_width(self.error, self.freedom)


@dataclass(frozen=True)
class Share:
    """A share of the repeats, with its 95 % Wilson interval.

    Attributes:
        hits: how many.
        of: number of repeats.
    """

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share; nan of none."""
        return self.hits / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The interval.

        Reference:
            Wilson, Probable inference, the law of succession, and statistical inference, 1927.

        >>> [round(end, 3) for end in Share(19, 20).interval]
        [0.764, 0.991]
        """
        if not self.of:
            return 0.0, 1.0
        share, of, z = self.value, self.of, float(ndtri(0.975))
        centre = (2.0 * of * share + z**2) / (2.0 * (of + z**2))
        half = z / (2.0 * (of + z**2)) * math.sqrt(4.0 * of * share * (1.0 - share) + z**2)
        return (centre - half if self.hits else 0.0), (centre + half if self.hits < of else 1.0)

    def excludes(self, claimed: float) -> bool:
        """Whether the interval lies above a share claimed to be the largest."""
        return self.of > 0 and self.interval[0] > claimed


def mean_of(values: Array) -> Figure:
    """The mean of repeats (r,) and its standard error.

    >>> mean_of(np.array([1.0, 3.0]))
    Figure(value=2.0, error=1.0, freedom=1)
    """
    count = len(values)
    if count == 0:
        return Figure(math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Figure(float(np.mean(values)), error, count - 1)


def bias_of(values: Array, truth: Truth) -> Figure:
    """The mean of repeats (r,) less the truth, whose own error is part of the error."""
    mean = mean_of(values)
    freedom = joint_freedom([(mean.error, mean.freedom), (truth.error, truth.freedom)])
    return Figure(mean.value - truth.value, math.hypot(mean.error, truth.error), freedom)


def spread_of(values: Array) -> Figure:
    """The standard deviation of repeats (r,); its error from the fourth moment, so that heavy tails show."""
    count = len(values)
    if count < 2:
        return Figure(math.nan, math.nan)
    gap = values - values.mean()
    square = float((gap**2).sum() / (count - 1))
    if square == 0.0:
        return Figure(0.0, 0.0)
    fourth = max(float((gap**4).mean()) - square**2, 0.0)
    return Figure(math.sqrt(square), math.sqrt(fourth / (4.0 * square * count)), count - 1)


def rms_of(values: Array, truth: float) -> Figure:
    """The root mean square error of repeats (r,), its own error by the delta method.

    >>> rms_of(np.array([3.0, -3.0]), 0.0)
    Figure(value=3.0, error=0.0, freedom=1)
    """
    squares = mean_of((values - truth) ** 2)
    root = math.sqrt(squares.value) if squares.value >= 0.0 else math.nan
    return Figure(root, 0.5 * squares.error / root if root > 0.0 else squares.error, squares.freedom)


def overestimates(values: Array, truth: float) -> tuple[Share, ...]:
    """How often logarithms (r,) exceed the truth by each of ``FACTORS``; Markov allows ``1 / factor``."""
    return tuple(Share(int((values - truth >= math.log(k)).sum()), len(values)) for k in FACTORS)


def error_by_directions(terms: Sequence[Array], truth: float) -> tuple[NDArray[np.int64], Array, Array]:
    """Numbers of directions 1, 2, 4, ..., and mean and rms error of the estimates from the first so many, nats.

    The terms are of equal length, one array a repeat; infinite estimates count as such.
    """
    rows = np.stack(terms)
    most = rows.shape[1]
    counts = sorted({*(2**j for j in range(most.bit_length()) if 2**j <= most), most})
    with np.errstate(invalid="ignore"):
        found = [logsumexp(rows[:, :count], axis=1) - math.log(count) - truth for count in counts]
        means = np.array([float(np.mean(errors)) for errors in found])
        roots = np.array([math.sqrt(float(np.mean(errors**2))) for errors in found])
    return np.array(counts, dtype=np.int64), means, roots


@dataclass(frozen=True)
class Directions:
    """How many directions bring the rms error to one nat.

    Attributes:
        log10: logarithm to the base of ten of their number; nan if nothing can be said.
        extrapolated: whether it lies beyond what was drawn.
    """

    log10: float
    extrapolated: bool

    def __str__(self) -> str:
        if math.isnan(self.log10):
            return "–"
        if not self.extrapolated:
            return f"{10.0**self.log10:.0f}"
        return f"~{10.0**self.log10:.0f}" if self.log10 < 4.0 else f"~1e{self.log10:.0f}"


def directions_needed(counts: NDArray[np.int64], roots: Array) -> Directions:
    r"""Directions to come within one nat: the first number that did, or an extrapolation that is labelled so.

    If the log terms are normal with variance v, the mean of m of them is off by ``-(sqrt(v/2) - sqrt(log m))^2`` while
    one term carries it (the random energy model's frozen phase, Derrida 1981): the root of the error falls with
    ``sqrt(log m)`` at slope one. So an error of e at m directions is one nat at
    ``log m' = (sqrt(log m) + sqrt(e) - 1)^2``. With the rms error for e that is low by a factor of 4 at v = 16, from 64
    directions: where e falls below a few nats it flattens. Read it as an order of magnitude.

    Reference:
        Derrida, Random-energy model: an exactly solvable model of disordered systems, 1981.

    >>> str(directions_needed(np.array([1, 2, 4]), np.array([9.0, 8.0, 7.0])))
    '~2894'
    """
    if len(counts) == 0 or not np.all(np.isfinite(roots)):
        return Directions(math.nan, False)
    near = np.flatnonzero(roots <= NEAR)
    if len(near):
        return Directions(math.log10(float(counts[near[0]])), False)
    root = math.sqrt(math.log(float(counts[-1]))) + math.sqrt(float(roots[-1])) - math.sqrt(NEAR)
    return Directions(root**2 / math.log(10.0), True)
