"""Sweeps against values known in closed form or by quadrature, cell by cell, and the spread of their calls."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from comparisons.calibration import Calibration, SweepSettings, prepare, run_chains, sweep_operator, sweep_work
from comparisons.langevin import ChainSettings, sample_chains
from spectra.files import Provenance

VALUES = np.array([5.0, 2.0, 1.0, 0.5, 0.1])
# Two-sided 1e-5 of Student's t with 15 degrees of freedom, and of a normal variable: the failure probability of a cell.
T_16, NORMAL = float(stats.t.isf(0.5e-5, 15)), 4.42
SINGULAR = {
    "x2": lambda t: t[..., 0] ** 2,
    "x2y2": lambda t: (t[..., 0] * t[..., 1]) ** 2,
    "x2y4": lambda t: t[..., 0] ** 2 * t[..., 1] ** 4,
    "x4y4": lambda t: (t[..., 0] * t[..., 1]) ** 4,
    "r4": lambda t: t.square().sum(-1) ** 2,
    "x2+y4": lambda t: t[..., 0] ** 2 + t[..., 1] ** 4,
    "(xy-1)2": lambda t: ((1.0 + t[..., 0]) * (1.0 + t[..., 1]) - 1.0) ** 2,
}


def exact(values: np.ndarray, slope: np.ndarray, nb: float, pull: float, step: float) -> float:
    """``nb E[L - L*]`` of a chain on ``b x + h x^2 / 2``: autoregressive around ``-nb b / a``, ``a = nb h + g``."""
    stiffness = nb * values + pull
    centre, variance = -nb * slope / stiffness, 1.0 / (stiffness * (1.0 - 0.25 * step * stiffness))
    return float(nb * np.sum(slope * centre + 0.5 * values * (variance + centre**2)))


def test_each_cell_of_a_grid_on_a_quadratic_has_its_exact_value(quadratic, calibrated) -> None:
    found = calibrated(
        quadratic(VALUES),
        inverse_temperatures=(20.0, 50.0),
        localisations=(10.0, 20.0),
        step_sizes=(4e-3, 8e-3),
        calls=16,
        chains=2,
        steps=450,
    )
    assert found.complete
    assert len(found.cells) == 2 * 2 * 2
    for cell in found.cells:
        nb, pull, step = found.axes.at(cell.place)
        truth = exact(VALUES, 0.0 * VALUES, nb, pull, step)
        assert cell.outlook.value == pytest.approx(truth, rel=1e-6)
        assert cell.outlook.prediction.step_limit == pytest.approx(4.0 / (5.0 * nb + pull), rel=1e-6)
        # Fails with probability 1e-5, but for what five relaxation times leave of the start.
        assert abs(cell.estimate.value - truth) < T_16 * cell.estimate.standard_error + 0.002 * truth
        assert cell.estimate.standard_error < 0.05 * truth
        assert cell.outlook.burn_in == pytest.approx(10.0 / (step * (0.1 * nb + pull)), abs=1.0)


def test_a_slope_lowers_the_value_as_predicted(quadratic, calibrated) -> None:
    slope = np.array([0.3, 0.1, 0.0, 0.2, 0.1])
    found = calibrated(
        quadratic(VALUES, slope),
        inverse_temperatures=(20.0,),
        localisations=(5.0, 80.0),
        step_sizes=(4e-3, 6e-3),
        calls=16,
        chains=2,
        steps=600,
    )
    weak, strong = found.cells[1], found.cells[3]
    for cell in (weak, strong):
        nb, pull, step = found.axes.at(cell.place)
        truth = exact(VALUES, slope, nb, pull, step)
        assert cell.outlook.value == pytest.approx(truth, rel=1e-6)
        # Fails with probability 1e-5.
        assert abs(cell.estimate.value - truth) < T_16 * cell.estimate.standard_error + 0.005 * abs(truth)
    assert "no minimum" in weak.problems
    assert weak.estimate.value < 0.8 * weak.outlook.prediction.value.value
    assert not found.ground.stationary


def by_quadrature(function, nb: float, pull: float) -> float:
    """``E[nb L]`` on the plane under a pull."""
    x = torch.linspace(-7.0, 7.0, 1401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    cost = function(grid)
    weight = torch.exp(-nb * cost - 0.5 * pull * grid.square().sum(-1))
    return float((nb * cost * weight).sum() / weight.sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SINGULAR))
def test_normal_crossings(landscape_of, calibrated, name: str) -> None:
    found = calibrated(
        landscape_of(SINGULAR[name], torch.zeros(2)),
        inverse_temperatures=(10.0,),
        localisations=(1.0, 2.0),
        step_sizes=(0.004, 0.008),
        calls=40,
        chains=4,
        steps=3000,
    )
    for cell in found.cells:
        truth = by_quadrature(SINGULAR[name], 10.0, found.axes.at(cell.place)[1])
        # Failure probability 1e-5; 4 % for the step size, of first order in it.
        assert abs(cell.estimate.value - truth) < NORMAL * cell.estimate.standard_error + 0.04 * truth
        assert cell.estimate.standard_error < 0.1 * truth


@pytest.mark.slow
def test_the_reported_error_covers_the_truth_in_95_of_100_calls(quadratic, calibrated) -> None:
    # 200 runs of four calls: each is a sample of what a user sees.
    found = calibrated(
        quadratic(VALUES),
        inverse_temperatures=(20.0,),
        localisations=(10.0,),
        step_sizes=(2e-3,),
        calls=800,
        chains=2,
        steps=900,
    )
    (cell,) = found.cells
    truth = exact(VALUES, 0.0 * VALUES, 20.0, 10.0, 2e-3)
    runs = cell.estimate.samples.reshape(200, 4)
    reach = stats.t.isf(0.025, 3) * runs.std(axis=1, ddof=1) / 2.0
    covered = int((np.abs(runs.mean(axis=1) - truth) < reach).sum())
    # Binomial of 200 and 0.95: below 176 or above 199 with probability 1e-4 each at most.
    assert 176 <= covered <= 199


@pytest.mark.slow
def test_cells_are_those_of_chains_alone_in_distribution(quadratic, calibrated) -> None:
    """The other sampler of this package, at one of the settings: the same value within both errors."""
    landscape = quadratic(VALUES)
    settings = ChainSettings(
        inverse_temperature=20.0,
        localisation=10.0,
        step_size=4e-3,
        chains=32,
        draws=400,
        burn_in=210,
        batch_size=None,
        checks=4,
    )
    alone = sample_chains(landscape, settings)
    found = calibrated(
        landscape,
        inverse_temperatures=(20.0,),
        localisations=(10.0,),
        step_sizes=(4e-3,),
        calls=16,
        chains=2,
        steps=610,
    )
    (cell,) = found.cells
    error = math.hypot(20.0 * alone.standard_error, cell.estimate.standard_error)
    assert abs(cell.estimate.value - 20.0 * alone.mean_rise) < NORMAL * error
    assert cell.chains.mean_acceptance == pytest.approx(alone.mean_acceptance, abs=0.05)


def test_members_share_their_noise_over_cells_and_differ_from_one_another(quadratic, calibrated) -> None:
    options = {"inverse_temperatures": (20.0,), "step_sizes": (1e-3, 2e-3), "calls": 2, "chains": 2, "steps": 40}
    two = calibrated(quadratic(VALUES), localisations=(10.0, 20.0), **options)
    one = calibrated(quadratic(VALUES), localisations=(20.0,), **options)
    other = calibrated(quadratic(VALUES), localisations=(20.0,), seed=1, **options)
    assert np.allclose(two.rises[2:], one.rises, rtol=1e-5)
    everything = np.concatenate([one.rises[0, :, 1], other.rises[0, :, 1]])
    assert len(np.unique(everything)) == len(everything)


def test_members_that_do_not_fit_the_memory_together_have_the_same_numbers_one_after_the_other(quadratic) -> None:
    landscape = quadratic(VALUES)
    settings = SweepSettings(
        inverse_temperatures=(20.0,),
        localisations=(10.0,),
        step_sizes=(1e-3, 2e-3),
        calls=3,
        chains=1,
        steps=30,
        batch_size=None,
    )
    # A chain takes 6 vectors of 5 float64 at the least, so there is room for two of the three of a cell.
    operator = sweep_operator(landscape, settings, 2**20)
    each = sweep_work(landscape, settings, operator, 2**20).chain_bytes
    work = sweep_work(landscape, settings, operator, int(2.5 * each))
    assert (work.at_once, work.members_at_once, work.chains_at_once) == (1, 2, 2)
    assert sweep_work(landscape, settings, operator, int(0.8 * each)).chains_at_once == 1
    begun = prepare(landscape, settings, Provenance("here", "ab", dtype="float64"))
    parts = replace(begun, at_once=1, members_at_once=2)
    states: list[Calibration] = []
    together, apart = run_chains(landscape, begun), run_chains(landscape, parts, on_save=states.append)
    assert np.allclose(together.rises, apart.rises, rtol=1e-5, atol=1e-9)
    assert np.allclose(together.acceptance, apart.acceptance, rtol=1e-5)
    assert together.gradients == apart.gradients
    # A run that ends after two members of the second cell goes on with the third.
    left = replace(states[2], rises=states[2].rises.copy(), acceptance=states[2].acceptance.copy())
    left.rises[1, 2], left.acceptance[1, 2] = np.nan, np.nan
    assert left.underway is not None
    assert (left.done, left.underway.member) == (1, 2)
    assert np.array_equal(run_chains(landscape, left).rises, apart.rises)


def test_a_failed_chain_is_left_out_and_counted(quadratic, calibrated) -> None:
    found = calibrated(
        quadratic(VALUES),
        inverse_temperatures=(20.0,),
        localisations=(10.0,),
        step_sizes=(1e-3, 0.2),
        calls=2,
        chains=2,
        steps=60,
    )
    sound, failed = found.cells
    assert failed.failed_share == 1.0
    assert math.isnan(failed.estimate.value)
    assert {"past the limit", "failed"} <= set(failed.problems)
    assert sound.failed_share == 0.0
    assert math.isfinite(sound.estimate.value)
