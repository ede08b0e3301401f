"""What one ladder's draws say besides the answer: the curve over cutoffs, and whether its chains lag behind."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from spectra.landscape import Landscape
from volume.bridge import BridgeResult, bridge_cautions, bridge_volume
from volume.chains import BridgeSettings, Rung
from volume.priors import GaussianPrior


class Point(torch.nn.Module):
    """Theta itself."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def half_square(outputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return 0.5 * outputs.square().sum(-1)


@pytest.fixture(scope="module")
def ball() -> Landscape:
    """``|theta|^2 / 2`` of ten parameters."""
    ones = torch.ones(1, 10, dtype=torch.float64)
    return Landscape(Point(10), half_square, (ones, ones))


@pytest.fixture(scope="module")
def ladder(ball: Landscape) -> BridgeResult:
    settings = BridgeSettings(cutoffs=(0.1,), origin="prior", draws=50, warm_up=15, kept=50, seed=17)
    return bridge_volume(ball, GaussianPrior(1.5), settings)


def test_the_curve_of_one_ladder_is_the_chi_square_at_every_cutoff(ladder: BridgeResult) -> None:
    curve = ladder.curve(30)
    cutoffs = np.array([volume.cutoff for volume in curve])
    assert cutoffs[0] < 0.1
    assert cutoffs[-1] > 10.0  # the prior's own median is 10.5
    exact = chi2(10).logcdf(2.0 * cutoffs / 1.5**2)
    # 60 comparisons, each beyond 5 errors of 15 degrees of freedom with probability 1.6e-4 (they are far from
    # independent): the seed is fixed.
    errors = np.array([volume.standard_error for volume in curve])
    assert (np.abs([volume.log_volume for volume in curve] - exact) <= 5.0 * errors).all()
    assert errors.max() < 0.6
    at = cutoffs / 1.5**2
    slopes = np.exp(chi2(10).logpdf(2.0 * at) - exact) * 2.0 * at
    slope_errors = np.array([volume.slope_error for volume in curve])
    # A window of half a standard deviation smooths a slope that falls to zero at the median.
    assert (np.abs([volume.slope for volume in curve] - slopes) <= 5.0 * slope_errors + 0.05 * slopes).all()
    assert np.median(slope_errors) < 0.5


def test_the_normaliser_of_one_ladder_is_that_of_a_gaussian_three_ways(ladder: BridgeResult) -> None:
    """By acceptance ratios of neighbours, thermodynamic integration and pymbar; beyond 6.5 errors with 1e-5."""
    assert ladder.log_start == 0.0  # the prior is known without a curvature
    assert len(ladder.rungs) > 4
    check = ladder.integrated
    assert check is not None
    assert abs(check.log_normaliser - check.by_links) <= 6.5 * math.hypot(
        check.standard_error, ladder.volumes[-1].standard_error
    )
    steep = 1.0 + ladder.rungs[-1].state.inverse_temperature * 1.5**2
    exact = -0.5 * 10 * math.log(steep)
    assert abs(check.log_normaliser - exact) <= 6.5 * check.standard_error + 0.02  # the trapezoids' own error
    assert ladder.multistate is not None
    by_pymbar, error = ladder.multistate
    # Its error takes draws for independent; those of a chain are not quite.
    assert abs(by_pymbar - exact) <= 6.5 * 2.0 * error
    assert error < 0.3


def test_a_ladder_killed_on_the_way_tells_of_what_it_came_to_and_of_no_infinite_slope(ladder: BridgeResult) -> None:
    for count in (4, len(ladder.rungs) - 1):
        killed = replace(ladder, passes=(ladder.passes[0][:count],)).so_far.curve(30)
        assert len(killed) > 20
        assert np.isfinite([(one.slope, one.slope_error, one.standard_error) for one in killed]).all()


def test_the_halves_of_chains_that_mix_agree(ladder: BridgeResult) -> None:
    drift, error = ladder.drift or (math.nan, math.nan)
    # Student's t of 15 degrees is beyond 5.5 with probability 6e-5; the seed is fixed.
    assert abs(drift) < 5.5 * error
    assert 0.01 < error < 1.0
    assert not any("lag behind" in sentence for sentence in bridge_cautions(ladder))


def test_a_lag_is_found_as_large_as_it_was_planted(ladder: BridgeResult) -> None:
    def twice(rung: Rung, shift: float) -> Rung:
        """Each draw once more, the second time with works that raise the first link's ratio by the shift."""
        names = ("costs", "quadratics", "squares", "prior_squares", "onward", "backward")
        doubled: dict[str, Any] = {
            name: np.concatenate([getattr(rung, name), getattr(rung, name) + sign * shift])
            for name, sign in zip(names, (0.0, 0.0, 0.0, 0.0, -1.0, 1.0), strict=True)
        }
        return replace(rung, **doubled)

    start, first, *rest = ladder.rungs
    first = replace(twice(first, 0.0), backward=twice(first, 2.0).backward)
    lagging = replace(ladder, passes=((twice(start, 2.0), first, *(twice(rung, 0.0) for rung in rest)),))
    drift, error = lagging.drift or (math.nan, math.nan)
    assert drift == pytest.approx(2.0, abs=1e-6)
    assert error < 1e-6
    assert any("+2 nat" in sentence and "lag behind" in sentence for sentence in bridge_cautions(lagging))


def test_a_cutoff_within_the_prior_needs_no_cooling(ball: Landscape) -> None:
    settings = BridgeSettings(cutoffs=(12.0,), origin="prior", draws=60, warm_up=20, kept=60, seed=18)
    result = bridge_volume(ball, GaussianPrior(1.5), settings)
    assert len(result.rungs) == 2  # the exact start, and chains at the prior itself
    volume = result.volumes[0]
    exact = chi2(10).logcdf(2.0 * 12.0 / 1.5**2)  # 0.61 of the prior
    assert abs(volume.log_volume - exact) < 6.5 * volume.standard_error
    assert volume.standard_error < 0.1


def test_a_cutoff_above_all_of_the_prior_is_refused(ball: Landscape) -> None:
    settings = BridgeSettings(cutoffs=(0.1, 200.0), origin="prior", draws=20, seed=19)
    with pytest.raises(ValueError, match="cutoff 200 is above the cost of all 320 draws of the prior"):
        bridge_volume(ball, GaussianPrior(1.5), settings)
