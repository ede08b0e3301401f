"""The distribution of quadratic forms: chi-square at any depth, numerical inversion, Monte Carlo."""

import math

import numpy as np
import pytest

from volume.quadratic import QuadraticForm, log_distribution
from volume.rays import closed_forms as exact

# Largest error of log P seen on chi-square variables, central or not, by degrees of freedom; documented in the source.
ACCURACY = {1: 0.08, 2: 0.026, 3: 0.013, 5: 0.005, 10: 1.3e-3, 100: 2e-5, 1000: 1e-5, 1_000_000: 1e-4}
each_size = pytest.mark.parametrize("size", ACCURACY)
NONE = np.empty(0)


def chi_square(size: int, square: float, value: float = 1.0) -> QuadraticForm:
    """All eigenvalues equal to ``value``, the mean ``square`` squared deviations away."""
    return QuadraticForm(np.array([value]), np.array([float(size)]), np.array([value]), np.array([square]))


def reference(size: int, square: float, cutoffs: np.ndarray) -> np.ndarray:
    return np.array([exact.log_gaussian_ball(math.sqrt(2 * T), size, 1.0, math.sqrt(square)) for T in cutoffs])


@each_size
@pytest.mark.parametrize("share", [0.0, 0.3, 3.0, 30.0])
def test_chi_square_at_any_depth(size: int, share: float) -> None:
    """From log P near 0 down to -1e5: within the documented accuracy, 0.05 nat at the very least from n = 10 on."""
    square = share * size
    mean = (size + square) / 2
    depths = np.array([-1e5, -1e4, -1e3, -100.0, -10.0, -3.0])
    falls = 1.2 * np.maximum(-2 * depths / size, np.sqrt(-4 * depths / size))
    cutoffs = mean * np.exp(-np.minimum(falls, 300.0))
    spread = math.sqrt(size / 2 + square)
    around = mean + spread * np.array([-3.0, -1.0, -0.1, -1e-3, 0.0, 1e-3, 0.1, 1.0, 3.0])
    cutoffs = np.unique(np.concatenate([cutoffs, around[around > 0.0]]))
    found, expected = log_distribution(chi_square(size, square), cutoffs), reference(size, square, cutoffs)
    if size >= 1000:
        assert expected.min() < -1e5
    error = np.abs(found.log_probability - expected)
    assert error.max() <= ACCURACY[size]
    rounding_of_the_reference = 1e-6 + 1e-9 * np.abs(expected)
    assert np.all(error <= found.error + rounding_of_the_reference)
    assert np.all(np.diff(found.log_probability) > 0.0)


@pytest.mark.parametrize("size", [2, 40])
def test_scale_of_the_cost_does_not_matter(size: int) -> None:
    cutoffs = np.array([0.01, 1.0, 40.0])
    plain = log_distribution(chi_square(size, 5.0), cutoffs)
    for value in (1e-12, 1e12):
        scaled = log_distribution(chi_square(size, 5.0, value), value * cutoffs)
        np.testing.assert_allclose(scaled.log_probability, plain.log_probability, rtol=1e-10)
        np.testing.assert_allclose(scaled.saddle * value, plain.saddle, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("size, jump", [(3, 3e-4), (40, 3e-7), (1_000_000, 3e-7)])
def test_nothing_jumps_near_the_mean(size: int, jump: float) -> None:
    """Through w = 0, where both formulas are 0/0, and through both thresholds log P stays a smooth function."""
    form = chi_square(size, 0.7 * size)
    spread = math.sqrt(size / 2 + 0.7 * size)
    for width in (1e-2, 3e-3, 3e-5, 1e-7):
        steps = np.linspace(-1.0, 1.0, 41)
        values = log_distribution(form, form.mean + width * spread * steps).log_probability
        smooth = np.polynomial.Polynomial.fit(steps, values, 3)(steps)
        assert np.abs(values - smooth).max() < jump


def inverted(values: np.ndarray, offsets: np.ndarray, cutoff: float) -> float:
    """``Pr[1/2 sum l (z + m)^2 <= T]`` by Imhof's inversion of the characteristic function, Gauss-Legendre panels."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    end = 1.0 / values.max()
    while np.sum(0.25 * np.log1p((end * values) ** 2)) < 38.0:
        end *= 1.5
    # Dense enough near zero for the phase, geometric where the integrand only decays.
    marks = np.unique(np.concatenate([np.linspace(0, min(end, 200 / cutoff), 1500), np.linspace(0, end, 6000)]))
    low, width = marks[:-1, None], np.diff(marks)[:, None]
    t = low + width * (nodes + 1.0) / 2.0
    a = t[..., None] * values
    angle = 0.5 * np.sum(np.arctan(a) + offsets**2 * a / (1 + a**2), -1) - t * cutoff
    decay = np.sum(0.25 * np.log1p(a**2) + 0.5 * (offsets * a) ** 2 / (1 + a**2), -1)
    total = np.sum(np.sin(angle) * np.exp(-decay) / t * width / 2.0 * weights)
    return float(0.5 - total / math.pi)


@pytest.mark.parametrize("size, seed", [(10, 0), (20, 1), (50, 2)])
def test_spread_eigenvalues_against_numerical_inversion(size: int, seed: int) -> None:
    """Two decades of eigenvalues, a mean a deviation away; from P = 1e-8, where inversion in doubles ends, upwards."""
    random = np.random.default_rng(seed)
    values, offsets = 10 ** random.uniform(-2, 0, size), random.normal(size=size)
    form = QuadraticForm(values, np.ones(size), values, offsets**2)
    cutoffs = form.mean * np.array([0.1, 0.3, 0.6, 1.0, 1.5, 2.5])
    found = log_distribution(form, cutoffs)
    for cutoff, log_probability, error in zip(cutoffs, found.log_probability, found.error, strict=True):
        probability = inverted(values, offsets, cutoff)
        if probability > 1e-8:
            assert log_probability == pytest.approx(math.log(probability), abs=max(0.01, float(error)))


@pytest.mark.parametrize("size", [3, 10, 40])
def test_monte_carlo(size: int) -> None:
    """The published check: 4e5 draws; 5 standard errors and the stated error from P = 1e-4 up."""
    random = np.random.default_rng(size)
    values, offsets = 10 ** random.uniform(-3, 0, size), random.normal(size=size)
    draws = 0.5 * ((random.normal(size=(400_000, size)) + offsets) ** 2 @ values)
    form = QuadraticForm(values, np.ones(size), values, offsets**2)
    cutoffs = np.quantile(draws, [1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9])
    found = log_distribution(form, cutoffs)
    shares = (draws[:, None] <= cutoffs).mean(0)
    noise = np.sqrt((1 - shares) / shares / len(draws))
    assert np.all(np.abs(found.log_probability - np.log(shares)) < 5 * noise + found.error)


def test_zero_eigenvalues_cost_nothing() -> None:
    with_zeros = QuadraticForm(np.array([0.0, 2.0]), np.array([1e6, 7.0]), np.array([0.0, 2.0]), np.array([1e6, 3.0]))
    without = QuadraticForm(np.array([2.0]), np.array([7.0]), np.array([2.0]), np.array([3.0]))
    cutoffs = np.array([0.1, 3.0])
    np.testing.assert_allclose(
        log_distribution(with_zeros, cutoffs).log_probability,
        log_distribution(without, cutoffs).log_probability,
        rtol=1e-13,
    )
    flat = log_distribution(QuadraticForm(np.zeros(1), np.ones(1), NONE, NONE), cutoffs)
    assert flat.log_probability.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.nan, math.inf])
def test_refused_cutoffs(cutoff: float) -> None:
    with pytest.raises(ValueError, match="cutoff must be positive and finite"):
        log_distribution(chi_square(3, 0.0), np.array([cutoff]))


def test_a_cutoff_beyond_the_numbers() -> None:
    with pytest.raises(ValueError, match="too far from the mean cost"):
        log_distribution(chi_square(3, 0.0), np.array([1e-300]))
