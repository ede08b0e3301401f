"""Radial integrals against incomplete gamma functions, closed forms and mpmath."""

import math

import mpmath
import numpy as np
import pytest
from scipy.special import gammainc, gammaln

from volume.priors import log_ball_volume, log_radial_integral, log_radial_slope, log_sphere_surface

SIZES = (1, 2, 3, 10, 1_000, 100_000, 1_000_000_000)
each_size = pytest.mark.parametrize("size", SIZES)


def close(found: float, expected: float, size: int) -> bool:
    """1e-10 relative, with a floor of a few roundings of n where the logarithm passes zero."""
    return abs(found - expected) <= 1e-10 * abs(expected) + max(1e-11, 4e-15 * size)


@each_size
@pytest.mark.parametrize("share", [0.5, 0.98, 1.0, 1.02, 2.0, math.inf])
def test_incomplete_gamma(size: int, share: float) -> None:
    """``int_0^R exp(-c r^2/2) r^(n-1) dr = 2^(n/2-1) Gamma(n/2) c^(-n/2) P(n/2, c R^2/2)``, around its peak."""
    for c in (1e-6, 0.7, 3e8):
        radius = share * math.sqrt(size / c)
        fraction = float(gammainc(size / 2, c * radius**2 / 2)) if math.isfinite(share) else 1.0
        if fraction < 1e-290:
            continue
        whole = (size / 2 - 1) * math.log(2) + float(gammaln(size / 2)) - size / 2 * math.log(c)
        found = float(log_radial_integral(radius, size, quadratic=c)[0])
        # gammainc itself is good to some 1e-11 in the tail at n = 1e9 only through its relative argument.
        assert close(found, whole + math.log(fraction), size)


def by_mpmath(radius: float, size: int, b: float, c: float) -> float:
    """The same integral in 40 digits, in the variable log r, around its maximum."""
    with mpmath.workdps(40):
        b_, c_, n_ = mpmath.mpf(b), mpmath.mpf(c), mpmath.mpf(size)

        def log_integrand(t: mpmath.mpf) -> mpmath.mpf:
            return n_ * t - b_ * mpmath.exp(t) - c_ * mpmath.exp(2 * t) / 2

        top = (-b_ + mpmath.sqrt(b_**2 + 4 * c_ * n_)) / (2 * c_) if c else (n_ / b_ if b > 0 else mpmath.inf)
        end = mpmath.inf if math.isinf(radius) else mpmath.log(radius)
        peak = min(mpmath.log(top), end) if top < mpmath.inf else end
        slope = n_ - b_ * mpmath.exp(peak) - c_ * mpmath.exp(2 * peak)
        bend = abs(b_ * mpmath.exp(peak) + 2 * c_ * mpmath.exp(2 * peak)) + mpmath.mpf(1) / 4
        scale = 1 / (abs(slope) + mpmath.sqrt(bend))
        at = log_integrand(peak)
        marks = [peak + k * scale for k in range(-160, 61, 10) if peak + k * scale < end]
        marks.append(min(end, peak + 60 * scale))
        return float(at + mpmath.log(mpmath.quad(lambda t: mpmath.exp(log_integrand(t) - at), marks)))


@each_size
@pytest.mark.parametrize("pull", [-3.0, -0.1, 0.1, 3.0])
@pytest.mark.parametrize("share", [0.9, 1.001, math.inf])
def test_displaced_anchor(size: int, pull: float, share: float) -> None:
    """b of either sign and of the order of ``sqrt(c n)``: the anchor is as far from the origin as the prior's mass."""
    c = 1.6
    b = pull * math.sqrt(c * size)
    typical = (-b + math.sqrt(b * b + 4 * c * size)) / (2 * c)
    radius = share * typical
    assert close(
        float(log_radial_integral(radius, size, linear=b, quadratic=c)[0]), by_mpmath(radius, size, b, c), size
    )


@pytest.mark.parametrize("size", [1, 2, 10, 1_000, 1_000_000_000])
def test_no_curvature(size: int) -> None:
    """c = 0: ``R^n / n`` and ``Gamma(n) / b^n``, and a rising exponential cut at R."""
    assert close(float(log_radial_integral(0.3, size)[0]), size * math.log(0.3) - math.log(size), size)
    expected = float(gammaln(size)) - size * math.log(2.5)
    assert close(float(log_radial_integral(math.inf, size, linear=2.5)[0]), expected, size)
    assert close(float(log_radial_integral(2.0, size, linear=-40.0)[0]), by_mpmath(2.0, size, -40.0, 0.0), size)


def test_one_dimension() -> None:
    exact = math.log(math.sqrt(2 * math.pi) / 2)
    assert float(log_radial_integral(math.inf, 1, quadratic=1.0)[0]) == pytest.approx(exact, rel=1e-12)
    assert float(log_radial_integral(3.0, 1, linear=1e-9)[0]) == pytest.approx(math.log(3.0), rel=1e-8)
    steep = float(log_radial_integral(1e3, 1, linear=1e6, quadratic=2.0)[0])
    assert steep == pytest.approx(-math.log(1e6), rel=1e-11)
    assert float(log_radial_integral(5.0, 1)[0]) == pytest.approx(math.log(5.0), rel=1e-13)


def test_vectors_share_one_call() -> None:
    radius, linear = np.array([0.5, 0.0, 2.0, math.inf]), np.array([-1.0, 0.0, 1.0, 0.0])
    found = log_radial_integral(radius, 4, constant=np.arange(4.0), linear=linear)
    assert found[1] == -math.inf
    assert found[3] == math.inf
    alone = log_radial_integral(2.0, 4, linear=1.0)[0] + 2.0
    assert found[2] == pytest.approx(alone, rel=1e-12)
    many = log_radial_integral(np.linspace(0.1, 3.0, 5000), 1000, quadratic=300.0)
    assert np.all(np.diff(many) >= 0.0)


@each_size
def test_slope_is_the_derivative(size: int) -> None:
    step = 1e-3 / size
    options = {"linear": 0.2 * math.sqrt(size), "quadratic": 1.0}
    radius = 0.9 * math.sqrt(size)
    slope = float(log_radial_slope(radius, size, **options)[0])
    if size <= 100_000:
        ends = log_radial_integral(radius * np.exp([-step, step]), size, **options)
        assert slope == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-4)
    assert 0.0 <= slope <= size * (1 + 1e-6)


def test_spheres() -> None:
    assert log_ball_volume(2) == pytest.approx(math.log(math.pi))
    assert log_ball_volume(1) == pytest.approx(math.log(2.0))
    assert log_sphere_surface(2) == pytest.approx(math.log(2 * math.pi))
    for size in SIZES:
        assert log_sphere_surface(size) - math.log(size) == pytest.approx(log_ball_volume(size), rel=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="radius must not be negative, got nan"):
        log_radial_integral(math.nan, 3)
    with pytest.raises(ValueError, match="quadratic must not be negative, got -1"):
        log_radial_integral(1.0, 3, quadratic=-1.0)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        log_radial_integral(1.0, 0)
    with pytest.raises(ValueError, match="must be finite"):
        log_radial_integral(1.0, 3, linear=math.inf)
