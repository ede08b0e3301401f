"""Highest points of curves whose maximum is known in closed form, refined until the stated error covers it."""

from collections.abc import Callable

import numpy as np
import pytest

from comparisons.connections import CostPath, PathSettings, peak
from comparisons.connections.peaks import Array, highest_between


def refined(curve: Callable[[Array], Array], settings: PathSettings) -> CostPath:
    """As a connection refines a path, with a curve for the cost."""
    places = np.array([0.0, 0.5, 1.0])
    path = CostPath("straight", places, curve(places), 1.0)
    while len(new := path.next_places(settings)):
        path = path.with_costs(new, curve(new))
    return path


def test_a_quartic_barrier_is_found_to_the_tolerance_and_its_error_covers_it() -> None:
    # f = (x - a)^2 (x - b)^2 between its minima a < 0 and b > 0: the top is ((b - a) / 2)^4 in the middle.
    for low, high in [(-1.0, 1.0), (-0.7, 2.3), (-3.0, 0.2)]:

        def curve(t: Array, low: float = low, high: float = high) -> Array:
            x = low + t * (high - low)
            return (x - low) ** 2 * (x - high) ** 2

        top = ((high - low) / 2.0) ** 4
        for points in (6, 7, 25):
            settings = PathSettings(points=points, tolerance=1e-4)
            path = refined(curve, settings)
            assert path.known(settings)
            assert 0.0 <= top - path.barrier.height <= path.barrier.error <= 1e-4 * top
            assert path.barrier.low <= 0.5 <= path.barrier.high
            assert path.barrier.place == pytest.approx(0.5, abs=0.02)


def test_the_error_covers_the_true_height_of_many_curves() -> None:
    """Sums of bumps on a slope; the truth by a grid of 20,001 points."""
    source, fine = np.random.default_rng(0), np.linspace(0.0, 1.0, 20_001)
    for _ in range(200):
        centres, widths = source.uniform(0.0, 1.0, 3), source.uniform(0.08, 0.4, 3)
        heights, slope = source.normal(0.0, 1.0, 3), source.normal()

        def curve(t: Array, c: Array = centres, w: Array = widths, h: Array = heights, s: float = slope) -> Array:
            return s * t + (h * np.exp(-(((t[:, None] - c) / w) ** 2))).sum(1)

        settings = PathSettings(tolerance=1e-3)
        path = refined(curve, settings)
        values = curve(fine)
        chord = (1.0 - fine) * values[0] + fine * values[-1]
        for found, truth in ((path.barrier, (values - chord).max()), (path.rise, values.max() - values[[0, -1]].max())):
            assert found.height <= truth + 1e-12
            assert truth - found.height <= found.error + 1e-9
            assert found.error <= path.allowed(settings)


def test_a_budget_that_is_spent_says_so() -> None:
    settings = PathSettings(points=5, tolerance=1e-6, most=8)
    path = refined(lambda t: np.sin(3.0 * np.pi * t), settings)
    assert len(path.places) == 8
    assert not path.known(settings)
    assert path.barrier.error > path.allowed(settings)


def test_a_convex_curve_has_no_barrier_and_a_monotone_one_no_rise() -> None:
    settings = PathSettings()
    convex = refined(lambda t: (t - 0.3) ** 2, settings)
    assert convex.barrier.height == pytest.approx(0.0, abs=1e-15)
    hump = refined(lambda t: np.sqrt(t + 0.01), settings)
    assert hump.barrier.height > 0.15
    assert hump.rise.height == 0.0


def test_a_bound_is_that_of_a_parabola() -> None:
    # Between two of its points a parabola of |f''| = 2 rises no higher than the bound with SAFETY * 2 allows.
    places = np.array([0.0, 0.4, 0.7, 1.0])
    values = places * (1.0 - places)
    bounds = highest_between(places, values)
    assert (bounds >= [0.24, 0.25, 0.21]).all()
    # By hand: chord through 0.24 and 0.21, M = 4, h = 0.3: mean + M h^2 / 8 + rise^2 / (2 M h^2).
    assert bounds[1] == pytest.approx(0.225 + 4.0 * 0.09 / 8.0 + 0.03**2 / (2.0 * 4.0 * 0.09))
    assert peak(places, values).height == pytest.approx(0.24)
