"""First crossings on rays whose cost is known in closed form."""

import numpy as np
import pytest

from volume.rays import first_crossings


def solve(cost, count=200, *, cutoff=0.01, tolerance=1e-8, guess=1.0, limit=1e9, scan=2):  # noqa: ANN001, ANN202
    return first_crossings(
        cost, count, cutoff, limit=np.full(count, limit), guess=guess, tolerance=tolerance, scan=scan
    )


CURVATURE = np.exp(np.random.default_rng(0).uniform(-12, 12, 200))


@pytest.mark.parametrize("guess", [1e-4, 1.0, 1e5])
def test_quadratic_rays(guess: float) -> None:
    found = solve(lambda rows, r: CURVATURE[rows] * r**2 / 2, guess=guess)
    assert np.allclose(found.radius, np.sqrt(0.02 / CURVATURE), rtol=1e-8)
    assert found.monotone.all()
    assert not found.unbounded.any()


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0, 8.0])
def test_other_powers(power: float) -> None:
    found = solve(lambda rows, r: CURVATURE[rows] * r**power)
    assert np.allclose(found.radius, (0.01 / CURVATURE) ** (1 / power), rtol=1e-7)


def test_quadratic_turning_quartic_or_saturating() -> None:
    scale = np.exp(np.random.default_rng(1).uniform(-3, 3, 200))
    for shape, inverse in (
        (lambda x: x**2 + x**4, lambda t: np.sqrt((np.sqrt(1 + 4 * t) - 1) / 2)),
        (lambda x: np.log1p(x**2), lambda t: np.sqrt(np.expm1(t))),
        (lambda x: 1 - np.exp(-(x**2)), lambda t: np.sqrt(-np.log1p(-t))),
    ):
        found = solve(lambda rows, r, shape=shape: shape(r * scale[rows]), cutoff=0.9)
        assert np.allclose(found.radius, inverse(0.9) / scale, rtol=1e-7)
        assert np.median(found.evaluations) <= 10


def test_few_evaluations_near_a_good_guess() -> None:
    """Five evaluations at 0.1 nat of 5,000 dimensions, two of them the scan."""
    scale = np.exp(np.random.default_rng(2).normal(0, 0.1, 200))
    found = solve(lambda rows, r: np.log1p((r * scale[rows]) ** 2), tolerance=2e-5, guess=0.1)
    assert np.median(found.evaluations) <= 6
    assert np.allclose(found.radius, np.sqrt(np.expm1(0.01)) / scale, rtol=2e-5)


def test_the_first_of_several_crossings() -> None:
    """A bump near 0.4 passes the cutoff, then the cost falls and crosses again at 1."""

    def cost(rows: np.ndarray, r: np.ndarray) -> np.ndarray:
        return 0.1 * r**2 + np.where(rows % 2 == 0, 0.2 * np.exp(-(((r - 0.4) / 0.1) ** 2)), 0.0)

    found = solve(cost, 10, cutoff=0.1, guess=1.1, scan=9)
    assert found.monotone.tolist() == [False, True] * 5
    assert np.allclose(found.radius[1::2], 1.0, rtol=1e-7)
    assert (found.radius[::2] < 0.4).all()
    assert np.allclose(cost(np.zeros(5, int), found.radius[::2]), 0.1, rtol=1e-6)
    blind = solve(cost, 10, cutoff=0.1, guess=1.1, scan=0)
    assert np.allclose(blind.radius, 1.0, rtol=1e-7)


def test_unbounded_rays_are_flagged() -> None:
    found = solve(lambda rows, r: np.where(rows == 0, 0.0, r**2), 3)
    assert found.unbounded.tolist() == [True, False, False]
    assert found.radius[0] == 1e9
    flat = solve(lambda _, r: 0.005 * np.tanh(r), 2)
    assert flat.unbounded.all()


def test_noise_ends_with_what_the_bracket_knows() -> None:
    noise = np.random.default_rng(3)
    found = solve(lambda _, r: r**2 * (1 + 1e-4 * noise.standard_normal(len(r))), 20, tolerance=1e-12, scan=0)
    assert np.allclose(found.radius, 0.1, rtol=1e-3)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_cutoffs(cutoff: float) -> None:
    with pytest.raises(ValueError, match="cutoff must be positive and finite"):
        solve(lambda _, r: r**2, 1, cutoff=cutoff)


def test_a_cost_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number on ray 0"):
        solve(lambda _, r: r * np.nan, 1)
