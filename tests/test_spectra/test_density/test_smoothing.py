import math

import numpy as np
import pytest
from scipy.stats import norm

from spectra.density import REACH, SpectralDensity
from spectra.lanczos import Deflation, Tridiagonal


def sampled(probes: int = 5, steps: int = 6, size: int = 40, seed: int = 0) -> SpectralDensity:
    generator = np.random.default_rng(seed)
    runs = Tridiagonal(
        generator.normal(size=(probes, steps)),
        np.abs(generator.normal(size=(probes, steps))),
        np.full(probes, steps, dtype=np.int64),
    )
    return SpectralDensity(size, runs, Deflation(np.array([-3.0, 7.0]), np.array([1.0, 1.0]), 2))


@pytest.mark.parametrize("scale", ["linear", "symlog"])
@pytest.mark.parametrize("width", [None, 1e-3, 0.3])
def test_the_smoothed_density_integrates_to_one(scale: str, width: float | None) -> None:
    view = sampled().smooth(width, scale=scale)
    assert view.mass == pytest.approx(1.0, abs=1e-8)
    assert np.all(np.diff(view.coordinate) > 0.0)


@pytest.mark.parametrize("eigenvalues", [[0.0], [0.0, 0.0], [5.0] * 3, [-2.0, -2.0], [-1e-9, 0.0, 1e6]])
@pytest.mark.parametrize("scale", ["linear", "symlog"])
def test_degenerate_supports_keep_their_mass(eigenvalues: list[float], scale: str) -> None:
    density = SpectralDensity.from_eigenvalues(np.array(eigenvalues))
    assert density.smooth(scale=scale).mass == pytest.approx(1.0, abs=1e-8)


def test_the_grid_covers_the_support_and_the_kernel() -> None:
    density = sampled()
    view = density.smooth(0.2, scale="linear")
    assert view.eigenvalues[0] <= density.support[0] - REACH * 0.2
    assert view.eigenvalues[-1] >= density.support[1] + REACH * 0.2
    assert view.values[0] < 1e-8
    assert view.values[-1] < 1e-8


def test_a_linear_view_is_a_sum_of_normal_densities() -> None:
    density = SpectralDensity.from_eigenvalues(np.array([0.0, 0.5, 2.0]), size=4)
    view = density.smooth(0.3, scale="linear")
    expected = sum(norm.pdf(view.eigenvalues, x, 0.3) for x in (0.0, 0.0, 0.5, 2.0)) / 4.0
    np.testing.assert_allclose(view.values, expected, atol=1e-7)
    np.testing.assert_array_equal(view.standard_error, 0.0)


def test_a_symlog_view_lives_in_the_transformed_coordinate() -> None:
    density = SpectralDensity.from_eigenvalues(np.array([-1e-3, 10.0]))
    view = density.smooth(0.1, linear_scale=1e-2)
    np.testing.assert_allclose(np.arcsinh(view.eigenvalues / 1e-2), view.coordinate, atol=1e-12)
    expected = sum(norm.pdf(view.coordinate, math.asinh(x / 1e-2), 0.1) for x in (-1e-3, 10.0)) / 2.0
    np.testing.assert_allclose(view.values, expected, atol=1e-6)


def test_a_symlog_view_does_not_throw_mass_across_zero() -> None:
    eigenvalues = np.concatenate([np.full(90, 1e-3), np.full(10, 10.0)])
    view = SpectralDensity.from_eigenvalues(eigenvalues).smooth()
    below = view.eigenvalues < -1e-3
    assert np.trapezoid(view.values[below], view.coordinate[below]) < 1e-6


def test_the_band_is_the_standard_error_over_probes() -> None:
    density = sampled(probes=7)
    view = density.smooth(0.4, scale="linear")
    rows = np.array(
        [
            sum(w * norm.pdf(view.eigenvalues, x, 0.4) for x, w in zip(nodes, weights, strict=True))
            for nodes, weights in zip(density.nodes, density.weights, strict=True)
        ]
    )
    expected = 38 / 40 * rows.std(axis=0, ddof=1) / math.sqrt(7)
    np.testing.assert_allclose(view.standard_error, expected, atol=1e-7)


def test_one_probe_has_an_unknown_band() -> None:
    assert np.all(np.isinf(sampled(probes=1).smooth().standard_error))


def test_limits_widen_the_grid_and_never_narrow_it() -> None:
    density = SpectralDensity.from_eigenvalues(np.array([0.0, 1.0]))
    view = density.smooth(0.1, scale="linear", limits=(-5.0, 0.5))
    assert view.eigenvalues[0] <= -5.0
    assert view.eigenvalues[-1] >= 1.6
    assert view.mass == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"width": 0.0}, "width must be positive"),
        ({"width": math.nan}, "width must be positive"),
        ({"width": 1e-9, "scale": "linear"}, "at most 1048576 points"),
        ({"linear_scale": -1.0}, "linear_scale must be positive"),
        ({"scale": "log"}, "one of linear, symlog"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampled().smooth(**options)


def test_the_cumulative_view_of_known_eigenvalues_counts_them() -> None:
    view = SpectralDensity.from_eigenvalues(np.array([2.0, -1.0, 2.0]), size=5).cumulative()
    np.testing.assert_array_equal(view.nodes, [-1.0, 0.0, 2.0])
    np.testing.assert_allclose(view.fraction, [0.2, 0.6, 1.0])
    np.testing.assert_array_equal(view.standard_error, 0.0)


def test_the_cumulative_view_agrees_with_the_counts_of_the_density() -> None:
    density = sampled()
    view = density.cumulative()
    assert np.all(np.diff(view.fraction) >= 0.0)
    assert view.fraction[-1] == pytest.approx(1.0)
    for position in (3, 11, 20):
        count = density.mass_below(float(np.nextafter(view.nodes[position], np.inf)))
        assert view.fraction[position] * density.size == pytest.approx(count.value)
        assert view.standard_error[position] * density.size == pytest.approx(count.standard_error)


def test_a_run_that_broke_down_keeps_its_mass() -> None:
    runs = Tridiagonal(np.array([[1.0, 2.0, 0.0]]), np.array([[0.5, 0.0, 0.0]]), np.array([2]))
    density = SpectralDensity(9, runs)
    assert density.smooth().mass == pytest.approx(1.0, abs=1e-8)
    assert density.cumulative().fraction[-1] == pytest.approx(1.0)
