"""The bridge against closed forms, quadrature, the saddlepoint and brute force.

A bridge's error bar is a jackknife over 12 chains or more. An exact number is asked for within 6.5 of them: Student's t
of 11 degrees is beyond that with probability 5e-5 a case, and the seeds are fixed.
"""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from basinscope.views import bridge_table
from spectra.costs import mean_squared_error
from spectra.errors import UserError
from spectra.interval import with_ends
from spectra.landscape import Landscape, ManyGradients
from volume.bridge import (
    BridgeResult,
    BridgeVolume,
    bridge_figure,
    bridge_volume,
    read_bridge,
    refuse_other,
    write_bridge,
)
from volume.chains import LEAST_OVERLAP, BridgeSettings, RungState
from volume.chains.hamiltonian import SMALLEST_SHARE, StepSize
from volume.chains.ladder import goal, reached
from volume.priors import GaussianPrior, UniformPrior
from volume.quadratic import QuadraticForm, log_distribution
from volume.rays import log_gaussian_ball, log_power_ball

SIGMAS = 6.5
Cost = Callable[[torch.Tensor], torch.Tensor]


class Point(torch.nn.Module):
    """Theta itself, for costs that are any function of it."""

    def __init__(self, anchor: torch.Tensor) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(anchor.clone())

    def forward(self, ones: torch.Tensor) -> torch.Tensor:
        return ones * self.theta


def landscape(cost: Cost, anchor: torch.Tensor) -> Landscape:
    """``cost(theta - anchor)`` in float64; the cost takes rows (k, n) and gives (k,)."""

    def displaced(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cost(outputs - targets)

    return Landscape(Point(anchor), displaced, (torch.ones(1, len(anchor)).double(), anchor.unsqueeze(0)))


def rotated(values: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2, basis.T


def half_square(matrix: torch.Tensor) -> Cost:
    return lambda x: 0.5 * ((x @ matrix) * x).sum(-1)


def check(result: BridgeResult, exact: float, most: float = 1.0) -> None:
    volume = result.volumes[-1]
    assert abs(volume.log_volume - exact) <= SIGMAS * volume.standard_error
    assert volume.standard_error <= most
    assert result.diverged == 0


@pytest.mark.parametrize("size, scale, seed", [(20, 0.0, 0), (20, 0.5, 1), (150, 0.3, 2)])
def test_a_quadratic_cost_has_the_mass_of_the_saddlepoint(size: int, scale: float, seed: int) -> None:
    values = torch.logspace(0, 3, size, dtype=torch.float64)
    matrix, vectors = rotated(values, seed)
    anchor = scale * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    deviations = torch.linspace(0.5, 2.0, size, dtype=torch.float64)
    # In standard deviations the curvature is the matrix: the saddlepoint is right to 0.002 nats there.
    cost = half_square(matrix / torch.outer(deviations, deviations))
    settings = BridgeSettings(cutoffs=(0.05 * size,), draws=60, warm_up=20, seed=seed)
    result = bridge_volume(landscape(cost, anchor * deviations), GaussianPrior(deviations), settings)
    masses = (vectors @ anchor).numpy() ** 2
    form = QuadraticForm(values.numpy(), np.ones(size), values.numpy(), masses)
    check(result, float(log_distribution(form, np.array([0.05 * size])).log_probability[0]), 0.3)


def test_a_ball_around_an_anchor_off_the_origin_is_a_chi_square() -> None:
    anchor = torch.full((10,), 0.4, dtype=torch.float64)
    result = bridge_volume(
        landscape(lambda x: 0.5 * x.square().sum(-1), anchor),
        GaussianPrior(1.5),
        BridgeSettings(cutoffs=(0.3, 0.1), draws=60, warm_up=20, seed=3),
    )
    check(result, log_gaussian_ball(math.sqrt(0.2), 10, 1.5, 0.4 * math.sqrt(10.0)), 0.3)
    wide, narrow = result.volumes
    assert (wide.cutoff, narrow.cutoff) == (0.3, 0.1)
    assert abs(wide.log_volume - log_gaussian_ball(math.sqrt(0.6), 10, 1.5, 0.4 * math.sqrt(10.0))) < SIGMAS * (
        wide.standard_error
    )
    assert abs(narrow.slope - 5.0) < SIGMAS * narrow.slope_error  # half the dimension


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 0.4])
def test_a_ladder_from_the_prior_has_the_mass_of_a_chi_square(scale: float) -> None:
    anchor = torch.full((10,), scale, dtype=torch.float64)
    result = bridge_volume(
        landscape(lambda x: 0.5 * x.square().sum(-1), anchor),
        GaussianPrior(1.5),
        BridgeSettings(cutoffs=(0.3, 0.1), origin="prior", draws=60, warm_up=20, seed=13),
    )
    for volume in result.volumes:
        exact = log_gaussian_ball(math.sqrt(2.0 * volume.cutoff), 10, 1.5, scale * math.sqrt(10.0))
        assert abs(volume.log_volume - exact) <= SIGMAS * volume.standard_error
        assert volume.standard_error < 0.5
    assert result.log_start == 0.0  # the prior is known without a curvature
    assert len(result.rungs) > 4
    check = result.integrated
    assert check is not None
    assert abs(check.log_normaliser - check.by_links) <= SIGMAS * math.hypot(
        check.standard_error, result.volumes[-1].standard_error
    )
    b = result.rungs[-1].state.inverse_temperature
    # Z of a quadratic cost: 10 dimensions of curvature s^2 in prior units, their anchor off by ``scale / s`` each.
    steep = 1.0 + b * 1.5**2
    exact = 10 * (-0.5 * math.log(steep) - 0.5 * (scale / 1.5) ** 2 * (1.0 - 1.0 / steep))
    assert abs(check.log_normaliser - exact) <= SIGMAS * check.standard_error + 0.02  # the trapezoids' own error
    assert result.multistate is not None
    by_pymbar, error = result.multistate
    # Its error takes draws for independent; those of a chain are not quite.
    assert abs(by_pymbar - exact) <= SIGMAS * 2.0 * error
    assert error < 0.3


def two_wells(x: torch.Tensor) -> torch.Tensor:
    """Two like basins far apart, the anchor in one of them."""
    return torch.minimum(x.square().sum(-1), (x - 4.0).square().sum(-1))


def test_the_prior_finds_both_basins_and_the_anchor_its_own() -> None:
    anchor = torch.full((2,), -2.0, dtype=torch.float64)  # the other is at +2: the same mass
    one = log_gaussian_ball(math.sqrt(0.2), 2, 2.0, 2.0 * math.sqrt(2.0))
    for origin, exact in (("quadratic", one), ("prior", one + math.log(2.0))):
        settings = BridgeSettings(cutoffs=(0.2,), origin=origin, chains=32, draws=60, warm_up=20, seed=14)
        volume = bridge_volume(landscape(two_wells, anchor), GaussianPrior(2.0), settings).volumes[0]
        assert abs(volume.log_volume - exact) <= SIGMAS * volume.standard_error
        assert volume.standard_error < 0.15  # they are log 2 apart


def test_a_quartic_cost_without_curvature_has_dirichlets_volume() -> None:
    size, deviation = 12, 30.0  # so wide that the density is flat over the basin, to 1e-3 nats
    result = bridge_volume(
        landscape(lambda x: x.pow(4).sum(-1), torch.zeros(size).double()),
        GaussianPrior(deviation),
        BridgeSettings(cutoffs=(0.2,), draws=40, warm_up=20, work_spread=2.0, seed=4),
    )
    flat = -0.5 * size * math.log(2.0 * math.pi * deviation**2)
    check(result, log_power_ball(4.0, 0.2, np.ones(size)) + flat)


def well(x: torch.Tensor) -> torch.Tensor:
    """A lopsided well of one coordinate, one minimum, flat on one side."""
    return 4.0 * (torch.exp(-1.5 * x) + 1.5 * x - 1.0) + 0.2 * x.square()


def log_mass_of_wells(anchors: np.ndarray, cutoff: float, tilt: float) -> float:
    """Tilted by ``exp(-b c)``, so that the tail is the middle, on a grid of costs, convolved."""
    spacing = cutoff / 4000.0
    x = np.linspace(-8.0, 12.0, 2_000_001)
    costs = well(torch.from_numpy(x)).numpy()
    bins = np.rint(costs / spacing).astype(np.int64)
    total, log_scale = np.ones(1), 0.0
    for anchor in anchors:
        weights = np.exp(-0.5 * (x + anchor) ** 2 - tilt * costs) / math.sqrt(2.0 * math.pi) * (x[1] - x[0])
        density = np.bincount(bins[bins < 4001], weights[bins < 4001])
        total = np.convolve(total, density)[:4001]
        log_scale += math.log(total.sum())
        total /= total.sum()
    grid = np.arange(len(total)) * spacing
    # Half of the bin at the cutoff is below it.
    total[-1] *= 0.5
    return log_scale + tilt * cutoff + math.log(float((total * np.exp(tilt * (grid - cutoff))).sum()))


def test_a_product_of_wells_has_the_mass_of_its_convolution() -> None:
    anchors = np.linspace(-0.8, 0.8, 8)
    exact = log_mass_of_wells(anchors, 8.0, 0.4)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    # A rotation leaves the prior alone, and the wells' axes are no longer those of the parameters.
    result = bridge_volume(
        landscape(lambda x: well(x @ basis).sum(-1), basis @ torch.from_numpy(anchors)),
        GaussianPrior(1.0),
        BridgeSettings(cutoffs=(8.0,), draws=60, warm_up=30, work_spread=0.5, seed=5),
    )
    check(result, exact, 0.3)
    assert len(result.rungs) > 2


def banana(x: torch.Tensor) -> torch.Tensor:
    """Bent so far that straight lines from the anchor to its horns leave it."""
    return 0.05 * x[..., 0].square() + 20.0 * (x[..., 1] - 0.5 * x[..., 0].square()).square() + x[..., 2].square()


@pytest.mark.slow
def test_a_banana_and_its_star_domain_have_the_masses_of_brute_force() -> None:
    anchor = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1_000_000, 3, generator=generator, dtype=torch.float64) * 1.2 - anchor
    inside = points[banana(points) < 0.3]
    fractions = torch.linspace(0.005, 1.0, 200, dtype=torch.float64)
    star = sum(int((banana(part.unsqueeze(1) * fractions[:, None]).amax(1) < 0.3).sum()) for part in inside.split(4096))
    assert star < 0.8 * len(inside)
    for target, count in (("sublevel", len(inside)), ("star", star)):
        settings = BridgeSettings(cutoffs=(0.3,), target=target, draws=40, warm_up=20, seed=6, work_spread=1.0)
        result = bridge_volume(landscape(banana, anchor), GaussianPrior(1.2), settings)
        volume = result.volumes[0]
        error = math.hypot(volume.standard_error, count**-0.5)
        assert abs(volume.log_volume - math.log(count / 1e6)) <= SIGMAS * error
        assert volume.standard_error < 0.3


def test_gradients_of_many_vectors_are_those_of_each() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    inputs = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    place = Landscape(
        model, lambda outputs, targets: (outputs - targets).square().sum(-1), (inputs, torch.zeros(7, 2)), l2=0.3
    )
    thetas = place.theta + torch.randn(5, place.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    many = ManyGradients(place)
    for vmapped in (True, False):
        many.vmapped = vmapped
        costs, slopes = many(thetas)
        assert torch.allclose(costs, place.costs(thetas), rtol=1e-12)
        assert torch.allclose(slopes, place.gradients(thetas), rtol=1e-10, atol=1e-12)


def test_rejections_do_not_shrink_the_step_without_end() -> None:
    averaging = StepSize(0.2)
    for _ in range(10):
        averaging.update(0.0)
    assert averaging.step == pytest.approx(0.2 * SMALLEST_SHARE)
    for _ in range(400):
        averaging.update(math.exp(-((averaging.step / 0.15) ** 2)))
    assert averaging.averaged == pytest.approx(0.15 * math.sqrt(-math.log(0.8)), rel=0.1)


def test_one_cheap_draw_of_a_wide_ensemble_does_not_end_a_ladder() -> None:
    costs = np.full((60, 16), 40.0)
    costs[::2] = 90.0
    costs[3, 7] = 1.0
    assert abs(costs.mean() - 41.0) < costs.std()  # 41 is near, but what lies below 39.9 is one draw
    assert not reached(costs, 39.9)
    assert reached(costs, 41.0)


def test_only_smooth_priors_are_bridged() -> None:
    with pytest.raises(ValueError, match="needs a gaussian prior, or one whose density is smooth everywhere, got"):
        bridge_volume(landscape(banana, torch.zeros(3).double()), UniformPrior(1.0, "box"))


def test_a_bridge_killed_after_any_rung_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    place = landscape(lambda x: well(x).sum(-1), torch.linspace(-0.8, 0.8, 6, dtype=torch.float64))
    settings = BridgeSettings(cutoffs=(6.0,), chains=6, draws=16, warm_up=8, kept=8, work_spread=0.5, seed=7)
    file, source = tmp_path / "bridge.h5", {"prior": "gaussian:1"}
    sizes = []

    def keep(result: BridgeResult) -> None:
        sizes.append(len(result.passes[0]))
        write_bridge(tmp_path / f"after_{len(sizes)}.h5", result, source)

    whole = bridge_volume(place, GaussianPrior(1.0), settings, on_rung=keep)
    assert sizes == list(range(1, len(whole.rungs) + 1))
    for number in (1, len(sizes) - 1, len(sizes)):
        stored, found = read_bridge(tmp_path / f"after_{number}.h5")
        assert found == source
        assert len(stored.passes[0]) == number
        resumed = bridge_volume(place, GaussianPrior(1.0), settings, resume=stored)
        assert resumed.volumes == whole.volumes
        write_bridge(file, resumed, source)
        assert read_bridge(file)[0].volumes == whole.volumes
    refuse_other(file, stored, source, replace(settings, budget=1e9), source)
    with pytest.raises(ValueError, match="cannot be resumed: seed is 7 there and 8 now; prior is gaussian:1 there"):
        refuse_other(file, stored, source, replace(settings, seed=8), {"prior": "gaussian:2"})
    with pytest.raises(ValueError, match="the bridge is not complete"):
        _ = read_bridge(tmp_path / "after_1.h5")[0].volumes


def test_more_passes_come_nearer_and_a_budget_ends_them() -> None:
    place = landscape(lambda x: 0.5 * x.square().sum(-1), torch.zeros(6).double())
    settings = BridgeSettings(cutoffs=(0.1,), chains=8, draws=20, warm_up=5, kept=10, seed=8)
    once = bridge_volume(place, GaussianPrior(1.0), settings)
    aim = 0.6 * once.volumes[0].standard_error
    often = bridge_volume(place, GaussianPrior(1.0), replace(settings, standard_error=aim))
    assert once.ended == "passes"
    assert often.ended == "standard error"
    assert often.volumes[0].standard_error <= aim
    assert len(often.passes) > 1
    check(often, log_gaussian_ball(math.sqrt(0.2), 6, 1.0))
    ended = bridge_volume(place, GaussianPrior(1.0), replace(settings, standard_error=1e-9, budget=2000.0))
    assert ended.ended == "budget"


def test_a_cost_that_is_not_finite_far_away_is_rejected_there() -> None:
    def fenced(x: torch.Tensor) -> torch.Tensor:
        square = x.square().sum(-1)
        return 0.5 * square + torch.where(square > 1.0, torch.nan, 0.0)

    settings = BridgeSettings(cutoffs=(0.25,), draws=30, warm_up=10, seed=9)
    result = bridge_volume(landscape(fenced, torch.zeros(4).double()), GaussianPrior(1.0), settings)
    volume = result.volumes[0]
    assert abs(volume.log_volume - log_gaussian_ball(math.sqrt(0.5), 4, 1.0)) <= SIGMAS * volume.standard_error
    assert result.diverged > 0
    assert all(np.isfinite(rung.costs).all() for rung in result.rungs[1:])


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["prior", "quadratic"])
def test_rungs_that_share_too_little_get_one_between_them(origin: str, tmp_path: Path) -> None:
    if origin == "prior":
        anchors, deviation = np.linspace(-0.8, 0.8, 40), 1.0
        cost = landscape(lambda x: well(x).sum(-1), torch.from_numpy(anchors))
        cutoff, exact = 20.0, log_mass_of_wells(anchors, 20.0, 1.0)
    else:
        # Without curvature a point is carried as the prior widens, which is far off.
        deviation, cutoff = 30.0, 0.2
        cost = landscape(lambda x: x.pow(4).sum(-1), torch.zeros(40).double())
        exact = log_power_ball(4.0, 0.2, np.ones(40)) - 20.0 * math.log(2.0 * math.pi * deviation**2)
    settings = BridgeSettings(
        cutoffs=(cutoff,), origin=origin, chains=12, draws=32, warm_up=20, kept=32, work_spread=20.0, seed=15
    )
    files = []

    def keep(result: BridgeResult) -> None:
        files.append(tmp_path / f"after_{len(files)}.h5")
        write_bridge(files[-1], result, {})

    result = bridge_volume(cost, GaussianPrior(deviation), settings, on_rung=keep)
    assert len(files) > len(result.rungs)  # some rungs were given up for nearer ones
    assert min(link.overlap for link in result.links[1:]) >= LEAST_OVERLAP
    check(result, exact)
    # Killed anywhere, also where the next rung will turn out to be too far.
    for file in files[:: max(1, len(files) // 5)]:
        again = bridge_volume(cost, GaussianPrior(deviation), settings, resume=read_bridge(file)[0])
        assert again.volumes[0].log_volume == pytest.approx(result.volumes[0].log_volume, rel=1e-12)
        assert again.volumes[0].standard_error == pytest.approx(result.volumes[0].standard_error, rel=1e-9)


def regression(inputs: torch.Tensor) -> Landscape:
    """A linear model under a mean squared error of zero at theta = 0, in float64."""
    model = torch.nn.Linear(inputs.shape[1], 2, bias=False).double()
    data = inputs, torch.zeros(len(inputs), 2, dtype=torch.float64)
    return Landscape(model, mean_squared_error, data, theta=torch.zeros(2 * inputs.shape[1], dtype=torch.float64))


@pytest.mark.parametrize(
    "target, origin",
    [("sublevel", "prior"), ("sublevel", "quadratic"), pytest.param("star", "quadratic", marks=pytest.mark.slow)],
)
def test_a_likelihood_is_climbed_around_its_mean_curvature(target: str, origin: str, tmp_path: Path) -> None:
    """A sphere, so the mass is a chi-square's; killed half way, the curvature is drawn again to the same numbers."""
    place = regression(torch.eye(5, dtype=torch.float64))
    curvature = 2.0 * float(place.costs(torch.eye(10, dtype=torch.float64)[:1])[0])
    settings = BridgeSettings(
        cutoffs=(0.2, 0.02), target=target, origin=origin, chains=12, draws=40, warm_up=10, seed=4
    )
    files = []

    def keep(result: BridgeResult) -> None:
        files.append(tmp_path / f"after_{len(files)}.h5")
        write_bridge(files[-1], result, {})

    result = bridge_volume(place, GaussianPrior(1.5), settings, on_rung=keep)
    check(result, float(stats.chi2(10).logcdf(2.0 * 0.02 / (curvature * 1.5**2))))
    half, _ = read_bridge(files[-2])
    seen = half.passes[0][-1].seen
    assert seen is not None
    assert seen.points.size > 0
    again = bridge_volume(place, GaussianPrior(1.5), settings, resume=half)
    assert again.volumes[0].log_volume == pytest.approx(result.volumes[0].log_volume, rel=1e-12)
    with pytest.raises(UserError, match="begin this bridge anew, in another file"):
        bridge_volume(regression(1.1 * torch.eye(5).double()), GaussianPrior(1.5), settings, resume=half)


def test_the_figure_says_what_the_table_says() -> None:
    """One rule: half of the interval is Student's t of the chains less one, in the figure as in the table."""
    result = bridge_volume(
        landscape(lambda x: 0.5 * x.square().sum(-1), torch.zeros(8).double()),
        GaussianPrior(1.0),
        BridgeSettings(cutoffs=(1.0, 0.5), chains=5, draws=30, warm_up=10, seed=1),
    )
    above, middle, _ = bridge_figure(result).axes
    drawn = [text.get_text() for axes in (above, middle) for text in axes.get_legend().get_texts()]
    table = Console(width=110, file=io.StringIO())
    table.print(bridge_table(result, {}, {}))
    shown = table.file.getvalue()
    for volume in result.volumes:
        half = stats.t.ppf(0.975, 4) * volume.standard_error
        assert volume.mass.interval() == pytest.approx((volume.log_volume - half, volume.log_volume + half), rel=1e-9)
        words = with_ends(volume.log_volume, volume.mass.interval())
        assert f"T = {volume.cutoff:g}: {words} nat" in drawn
        assert words in shown
        assert with_ends(volume.slope, volume.rise.interval()) in shown
    assert "95 % interval: Student t over 5 chains" in drawn


def test_masses_and_slopes_stay_possible() -> None:
    """Log-masses of a probability are not positive, and a volume does not fall with its cutoff."""
    volume = BridgeVolume(1.0, -0.1, 0.5, 0.2, 1.0, 0.5, freedom=3.0)
    assert volume.mass.interval()[1] == 0.0
    assert volume.rise.interval()[0] == 0.0
    assert with_ends(-0.1, volume.mass.interval()) == "-0.1 (-1.69 to 0)"


def test_costs_below_the_checkpoints_own_are_refused() -> None:
    with pytest.raises(ValueError, match="not above the checkpoint.s own: .* no cooling leads to the cutoff 0.5"):
        goal(RungState(2.0, 0.0), np.full((4, 2), -1.0), 0.5)
    assert goal(RungState(2.0, 0.0), np.full((4, 2), 1.0), 0.5).inverse_temperature == pytest.approx(4.0)
