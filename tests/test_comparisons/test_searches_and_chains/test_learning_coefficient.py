"""Learning coefficients: chains against exact finite-temperature values, predictions, failures."""

import math

import numpy as np
import pytest
import torch

from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.flatness import Reading
from comparisons.langevin import (
    Chains,
    ChainSettings,
    half_effective_dimension,
    local_learning_coefficient,
    sample_chains,
    two_temperature_coefficient,
    widely_applicable_criterion,
)
from comparisons.langevin.local_coefficient import chain_cautions
from comparisons.langevin.minibatches import Minibatches
from comparisons.langevin.prediction import predict_chains
from comparisons.measures.learning_coefficient import MEASURES
from spectra.costs import cross_entropy, kl_from_anchor, mean_squared_error
from spectra.density import SpectralDensity
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian

VALUES = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1]).double()
DENSITY = SpectralDensity.from_eigenvalues(VALUES.numpy())
# Of Student's t with 63 degrees of freedom, two-sided 1e-4: the failure probability of tests with 64 chains.
T_64 = 4.16
SINGULAR = {
    "x2y2": lambda t: (t[..., 0] * t[..., 1]) ** 2,
    "x2y4": lambda t: t[..., 0] ** 2 * t[..., 1] ** 4,
    "x4y4": lambda t: (t[..., 0] * t[..., 1]) ** 4,
    "r4": lambda t: t.square().sum(-1) ** 2,
    "x2+y4": lambda t: t[..., 0] ** 2 + t[..., 1] ** 4,
}
# E[nb L] on the plane under a pull g = 1 at nb = 10, by quadrature elsewhere.
AT_TEN = {"x2y2": 0.2903, "x2y4": 0.1734, "x4y4": 0.1225, "r4": 0.4576, "x2+y4": 0.7011}


# The spectrum's prediction


def test_the_prediction_is_the_closed_form(quadratic_coefficient) -> None:
    found = predict_chains(DENSITY, inverse_temperature=50.0, localisation=20.0, step_size=0.005)
    options = {"inverse_temperature": 50.0, "localisation": 20.0}
    assert found.value.value == pytest.approx(quadratic_coefficient(VALUES, step_size=0.005, **options))
    assert found.value_without_step.value == pytest.approx(quadratic_coefficient(VALUES, **options))
    assert half_effective_dimension(DENSITY, **options).value == pytest.approx(quadratic_coefficient(VALUES, **options))
    assert found.step_limit == pytest.approx(4.0 / 270.0)
    assert found.relaxation == pytest.approx(2.0 / (0.005 * 25.0))


def test_steps_past_the_limit_and_unbound_directions_are_said() -> None:
    fast = predict_chains(DENSITY, inverse_temperature=50.0, localisation=20.0, step_size=0.02)
    assert "past the limit" in fast.cautions[0]
    assert math.isinf(fast.value.value)
    saddle = SpectralDensity.from_eigenvalues(np.array([1.0, -1.0]))
    found = predict_chains(saddle, inverse_temperature=50.0, localisation=20.0)
    assert "raise localisation above 50" in found.cautions[0]
    with pytest.raises(ValueError, match="no burn-in suffices"):
        _ = found.burn_in


# Chains


def test_chains_on_a_quadratic_find_the_prediction_with_its_bias(quadratic, rotated) -> None:
    settings = ChainSettings(
        inverse_temperature=50.0, localisation=20.0, step_size=0.005, chains=64, draws=800, batch_size=None
    )
    found = local_learning_coefficient(quadratic(rotated(VALUES)), settings, density=DENSITY)
    assert found.chains.burn_in == 80
    assert found.prediction is not None
    error = found.estimate.value - found.prediction.value.value
    assert abs(error) < T_64 * found.estimate.standard_error  # fails with probability 1e-4
    # The step's bias is several standard errors: the estimate is not that of an infinitely small step.
    bias = found.prediction.value.value - found.prediction.value_without_step.value
    assert bias > 5.0 * found.estimate.standard_error
    assert found.chains.scale_reduction < 1.01
    # And it is said: 22 %, where the spectrum's own step adds at most 5.
    assert len(found.cautions) == 1
    assert found.cautions[0].startswith("step_size 0.005 alone changes the value by +23% (the limit is 0.0148)")


def test_step_size_and_burn_in_come_from_the_spectrum(quadratic) -> None:
    settings = ChainSettings(inverse_temperature=50.0, localisation=20.0, chains=4, draws=10, batch_size=None)
    found = local_learning_coefficient(quadratic(torch.diag(VALUES)), settings, density=DENSITY)
    assert found.chains.step_size == pytest.approx(0.05 * 4.0 / 270.0)
    assert found.chains.burn_in == math.ceil(5.0 * 2.0 / (found.chains.step_size * 25.0))
    with pytest.raises(ValueError, match="step_size and burn_in must be given"):
        local_learning_coefficient(quadratic(torch.diag(VALUES)), settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SINGULAR))
def test_singular_cases(landscape_of, name) -> None:
    settings = ChainSettings(
        inverse_temperature=10.0,
        localisation=1.0,
        step_size=0.003,
        chains=200,
        draws=4000,
        burn_in=2000,
        batch_size=None,
    )
    found = local_learning_coefficient(landscape_of(SINGULAR[name], torch.zeros(2)), settings)
    error = found.estimate.value - AT_TEN[name]
    # Failure probability 1e-4; 2 % for the step size, which is of first order in it.
    assert abs(error) < 3.9 * found.estimate.standard_error + 0.02 * AT_TEN[name]


def test_the_table_is_the_integral() -> None:
    x = torch.linspace(-7.0, 7.0, 1401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    for name, function in SINGULAR.items():
        cost = function(grid)
        weight = torch.exp(-10.0 * cost - 0.5 * grid.square().sum(-1))
        assert float((10.0 * cost * weight).sum() / weight.sum()) == pytest.approx(AT_TEN[name], abs=1e-4)


def regression(rows: int = 32) -> tuple[Landscape, torch.Tensor]:
    """Least squares at its minimum, and the Hessian's eigenvalues."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=random, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-1.0], [0.5]]).double()  # no residual: minibatches add no noise at the minimum
    model = torch.nn.Linear(3, 1, bias=False).double()
    theta = torch.linalg.lstsq(x, y).solution.reshape(-1)
    landscape = Landscape(model, mean_squared_error, [(x[:20], y[:20]), (x[20:], y[20:])], theta=theta)
    return landscape, torch.linalg.eigvalsh(2.0 * x.T @ x / rows)


def test_minibatches_are_unbiased_and_chains_share_a_pass() -> None:
    landscape, _ = regression()
    batches = Minibatches(landscape, 8)
    theta = landscape.theta + torch.tensor([[0.1, 0.2, -0.3], [0.0, 0.5, 0.2]]).double()
    index = torch.arange(32).reshape(4, 8)
    found = [batches.slopes(theta, rows.expand(2, -1)) for rows in index]
    assert batches.vmapped
    rises = torch.stack([one for one, _ in found]).mean(0)
    assert torch.allclose(rises, landscape.costs(theta) - landscape.anchor_cost, rtol=1e-12)
    slopes = torch.stack([one for _, one in found]).mean(0)
    assert torch.allclose(slopes, landscape.gradients(theta), rtol=1e-10)
    batches.vmapped = False
    looped = batches.slopes(theta, index[:2])
    batches.vmapped = True
    shared = batches.slopes(theta, index[:2])
    assert all(torch.allclose(one, two, rtol=1e-12) for one, two in zip(looped, shared, strict=True))


def test_penalties_ignored_samples_and_other_costs_count_as_in_the_landscape(relu_network, classes) -> None:
    inputs, targets = classes
    targets = targets.clone()
    targets[::5] = -100
    network = relu_network(None)
    for cost in (cross_entropy, kl_from_anchor):
        landscape = Landscape(network, cost, (inputs, targets), l2=0.3)
        theta = landscape.theta + 0.1 * torch.ones(2, landscape.size).double()
        rises, slopes = Minibatches(landscape, None).slopes(theta, torch.arange(40).expand(2, -1))
        assert torch.allclose(rises, landscape.costs(theta) - landscape.anchor_cost, rtol=1e-10)
        assert torch.allclose(slopes, landscape.gradients(theta), rtol=1e-10)


def test_minibatch_chains_find_the_coefficient_of_a_regression() -> None:
    landscape, values = regression()
    density = SpectralDensity.from_eigenvalues(values.numpy())
    # So small a step that the gradient's noise, e (nb)^2 / 4 of its covariance against 1, adds less than 1 %.
    settings = ChainSettings(
        inverse_temperature=20.0, localisation=10.0, step_size=0.002, chains=64, draws=1500, batch_size=16
    )
    found = local_learning_coefficient(landscape, settings, density=density)
    assert found.prediction is not None
    value = found.prediction.value.value
    # Fails with probability 1e-4, but for that 1 %.
    assert abs(found.estimate.value - value) < T_64 * found.estimate.standard_error + 0.01 * value


def test_the_acceptance_is_that_of_metropolis(quadratic) -> None:
    # In one dimension with curvature a, by quadrature over state and noise, states from the chain's own N(0, s^2).
    settings = ChainSettings(
        inverse_temperature=3.0,
        localisation=1.0,
        step_size=0.5,
        burn_in=20,
        chains=400,
        draws=40,
        checks=40,
        batch_size=None,
    )
    found = sample_chains(quadratic(torch.ones(1, 1)), settings)
    a, e = 4.0, 0.5
    x = np.linspace(-6.0, 6.0, 801) / math.sqrt(a * (1.0 - e * a / 4.0))
    z = np.linspace(-6.0, 6.0, 801)
    states, noise = np.meshgrid(x, z, indexing="ij")
    moved = states * (1.0 - e * a / 2.0) + math.sqrt(e) * noise
    returned = states - moved * (1.0 - e * a / 2.0)
    ratio = a / 2.0 * (states**2 - moved**2) + noise**2 / 2.0 - returned**2 / (2.0 * e)
    weight = np.exp(-(states**2) * a * (1.0 - e * a / 4.0) / 2.0 - noise**2 / 2.0)
    truth = float((np.minimum(1.0, np.exp(ratio)) * weight).sum() / weight.sum())
    means = found.acceptance.mean(1)
    assert abs(means.mean() - truth) < 3.95 * means.std(ddof=1) / 20.0  # fails with probability 1e-4


# What goes wrong


def test_burn_in_is_not_averaged_in() -> None:
    rises = np.tile(np.concatenate([np.full(50, 9.0), np.full(100, 1.0)]), (4, 1))
    rises += np.random.default_rng(0).normal(0.0, 0.1, rises.shape)
    found = Chains(rises, 50, 0.1, 1.0, 1.0, np.empty((4, 0)), 0.0)
    assert found.mean_rise == pytest.approx(1.0, abs=0.03)  # six standard errors
    assert np.isnan(found.mean_acceptance)


def test_chains_that_fail_are_left_out_and_counted() -> None:
    rises = 0.5 + np.random.default_rng(0).normal(0.0, 0.1, (6, 200))
    rises[2, 100:] = np.nan
    found = Chains(rises, 0, 0.1, 1.0, 1.0, np.empty((6, 0)), 0.0)
    assert found.kept.shape == (5, 200)
    assert found.mean_rise == pytest.approx(rises[[0, 1, 3, 4, 5]].mean())
    assert chain_cautions(found)[0].startswith("1 of 6 chains")


def test_a_diverging_run_gives_no_number_but_a_sentence(quadratic) -> None:
    settings = ChainSettings(
        inverse_temperature=50.0, localisation=20.0, step_size=0.05, chains=3, draws=200, burn_in=10, batch_size=None
    )
    found = local_learning_coefficient(quadratic(torch.diag(VALUES)), settings, density=DENSITY)
    assert math.isnan(found.estimate.value)
    assert "past the limit" in found.cautions[0]
    assert found.cautions[1].startswith("3 of 3 chains")


def test_a_checkpoint_that_is_no_minimum_is_flagged(quadratic) -> None:
    off = quadratic(torch.diag(VALUES), torch.zeros(5), centre=torch.full((5,), 1.0))
    settings = ChainSettings(inverse_temperature=50.0, localisation=5.0, chains=8, draws=300, batch_size=None)
    found = local_learning_coefficient(off, settings, density=DENSITY)
    text = " ".join(found.cautions)
    assert found.estimate.value < 0.0
    assert "negative" in text
    assert "no minimum of this cost: its gradient" in text
    assert found.stationarity.gradient_norm == pytest.approx(float(VALUES.norm()))


def test_drift_and_disagreement_are_flagged() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.1, (8, 400))
    drifting = Chains(noise + np.linspace(0.0, 2.0, 400), 0, 0.1, 1.0, 1.0, np.full((8, 2), 0.2), 0.0)
    text = " ".join(chain_cautions(drifting))
    assert "drift" in text
    assert "disagree" in text
    assert "would accept 20%" in text
    assert chain_cautions(Chains(noise + 1.0, 0, 0.1, 1.0, 1.0, np.ones((8, 2)), 0.0)) == ()


def test_seeds_of_chains_and_runs_are_apart(quadratic) -> None:
    landscape = quadratic(torch.diag(VALUES))

    def rises(seed: int, chains: int, draws: int = 20) -> np.ndarray:
        settings = ChainSettings(
            inverse_temperature=5.0,
            localisation=1.0,
            step_size=0.01,
            burn_in=0,
            chains=chains,
            draws=draws,
            batch_size=None,
            seed=seed,
        )
        return sample_chains(landscape, settings).rises

    few, many, other = rises(0, 3), rises(0, 5), rises(1, 3)
    assert np.allclose(few, many[:3], rtol=1e-12)
    assert np.allclose(few, rises(0, 3, 40)[:, :20], rtol=1e-12)
    everything = np.concatenate([many, other])[:, 1:]
    assert len(np.unique(everything[:, 0].round(15))) == len(everything)


def test_the_model_is_left_in_its_mode() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=random)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(), torch.nn.Linear(4, 2)
    )
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    landscape = Landscape(model, cross_entropy, (x, torch.arange(12) % 2))
    settings = ChainSettings(inverse_temperature=5.0, step_size=1e-3, burn_in=0, draws=5, chains=2, batch_size=4)
    sample_chains(landscape, settings)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


# Other routes


@pytest.mark.slow
def test_two_temperatures_and_the_criterion_on_a_quadratic(quadratic) -> None:
    landscape = quadratic(torch.eye(5), floor=0.3)

    def chains(nb: float) -> Chains:
        # So weak a pull that each direction gives 1/2; the step is small against the curvature.
        settings = ChainSettings(
            inverse_temperature=nb,
            localisation=1e-6,
            step_size=0.05 / nb,
            burn_in=800,
            chains=64,
            draws=1500,
            batch_size=None,
        )
        return sample_chains(landscape, settings)

    found = two_temperature_coefficient(chains(2.0), chains(20.0))
    # Bias of the step: 1 / (1 - 0.05 / 4) on 5/2. Fails with probability 1e-4.
    assert abs(found.value - 2.5 / (1.0 - 0.0125)) < T_64 * found.standard_error
    with pytest.raises(ValueError, match="n / log n"):
        widely_applicable_criterion(landscape, chains(2.0))


def test_the_criterion_is_n_times_the_mean_cost(quadratic) -> None:
    x = torch.ones(20, 1).double()
    model = torch.nn.Linear(1, 1, bias=False).double()
    landscape = Landscape(model, mean_squared_error, (x, x + 0.5), theta=torch.tensor([1.5]))
    settings = ChainSettings(localisation=1e-6, step_size=0.02, burn_in=100, chains=64, draws=500, batch_size=None)
    found = widely_applicable_criterion(landscape, sample_chains(landscape, settings))
    # n L* + log n E[nb (L - L*)]: 0 + log(20) / 2, and the step's bias with a = nb 2.
    bias = 1.0 / (1.0 - 0.02 * 2.0 * 20.0 / math.log(20.0) / 4.0)
    assert abs(found.value - math.log(20.0) / 2.0 * bias) < T_64 * found.standard_error  # fails with probability 1e-4


def test_rows_of_the_registry_read_the_chains_and_the_spectrum(relu_network, classes, quadratic_coefficient) -> None:
    landscape = Landscape(relu_network(None), cross_entropy, classes)
    evidence = Evidence(landscape, settings=EvidenceSettings(budget=400))
    by_name = {measure.name: measure.compute for measure in MEASURES}
    nb = 40.0 / math.log(40.0)
    values = torch.linalg.eigvalsh(GaussNewton(landscape).to_dense())
    truth = quadratic_coefficient(values, inverse_temperature=nb, localisation=100.0)
    assert by_name["half-effective-dimension"](evidence).value == pytest.approx(truth, rel=1e-9)
    read, work = evidence.watch(by_name["learning-coefficient"])
    assert isinstance(read, Reading)
    assert read.samples == 8
    hessian = torch.linalg.eigvalsh(Hessian(landscape).to_dense())
    options = {"inverse_temperature": nb, "localisation": 100.0, "step_size": read.details["step size"]}
    assert read.details["spectrum"] == pytest.approx(quadratic_coefficient(hessian, **options), rel=1e-6)
    assert work.gradients > 400.0  # the burn-in, which the spectrum sets, comes on top of the budget
