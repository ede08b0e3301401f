"""Views of a spectral density: smoothed on a grid, and cumulative, each with a band over probes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spectra.density.measure import Array, SpectralMeasure
from spectra.errors import UserError
from spectra.words import SCALES

# The grid reaches this many widths beyond the support; erfc(6 / sqrt 2) = 2e-9 of a node's mass is cut.
REACH = 6
# With h = width / 4 the trapezoidal sum of a Gaussian errs by 2 exp(-2 pi^2 4^2), below rounding.
POINTS_PER_WIDTH = 4
# Default width: what one sees as one feature when the whole support fills a figure.
WIDTHS_PER_SPAN = 60
MOST_POINTS = 2**20
# So many resolutions at zero make the linear part of a symlog axis: the quadrature's nodes there, a
# resolution apart, then lie within two default widths of each other and hardly show as peaks.
RESOLUTIONS = 4.0


@dataclass(frozen=True)
class SmoothedDensity:
    """Fraction of eigenvalues per unit of a coordinate, convolved with a Gaussian.

    Attributes:
        eigenvalues: (points,) ascending grid, unit of the eigenvalues.
        coordinate: (points,) the grid in the coordinate of ``scale``, evenly spaced: the eigenvalue itself
            (``linear``), or ``asinh(eigenvalue / linear_scale)``, dimensionless (``symlog``).
        values: (points,) mean over probes of the density, per unit of the coordinate; integrates to one.
        standard_error: (points,) standard error of ``values`` over probes; 0 where the density is exact,
            inf where one probe leaves nothing to compare with, or none is drawn yet: then the values are those of the
            deflated part alone, and integrate to its share.
        width: standard deviation of the kernel, unit of the coordinate.
        scale: ``linear`` or ``symlog``.
        linear_scale: eigenvalue up to which the symlog coordinate is nearly linear; nan if ``linear``.
    """

    eigenvalues: Array
    coordinate: Array
    values: Array
    standard_error: Array
    width: float
    scale: str
    linear_scale: float

    @property
    def mass(self) -> float:
        """Integral over the grid: one, up to what is cut beyond six widths."""
        return float(np.trapezoid(self.values, self.coordinate))


@dataclass(frozen=True)
class CumulativeDensity:
    """Fraction of eigenvalues at or below each node.

    Attributes:
        nodes: (k,) ascending and distinct, unit of the eigenvalues.
        fraction: (k,) mean over probes, ending at one; before the first probe that of the deflated part alone.
        standard_error: (k,) standard error over probes; 0 where exact, inf with one probe or none.
    """

    nodes: Array
    fraction: Array
    standard_error: Array


def smooth(
    density: SpectralMeasure,
    width: float | None = None,
    *,
    scale: str = "symlog",
    linear_scale: float | None = None,
    limits: tuple[float, float] | None = None,
) -> SmoothedDensity:
    r"""Convolve a density with a Gaussian on a grid that covers the support and six widths beyond.

    ``rho(s) = 1/n sum_j mass_j N(s; s_j, width^2)``, ``s_j`` the coordinate of node j. On the symlog grid
    kernel and density live in ``s = asinh(x / linear_scale)``, so no mass is thrown far across zero, and the
    density is stated per unit of s.

    Args:
        density: what to smooth.
        width: standard deviation of the kernel, unit of the coordinate; default a sixtieth of the
            support's span.
        scale: ``linear`` or ``symlog``.
        linear_scale: for ``symlog``, unit of the eigenvalues; default the larger of four times the
            density's resolution at zero and 1e-4 of the largest eigenvalue by magnitude.
        limits: eigenvalues that the grid covers too, so that densities can be compared on one grid.

    Returns:
        The smoothed density.

    Raises:
        UserError: if ``scale`` is unknown, or ``width`` or ``linear_scale`` is not positive, or the width is
            so small that the grid would pass a million points.

    >>> import numpy as np
    >>> from spectra.density.density import SpectralDensity
    >>> view = smooth(SpectralDensity.from_eigenvalues(np.array([0.0, 1.0])), 0.1, scale="linear")
    >>> round(view.mass, 6), round(float(view.values.max() * 0.1 * np.sqrt(2 * np.pi)), 3)
    (1.0, 0.5)
    """
    if scale not in SCALES:
        raise UserError(f"scale must be one of {', '.join(sorted(SCALES))}; got {scale!r}")
    linear = scale == "linear"
    turn = math.nan if linear else _linear_scale(density, linear_scale)
    lowest, highest = density.support
    if limits is not None:
        lowest, highest = min(lowest, limits[0]), max(highest, limits[1])
    low, high = (lowest, highest) if linear else (math.asinh(lowest / turn), math.asinh(highest / turn))
    width = _default_width(low, high) if width is None else _positive("width", width)
    coordinate = _grid(low, high, width)

    def kernels(nodes: Array, masses: Array) -> Array:
        return _gaussians(nodes if linear else np.arcsinh(nodes / turn), masses, coordinate, width)

    known = kernels(density.deflation.nodes, density.deflation.weights) / density.size
    rows = [kernels(n, w) for n, w in zip(density.nodes, density.weights, strict=True)]
    share = density.complement / density.size
    values, error = _mean(known, share, np.array(rows).reshape(len(rows), len(coordinate)))
    eigenvalues = coordinate if linear else np.sinh(coordinate) * turn
    return SmoothedDensity(eigenvalues, coordinate, values, error, width, scale, turn)


def cumulative(density: SpectralMeasure) -> CumulativeDensity:
    """Fraction of eigenvalues at or below each node that carries weight.

    Returns:
        The cumulative density, with its standard error over probes.

    >>> import numpy as np
    >>> from spectra.density.density import SpectralDensity
    >>> cumulative(SpectralDensity.from_eigenvalues(np.array([3.0, 1.0, 1.0, 2.0]))).fraction
    array([0.5 , 0.75, 1.  ])
    """
    nodes = np.unique(density.measure()[0])
    known = _steps(density.deflation.nodes, density.deflation.weights, nodes) / density.size
    rows = [_steps(n, w, nodes) for n, w in zip(density.nodes, density.weights, strict=True)]
    share = density.complement / density.size
    fraction, error = _mean(known, share, np.array(rows).reshape(len(rows), len(nodes)))
    return CumulativeDensity(nodes, fraction, error)


def _mean(known: Array, share: float, rows: Array) -> tuple[Array, Array]:
    """The known part plus ``share`` of the mean of the probes' rows, and its standard error."""
    probes = len(rows)
    if probes == 0:
        return known, np.full_like(known, np.inf if share else 0.0)
    values = known + share * rows.mean(axis=0)
    if probes == 1:
        return values, np.full_like(values, np.inf if share else 0.0)
    return values, share * rows.std(axis=0, ddof=1) / math.sqrt(probes)


def _steps(nodes: Array, masses: Array, at: Array) -> Array:
    """Mass at or below each of the points ``at``."""
    order = np.argsort(nodes, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(masses[order])])
    found: Array = sums[np.searchsorted(nodes[order], at, side="right")]
    return found


def _gaussians(centres: Array, masses: Array, coordinate: Array, width: float) -> Array:
    """Sum of Gaussians of the given masses; each touches only the grid points within its reach."""
    used = masses > 0.0
    centres, masses = centres[used], masses[used]
    spacing = width / POINTS_PER_WIDTH
    window = np.arange(-REACH * POINTS_PER_WIDTH, REACH * POINTS_PER_WIDTH + 1)
    index = np.rint((centres - coordinate[0]) / spacing).astype(np.int64)[:, None] + window
    distance = (coordinate[index] - centres[:, None]) / width
    heights = masses[:, None] * np.exp(-0.5 * distance**2) / (width * math.sqrt(2.0 * math.pi))
    total = np.zeros_like(coordinate)
    np.add.at(total, index, heights)
    return total


def _grid(low: float, high: float, width: float) -> Array:
    spacing = width / POINTS_PER_WIDTH
    # One point more than the reach on either side, because a node lies up to half a cell off the grid.
    inside = math.ceil((high - low) / spacing)
    points = inside + 2 * (REACH * POINTS_PER_WIDTH + 1) + 1
    if points > MOST_POINTS:
        raise UserError(
            f"width must leave a grid of at most {MOST_POINTS} points, got {width:.3g} for a support of "
            f"{high - low:.3g}, which needs {points}"
        )
    first = low - spacing * (REACH * POINTS_PER_WIDTH + 1)
    coordinate: Array = first + spacing * np.arange(points, dtype=np.float64)
    return coordinate


def _default_width(low: float, high: float) -> float:
    scale = max(abs(low), abs(high))
    if high - low > 1e-6 * scale:
        return (high - low) / WIDTHS_PER_SPAN
    return scale / WIDTHS_PER_SPAN or 1.0


def _linear_scale(density: SpectralMeasure, asked: float | None) -> float:
    if asked is not None:
        return _positive("linear_scale", asked)
    largest = max(abs(end) for end in density.support)
    if density.unsampled:
        return 1e-4 * largest or 1.0
    return max(1e-4 * largest, min(RESOLUTIONS * density.resolution(0.0), largest)) or 1.0


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0.0):
        raise UserError(f"{name} must be positive and finite, got {value}")
    return value
