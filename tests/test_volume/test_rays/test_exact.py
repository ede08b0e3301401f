"""Closed forms against brute-force Monte Carlo in few dimensions, and against mpmath in the tails."""

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from volume.priors import log_radial_integral, log_sphere_surface
from volume.rays import closed_forms as exact

DRAWS = 200_000


def agrees(log_fraction: float, hits: np.ndarray) -> bool:
    """Within 5 standard errors (p < 1e-6)."""
    share = hits.mean()
    return abs(math.exp(log_fraction) - share) < 5 * math.sqrt(share * (1 - share) / len(hits))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_volumes_by_hits_in_a_box(size: int) -> None:
    random = np.random.default_rng(size)
    scales = random.uniform(0.3, 1.0, size)
    x = random.uniform(-1.0, 1.0, (DRAWS, size))
    whole = size * math.log(2.0)
    assert agrees(exact.log_ball(0.9, size) - whole, (x**2).sum(1) < 0.81)
    eigenvalues = 1.2 / scales**2
    assert agrees(exact.log_ellipsoid(eigenvalues, 0.6) - whole, (x**2 * eigenvalues).sum(1) < 1.2)
    for power in (0.5, 1.0, 3.0):
        inside = (np.abs(x / scales) ** power).sum(1) < 0.8
        assert agrees(exact.log_power_ball(power, 0.8, scales) - whole, inside)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_gaussian_masses_by_draws(size: int) -> None:
    random = np.random.default_rng(size)
    anchor = random.normal(size=size)
    theta = random.normal(size=(DRAWS, size))
    ball = exact.log_gaussian_ball(1.5, size, 0.8, float(np.linalg.norm(anchor)))
    assert agrees(ball, ((0.8 * theta - anchor) ** 2).sum(1) < 2.25)
    assert agrees(exact.log_gaussian_ball(1.5, size, 0.8), ((0.8 * theta) ** 2).sum(1) < 2.25)


def test_known_members_of_the_families() -> None:
    assert exact.log_power_ball(2.0, 1.44, np.ones(7)) == pytest.approx(exact.log_ball(1.2, 7))
    assert exact.log_power_ball(2.0, 1.0, np.sqrt(2 / np.array([1.0, 3.0]))) == pytest.approx(
        exact.log_ellipsoid([1.0, 3.0], 1.0)
    )
    assert exact.log_power_ball(1e9, 1.0, [2.0, 3.0]) == pytest.approx(math.log(4.0 * 6.0))


@pytest.mark.parametrize("size", [1, 3, 10, 1000, 1_000_000])
@pytest.mark.parametrize("log_probability", [-1e5, -1e3, -2.0])
def test_central_ball_is_the_radial_integral(size: int, log_probability: float) -> None:
    """Two routes: a series here, Gauss-Legendre there."""
    radius = math.sqrt(size) * min(math.exp(log_probability / size), 0.95)
    if radius < 1e-100:
        return
    surface = log_sphere_surface(size) - size / 2 * math.log(2 * math.pi)
    expected = surface + float(log_radial_integral(radius, size, quadratic=1.0)[0])
    assert exact.log_gaussian_ball(radius, size, 1.0) == pytest.approx(expected, rel=1e-9, abs=4e-15 * size)
    assert exact.log_gaussian_ball(3.0 * radius, size, 3.0) == pytest.approx(expected, rel=1e-9, abs=4e-15 * size)


@pytest.mark.parametrize("size, square", [(1, 2.0), (3, 50.0), (10, 1e-3), (40, 120.0), (1000, 3000.0)])
def test_non_central_ball_against_scipy(size: int, square: float) -> None:
    """Where scipy's own double precision suffices: from 1e-12 up."""
    for probability in (1e-12, 1e-6, 0.01, 0.5, 0.99):
        x = stats.ncx2.ppf(probability, size, square)
        found = exact.log_gaussian_ball(math.sqrt(x), size, 1.0, math.sqrt(square))
        assert found == pytest.approx(stats.ncx2.logcdf(x, size, square), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("size, square, x", [(3, 4.0, 1e-20), (10, 200.0, 8.0), (50, 1000.0, 30.0)])
def test_non_central_tail_against_mpmath(size: int, square: float, x: float) -> None:
    """In 40 digits, the density's Bessel form integrated."""
    with mpmath.workdps(40):

        def density(y: mpmath.mpf) -> mpmath.mpf:
            order = mpmath.mpf(size) / 2 - 1
            return (
                (y / square) ** (order / 2)
                * mpmath.exp(-(y + square) / 2)
                * mpmath.besseli(order, mpmath.sqrt(square * y))
                / 2
            )

        expected = float(mpmath.log(mpmath.quad(density, [0, *(x * k / 20 for k in range(1, 21))])))
    assert exact.log_gaussian_ball(math.sqrt(x), size, 1.0, math.sqrt(square)) == pytest.approx(expected, rel=1e-10)
