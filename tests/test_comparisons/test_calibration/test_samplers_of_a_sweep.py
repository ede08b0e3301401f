"""Sweeps of preconditioned and of accepted chains: exact moments on a quadratic, and what the spectrum says of them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import solve_discrete_lyapunov

from comparisons.calibration import Outlook, Slope, SweepSettings, factors_of, metric_of, outlook_of, prepare
from comparisons.langevin import expected_acceptance, largest_accepted_step
from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.files import Provenance
from spectra.operators import MatrixOperator

VALUES = np.array([5.0, 2.0, 1.0, 0.5, 0.1])
NOTHING = Slope(np.zeros(1), np.zeros(1))
# Two-sided 1e-5 of Student's t with 15 and with 31 degrees of freedom, and of a normal variable.
T_16, T_32, NORMAL = float(stats.t.isf(0.5e-5, 15)), float(stats.t.isf(0.5e-5, 31)), 4.42


def rotated(values: np.ndarray) -> np.ndarray:
    """A symmetric matrix of these eigenvalues on a random basis."""
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((len(values), len(values))))[0]
    matrix = (basis * values) @ basis.T
    return 0.5 * (matrix + matrix.T)


def stationary(hessian: np.ndarray, factors: np.ndarray, nb: float, pull: float, step: float) -> float:
    """``nb E[L - L*]`` of ``x -> (1 - e/2 F A) x + N(0, e F)``: its covariance X solves ``X = B X B^T + e F``."""
    stiffness, size = nb * hessian + pull * np.eye(len(hessian)), len(hessian)
    moves = np.eye(size) - 0.5 * step * factors[:, None] * stiffness
    covariance = solve_discrete_lyapunov(moves, step * np.diag(factors))
    return float(0.5 * nb * np.trace(hessian @ covariance))


# Preconditioned


@pytest.mark.parametrize("more", [0.0, 0.3])
def test_the_spectrum_in_the_metric_predicts_the_exact_moments(more: float) -> None:
    """Value, limit and burn-in against the dense matrices; ``more`` of the Hessian is a penalty."""
    hessian, nb, random = rotated(VALUES), 20.0, np.random.default_rng(0)
    factors = random.uniform(0.1, 1.0, (2, 5))
    operator = MatrixOperator(torch.from_numpy(hessian - more * np.eye(5)))
    pulls, settings = np.array([5.0, 20.0]), SweepSettings()
    metric = metric_of(operator, torch.from_numpy(factors), np.array([nb]), pulls, settings, penalty=more)
    outlook = outlook_of("rmsprop", SpectralDensity.from_eigenvalues(VALUES), NOTHING, metric)
    for each, pull in zip(factors, pulls, strict=True):
        root = np.sqrt(each)
        levels = np.linalg.eigvalsh(root[:, None] * (nb * hessian + pull * np.eye(5)) * root)
        for step in (0.002, 0.012):
            found = outlook.at(nb, pull, step)
            assert found.value == pytest.approx(stationary(hessian, each, nb, pull, step), rel=1e-7)
            assert found.prediction.step_limit == pytest.approx(4.0 / levels[-1], rel=1e-7)
            assert found.burn_in == pytest.approx(10.0 / (step * levels[0]), abs=1.0)
            # What is drawn over a figure is the same at a place of the grid.
            at, steps = np.array([pull]), np.array([step])
            values, biases = outlook.values(nb, at, steps)
            assert (values[0], biases[0]) == pytest.approx((found.value, found.bias), rel=1e-9)
            assert outlook.burn_ins(nb, at, steps)[0] == pytest.approx(10.0 / (step * levels[0]), rel=1e-6)
        assert outlook.at(nb, pull, 4.1 / levels[-1]).value == math.inf
    between = outlook.limits(nb, np.array([5.0, 10.0, 20.0]))
    assert min(between[0], between[2]) < between[1] < max(between[0], between[2])


def test_probes_find_what_the_step_adds_within_their_error() -> None:
    values = np.concatenate([np.geomspace(10.0, 0.1, 20), np.zeros(40)])
    hessian, factors = rotated(values), np.random.default_rng(1).uniform(0.1, 1.0, (1, 60))
    place = np.array([20.0]), np.array([10.0])
    metric = metric_of(MatrixOperator(torch.from_numpy(hessian)), torch.from_numpy(factors), *place, SweepSettings())
    outlook = outlook_of("rmsprop", SpectralDensity.from_eigenvalues(values), NOTHING, metric)
    step = 0.1 * float(outlook.limits(20.0, np.array([10.0]))[0])
    added = metric.added(20.0, 10.0, step)
    truth = stationary(hessian, factors[0], 20.0, 10.0, step) - outlook.at(20.0, 10.0, step).plain
    # Fails with probability 1e-5.
    assert abs(added.value - truth) < T_16 * added.standard_error
    assert added.standard_error < 0.25 * truth
    # Without the metric it would be another number.
    plain = Outlook(outlook.density, NOTHING).at(20.0, 10.0, step)
    assert plain.value - plain.plain > 1.5 * truth


def test_factors_of_a_constant_gradient_are_in_closed_form(landscape_of) -> None:
    slope = torch.tensor([3.0, -0.2, 0.0]).double()
    outlook = Outlook(SpectralDensity.from_eigenvalues(np.ones(3)), NOTHING)
    landscape = landscape_of(lambda thetas: thetas @ slope, torch.zeros(3))
    found = factors_of(landscape, SweepSettings(), np.array([1.0]), np.array([2.0, 3.0]), outlook, at_once=2)
    # 1 / (|slope| + floor) over its largest.
    assert np.allclose(found, 0.1 / (np.abs(slope.numpy()) + 0.1), rtol=1e-6)
    assert found.shape == (2, 3)


def test_preconditioned_chains_go_where_plain_ones_diverge(landscape_of, calibrated) -> None:
    curved, nb, pull, step = np.array([40.0, 1.0]), 5.0, 20.0, 0.02
    landscape = landscape_of(lambda t: 0.5 * (t**2 @ torch.from_numpy(curved)), torch.zeros(2))
    found = calibrated(
        landscape,
        inverse_temperatures=(nb,),
        localisations=(pull,),
        step_sizes=(step,),
        calls=16,
        chains=2,
        steps=900,
        sampler="rmsprop",
    )
    (cell,) = found.cells
    plain = Outlook(found.outlook.density, NOTHING)
    factors = factors_of(landscape, found.settings, *_place(nb, pull), plain, at_once=32)[0].numpy()
    truth = stationary(np.diag(curved), factors, nb, pull, step)
    assert step > float(plain.limits(nb, np.array(pull)))
    assert factors[0] < 0.3
    assert cell.outlook.value == pytest.approx(truth, rel=1e-6)
    # Fails with probability 1e-5; the step adds more than that, so that it is seen.
    assert abs(cell.estimate.value - truth) < T_16 * cell.estimate.standard_error + 0.002 * truth
    assert truth > 1.08 * cell.outlook.plain
    assert cell.estimate.standard_error < 0.03 * truth
    assert cell.chains.mean_acceptance > 0.5
    assert cell.failed_share == 0.0


def _place(nb: float, pull: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([nb]), np.array([pull])


# Accepted or rejected


@pytest.mark.parametrize("stiffness, step", [([4.0], 0.5), ([3.0, 1.0, 0.2], 0.8), ([2.0] * 30, 0.4)])
def test_the_expected_acceptance_is_the_mean_over_proposals(stiffness: list[float], step: float) -> None:
    a, random = np.array(stiffness), np.random.default_rng(0)
    x, noise = random.standard_normal((2, 50_000, len(a)))
    x /= np.sqrt(a)
    y = x - 0.5 * step * a * x + math.sqrt(step) * noise
    back = x - y + 0.5 * step * a * y
    ratio = 0.5 * (a * (x**2 - y**2)).sum(1) + 0.5 * (noise**2).sum(1) - (back**2).sum(1) / (2.0 * step)
    taken = np.minimum(1.0, np.exp(ratio))
    found = expected_acceptance(a, np.ones(len(a)), step)
    # Fails with probability 1e-5.
    assert abs(taken.mean() - found) < NORMAL * taken.std() / math.sqrt(len(x))
    largest = largest_accepted_step(np.ones(1), np.full(1, 5000.0), 0.2)
    assert expected_acceptance(np.ones(1), np.full(1, 5000.0), largest) == pytest.approx(0.2, rel=1e-6)


def test_accepted_chains_have_the_value_without_a_step_and_the_predicted_acceptance(quadratic, calibrated) -> None:
    found = calibrated(
        quadratic(VALUES),
        inverse_temperatures=(20.0,),
        localisations=(10.0, 20.0),
        step_sizes=(0.012, 0.02),
        calls=16,
        chains=2,
        steps=700,
        sampler="mala",
        batch_size=None,
    )
    for cell in found.cells:
        nb, pull, step = found.axes.at(cell.place)
        truth = float(0.5 * (nb * VALUES / (nb * VALUES + pull)).sum())
        assert cell.outlook.value == pytest.approx(truth, rel=1e-6)
        assert cell.outlook.bias == pytest.approx(0.0, abs=1e-9)
        # Fails with probability 1e-5, but for what five relaxation times leave of the start.
        assert abs(cell.estimate.value - truth) < T_16 * cell.estimate.standard_error + 0.002 * truth
        means = cell.chains.acceptance.mean(1)
        error = means.std(ddof=1) / math.sqrt(len(means))
        # Fails with probability 1e-5 too.
        assert abs(means.mean() - cell.outlook.acceptance) < T_32 * error
        assert error < 0.01
        # A plain step of this size adds more than five errors.
        euler = Outlook(found.outlook.density, found.slope).at(nb, pull, step)
        assert euler.value - truth > 5.0 * cell.estimate.standard_error
        assert cell.outlook.burn_in > euler.burn_in
        assert "biased" not in cell.problems


def test_steps_that_are_hardly_accepted_are_past_the_limit_and_not_sound(quadratic, calibrated) -> None:
    options = {"inverse_temperatures": (20.0,), "localisations": (10.0,), "step_sizes": (0.02, 0.3)}
    found = calibrated(quadratic(VALUES), **options, calls=2, chains=2, steps=200, sampler="mala", batch_size=None)
    fine, far = found.cells
    assert {"past the limit", "rejected"} <= set(far.problems)
    assert far.failed_share == 0.0
    assert not {"past the limit", "rejected", "failed"} & set(fine.problems)


def test_what_a_sampler_cannot_do_is_refused(quadratic) -> None:
    with pytest.raises(UserError, match="sampler must be one of sgld, rmsprop, mala; got 'hmc'"):
        SweepSettings(sampler="hmc")
    with pytest.raises(UserError, match="batch_size must be left out with sampler mala, which takes all rows, got 32"):
        SweepSettings(sampler="mala", batch_size=32)
    # The usual number of rows gives way, and the steps are shares of a limit that is one of acceptance.
    settings = SweepSettings(sampler="mala", inverse_temperatures=(20.0,), localisations=(10.0,), penalty="none")
    assert settings.batch_size is None
    found = prepare(quadratic(VALUES), settings, Provenance("here", "ab", dtype="float64"))
    limit = largest_accepted_step(20.0 * VALUES + 10.0, np.ones(5), 0.2)
    assert np.allclose(found.axes.step_sizes, limit * np.array([[[0.05, 0.1, 0.2, 0.4, 0.8]]]), rtol=1e-6)
