"""Windows of rays and the star domain: the smooth maximum, and masses in closed form.

As in test_bridge, exact numbers are asked for within 6.5 standard errors of 16 chains: Student's t of 15 degrees is
beyond that with probability 1e-5 a case.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from spectra.errors import UserError
from spectra.landscape import Landscape
from volume.bridge import BridgeResult, bridge_volume, read_bridge, write_bridge
from volume.chains import BridgeSettings, WindowCost
from volume.priors import GaussianPrior
from volume.quadratic import ParameterModule, QuadraticForm, log_distribution
from volume.rays import log_power_ball

SIGMAS = 6.5
# A ridge around the anchor: the sublevel set at 1 is a ball and a shell outside of the ridge.
SIZE, HEIGHT, PLACE, WIDTH = 6, 1.2, 2.0, 0.4


def landscape(cost, anchor: torch.Tensor) -> Landscape:
    """``cost(theta - anchor)`` in float64; the cost takes rows (k, n) and gives (k,)."""
    data = (torch.ones(1, 1, dtype=torch.float64), anchor.unsqueeze(0))
    return Landscape(ParameterModule(anchor), lambda outputs, targets: cost(outputs - targets), data)


def profile(r):
    """The ridge as a function of the distance."""
    exp = torch.exp if isinstance(r, torch.Tensor) else np.exp
    return 0.1 * r**2 + HEIGHT * exp(-0.5 * ((r - PLACE) / WIDTH) ** 2)


def ridge(x: torch.Tensor) -> torch.Tensor:
    return profile((x.square().sum(-1) + 1e-12).sqrt())


def ridge_mass(window: float, cutoff: float = 1.0) -> float:
    """Log mass under a standard normal prior: chi-square probabilities between the crossings of the profile."""
    edges = [optimize.brentq(lambda r: profile(r) - cutoff, *ends) for ends in ((0.5, 1.9), (2.1, 2.9), (2.9, 4.0))]
    inner, outer = edges[0], (edges[1] / max(1.0 - window, 1e-9), edges[2])
    mass = stats.chi2(SIZE).cdf(inner**2)
    if outer[0] < outer[1]:
        mass += np.diff(stats.chi2(SIZE).cdf(np.square(outer)))[0]
    return math.log(mass)


def solved(cost, size: int, cutoff: float, **options) -> BridgeResult:
    anchor = options.pop("anchor", torch.zeros(size, dtype=torch.float64))
    prior = GaussianPrior(options.pop("deviation", 1.0))
    settings = BridgeSettings((cutoff,), **{"draws": 60, "warm_up": 20, "work_spread": 1.0, **options})
    return bridge_volume(landscape(cost, anchor), prior, settings)


def assert_near(result: BridgeResult, exact: float, most: float = 0.4) -> None:
    volume = result.volumes[0]
    assert abs(volume.log_volume - exact) <= SIGMAS * volume.standard_error
    assert volume.standard_error < most


@pytest.mark.parametrize(
    "target, window", [("sublevel", 0.0), ("window:0.1", 0.1), pytest.param("star", 1.0, marks=pytest.mark.slow)]
)
def test_a_ball_in_a_shell_has_three_masses(target: str, window: float) -> None:
    masses = [ridge_mass(w) for w in (0.0, 0.1, 1.0)]
    assert masses[0] - masses[1] > 0.25  # so that no target passes for its neighbour
    assert masses[1] - masses[2] > 0.25
    result = solved(ridge, SIZE, 1.0, target=target, origin="prior", draws=40, seed=3)
    assert_near(result, ridge_mass(window), 0.12)


@pytest.mark.slow
def test_the_star_domain_of_an_ellipsoid_off_the_origin_is_the_ellipsoid() -> None:
    values = torch.logspace(0, 2, 20, dtype=torch.float64)
    anchor = torch.full((20,), 0.3, dtype=torch.float64)
    result = solved(lambda x: 0.5 * x.square() @ values, 20, 1.0, target="star", anchor=anchor, seed=4)
    form = QuadraticForm(values.numpy(), np.ones(20), values.numpy(), anchor.numpy() ** 2)
    assert_near(result, float(log_distribution(form, np.array([1.0])).log_probability[0]))


def test_the_star_domain_of_a_power_ball_is_the_ball() -> None:
    size, deviation = 8, 30.0
    flat = -0.5 * size * math.log(2.0 * math.pi * deviation**2)
    result = solved(lambda x: x.pow(4).sum(-1), size, 0.2, target="star", deviation=deviation, draws=30, seed=5)
    assert_near(result, log_power_ball(4.0, 0.2, np.ones(size)) + flat)


def test_smooth_maxima_are_the_cost_where_it_is_quadratic_and_near_the_highest_elsewhere() -> None:
    points = 3.0 * torch.randn(40, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    anchor = torch.zeros(SIZE, dtype=torch.float64)
    bowl = WindowCost(landscape(lambda x: x.square().sum(-1), anchor), GaussianPrior(1.0))
    assert torch.allclose(bowl.costs(points), points.square().sum(1), rtol=1e-12)
    for window in (0.2, 1.0):
        cost = WindowCost(landscape(ridge, anchor), GaussianPrior(1.0), window)
        fine = torch.linspace(1.0 - window, 1.0, 4001, dtype=torch.float64)
        highest = torch.stack([ridge(points * a) for a in fine]).amax(0)
        smooth = cost.costs(points)
        assert torch.allclose(cost.levels(points, smooth), highest, rtol=1e-3)
        # The mean is over 8 points or 9, exponent 128: log 9 / 128 = 2 %, and as much for what lies between points.
        assert ((smooth / highest).log().abs() < 0.05).all()


@pytest.mark.parametrize("window", [0.3, 1.0])
def test_forces_are_the_gradient_of_the_costs(window: float) -> None:
    cost = WindowCost(landscape(ridge, torch.zeros(SIZE, dtype=torch.float64)), GaussianPrior(0.7), window)
    points = 2.0 * torch.randn(10, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = torch.randn(10, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    costs, slopes = cost.forces(points)
    step = 1e-5
    found = (cost.costs(points + step * along) - cost.costs(points - step * along)) / (2.0 * step)
    assert torch.allclose(costs, cost.costs(points), rtol=1e-12)
    assert torch.allclose((slopes * along).sum(1), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("window", [0.3, 1.0])
def test_forces_within_a_trajectory_are_the_same_for_fewer_evaluations(window: float) -> None:
    cost = WindowCost(landscape(ridge, torch.zeros(SIZE, dtype=torch.float64)), GaussianPrior(0.7), window)
    points = 2.0 * torch.randn(40, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, whole = cost.forces(points)
    before = cost.spent.costs
    costs, slopes = cost.forces(points, with_costs=False)
    assert costs is None
    assert torch.allclose(slopes, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    if window == 1.0:  # over a short window all costs are near the highest
        assert cost.spent.costs - before < 0.95 * 40 * len(cost.fractions)


def test_a_fence_on_the_way_is_no_way() -> None:
    """Beyond a wall where the cost is nan the end may cost little: it is in the sublevel set and not in the star."""

    def walled(x: torch.Tensor) -> torch.Tensor:
        return torch.where((x[..., 0] - 1.0).abs() < 0.2, math.nan, x.square().sum(-1))

    cost = WindowCost(landscape(walled, torch.zeros(2, dtype=torch.float64)), GaussianPrior(1.0))
    points = torch.tensor([[2.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    costs, slopes = cost.forces(points)
    assert costs is not None
    assert costs.isinf().tolist() == [True, False]
    assert slopes.isfinite().all()
    assert cost.levels(points, costs).isinf().tolist() == [True, False]


def test_levels_are_kept_with_the_rungs(tmp_path: Path) -> None:
    result = solved(ridge, SIZE, 1.0, target="window:0.5", origin="prior", draws=20, seed=1)
    write_bridge(tmp_path / "w.h5", result, {})
    again, _ = read_bridge(tmp_path / "w.h5")
    assert again.volumes == result.volumes
    free = [rung for rung in again.rungs if rung.levels.size]
    assert all(rung.levels.shape == rung.costs.shape for rung in free)
    # Rungs of files from before have none: they climbed another cost, which nothing links to this one.
    old = tuple(replace(rung, levels=np.empty((0, 0))) for rung in result.rungs)
    before = replace(result, passes=(old[:2],), ended="")
    with pytest.raises(UserError, match="begin this bridge anew"):
        bridge_volume(landscape(ridge, torch.zeros(SIZE).double()), GaussianPrior(1.0), result.settings, resume=before)
    assert len(free) == len(result.rungs)


@pytest.mark.parametrize("target", ["disc", "window", "window:", "window:0", "window:1", "window:nan", "window:two"])
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(UserError, match="must be sublevel, star or window:W with 0 < W < 1"):
        BridgeSettings(target=target)
