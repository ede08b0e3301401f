"""Samplers beside plain SGLD: Metropolis-adjusted chains, preconditioned ones, parts of the parameters, blocks."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.langevin import Chains, ChainSettings, local_learning_coefficient, sample_chains
from comparisons.langevin.local_coefficient import chain_cautions
from comparisons.measures import local_coefficient
from spectra.costs import mean_squared_error
from spectra.density import SpectralDensity
from spectra.landscape import Landscape
from volume import chunks

VALUES = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1]).double()
DENSITY = SpectralDensity.from_eigenvalues(VALUES.numpy())
HEAT = {"inverse_temperature": 50.0, "localisation": 20.0}
# Of Student's t with 63 degrees of freedom, two-sided 1e-4: the failure probability of tests with 64 chains.
T_64 = 4.16


# Metropolis-adjusted


def test_accepted_steps_have_no_bias_where_plain_ones_have(quadratic, rotated, quadratic_coefficient) -> None:
    settings = ChainSettings(step_size=0.005, chains=64, draws=500, sampler="mala", **HEAT)
    found = local_learning_coefficient(quadratic(rotated(VALUES)), settings, density=DENSITY)
    exact = quadratic_coefficient(VALUES, **HEAT)
    assert abs(found.estimate.value - exact) < T_64 * found.estimate.standard_error  # fails with probability 1e-4
    # Plain steps of this size add 23 %, twelve standard errors.
    biased = quadratic_coefficient(VALUES, step_size=0.005, **HEAT)
    assert biased - exact > 8.0 * found.estimate.standard_error
    assert found.prediction is not None
    assert found.prediction.value.value == pytest.approx(exact)
    assert found.cautions == ()


def test_the_rate_of_acceptance_is_the_integral(quadratic) -> None:
    # In one dimension of curvature a, over states of N(0, 1 / a) and noise, on a grid.
    settings = ChainSettings(
        inverse_temperature=3.0, localisation=1.0, step_size=0.5, burn_in=20, chains=400, draws=60, sampler="mala"
    )
    found = sample_chains(quadratic(torch.ones(1, 1)), settings)
    a, e = 4.0, 0.5
    axis = np.linspace(-6.0, 6.0, 801)
    states, noise = np.meshgrid(axis / math.sqrt(a), axis, indexing="ij")
    moved = states * (1.0 - e * a / 2.0) + math.sqrt(e) * noise
    returned = states - moved * (1.0 - e * a / 2.0)
    ratio = a / 2.0 * (states**2 - moved**2) + noise**2 / 2.0 - returned**2 / (2.0 * e)
    weight = np.exp(-(states**2) * a / 2.0 - noise**2 / 2.0)
    truth = float((np.minimum(1.0, np.exp(ratio)) * weight).sum() / weight.sum())
    means = found.acceptance.mean(1)
    assert found.acceptance.shape == (400, 60)
    assert abs(means.mean() - truth) < 3.95 * means.std(ddof=1) / 20.0  # fails with probability 1e-4


def test_steps_past_the_limit_are_rejected_and_that_is_said(quadratic) -> None:
    settings = ChainSettings(step_size=0.2, chains=8, draws=100, burn_in=10, sampler="mala", **HEAT)
    found = local_learning_coefficient(quadratic(torch.diag(VALUES)), settings, density=DENSITY)
    assert not found.chains.failed.any()
    assert any("of steps are accepted, and the chains hardly move" in one for one in found.cautions)
    assert not any("diverge" in one or "biases" in one for one in found.cautions)


# Preconditioned


def test_the_factors_of_a_constant_gradient_are_in_closed_form(landscape_of) -> None:
    slope = torch.tensor([3.0, -0.2, 0.0]).double()
    landscape = landscape_of(lambda thetas: thetas @ slope, torch.zeros(3))
    settings = ChainSettings(
        inverse_temperature=1.0,
        localisation=2.0,
        step_size=0.2,
        chains=64,
        draws=300,
        burn_in=200,
        batch_size=None,
        sampler="rmsprop",
        decay=0.9,
        floor=1.0,
    )
    found = sample_chains(landscape, settings)
    # 1 / (|slope| + floor) over its largest: the means of squares are those of a constant, whatever their age.
    assert found.factors is not None
    assert np.allclose(found.factors, [0.25, 1.0], rtol=1e-9)
    # The mean of x is -slope / g in each direction, and the cost is slope x. Fails with probability 1e-4.
    truth = -float((slope**2).sum()) / 2.0
    assert abs(found.mean_rise - truth) < T_64 * found.standard_error


def test_a_preconditioner_leaves_the_coefficient_as_it_is(quadratic, quadratic_coefficient) -> None:
    # Gradients of the stiff direction are far above the floor, so that its factor is a small part of the other's.
    values = torch.tensor([40.0, 1.0]).double()
    density = SpectralDensity.from_eigenvalues(values.numpy())
    heat = {"inverse_temperature": 5.0, "localisation": 20.0}
    settings = ChainSettings(chains=64, draws=600, batch_size=None, sampler="rmsprop", **heat)
    found = local_learning_coefficient(quadratic(torch.diag(values)), settings, density=density)
    assert found.chains.step_size == pytest.approx(0.05 * 4.0 / 220.0)
    assert found.chains.factors is not None
    assert found.chains.factors[:, 0].mean() < 0.3
    assert np.allclose(found.chains.factors[:, 1], 1.0)
    exact = quadratic_coefficient(values, **heat)
    # Fails with probability 1e-4, but for what the step can add at most, which is said.
    assert found.prediction is not None
    most = found.prediction.value.value - exact
    assert 0.0 < most < 0.05 * exact
    assert abs(found.estimate.value - exact) < T_64 * found.estimate.standard_error + most


def test_a_preconditioner_that_moves_with_the_chain_doubles_the_coefficient() -> None:
    # What is published: F is renewed at each step, and no term for its slope added. Then the density of x is
    # exp(-U) / F rather than exp(-U): with F = 1 / |h x|, x^2 has twice its mean. One direction, in numpy.
    random, a, step, decay = np.random.default_rng(0), 1.0, 2e-3, 0.5
    x, v = np.full(3000, 0.1), np.zeros(3000)
    total = []
    for number in range(3000):
        v = decay * v + (1.0 - decay) * x**2
        factor = 1.0 / (np.sqrt(v) + 1e-3)
        x = x - 0.5 * step * factor * a * x + np.sqrt(step * factor) * random.normal(size=3000)
        total += [float((x**2).mean())] if number >= 1500 else []
    assert 1.7 < a * np.mean(total) < 2.3


def test_what_a_sampler_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="sampler must be one of sgld, rmsprop, mala; got 'hmc'"):
        ChainSettings(sampler="hmc")
    with pytest.raises(ValueError, match="burn_in must be at least 100 for sampler rmsprop"):
        ChainSettings(sampler="rmsprop", burn_in=50)
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        ChainSettings(decay=1.0)


# Parts, blocks, memory


def test_chains_of_some_parameters_leave_the_others(quadratic, quadratic_coefficient) -> None:
    places = torch.tensor([0, 3])
    settings = ChainSettings(step_size=0.002, burn_in=100, chains=64, draws=300, sampler="mala", **HEAT)
    found = sample_chains(quadratic(torch.diag(VALUES)), settings, positions=places)
    error = found.inverse_temperature * found.standard_error
    # Fails with probability 1e-4.
    assert (
        abs(found.inverse_temperature * found.mean_rise - quadratic_coefficient(VALUES[places], **HEAT)) < T_64 * error
    )
    assert error < 0.05
    assert found.dimension == 2


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop", "mala"])
def test_chains_do_not_depend_on_the_block_that_they_run_in(relu_network, classes, monkeypatch, sampler) -> None:
    from spectra.costs import cross_entropy

    landscape = Landscape(relu_network(None), cross_entropy, classes)
    settings = ChainSettings(
        inverse_temperature=5.0,
        step_size=1e-3,
        burn_in=4,
        draws=20,
        chains=5,
        batch_size=8,
        checks=2,
        decay=0.5,
        sampler=sampler,
        sample_draws=3,
    )
    together = sample_chains(landscape, settings)
    monkeypatch.setattr(chunks, "NUMBERS", 2 * landscape.size)
    apart = sample_chains(landscape, settings)
    for name in ("rises", "acceptance", "factors", "sample_sums"):
        one, other = getattr(together, name), getattr(apart, name)
        assert (one is None) == (other is None)
        assert one is None or (one.shape == other.shape and np.allclose(one, other, rtol=1e-7, atol=1e-12)), name
    assert together.gradient_evaluations == pytest.approx(apart.gradient_evaluations)


@pytest.mark.slow
def test_a_step_of_eight_chains_takes_few_parameter_vectors() -> None:
    # Peak of the resident memory in a process of its own: it was 205 vectors once, and 315 with a recording.
    script = """
import torch
from torch import nn
from comparisons.langevin import ChainSettings, sample_chains
from spectra.costs import cross_entropy
from spectra.landscape import Landscape

model = nn.Sequential(nn.Linear(64, 960), nn.GELU(), nn.Linear(960, 960), nn.GELU(), nn.Linear(960, 10))
landscape = Landscape(model, cross_entropy, (torch.randn(256, 64), torch.randint(10, (256,))))
options = {"step_size": 1e-6, "burn_in": 0, "batch_size": 32, "checks": 0}

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

sample_chains(landscape, ChainSettings(chains=2, draws=12, **options))
open("/proc/self/clear_refs", "w").write("5")
before = kilobytes("VmRSS")
sample_chains(landscape, ChainSettings(chains=8, draws=20, **options))
print((kilobytes("VmHWM") - before) * 1024 / 4 / landscape.size)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64.0


# The registry's rows


def regression() -> tuple[Landscape, Tensor]:
    """Least squares at its minimum without residual: the cost is a quadratic, whose Hessian's eigenvalues are given."""
    x = 10.0 * torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-1.0], [0.5]]).double()
    model = nn.Linear(3, 1, bias=False).double()
    landscape = Landscape(model, mean_squared_error, (x, y), theta=torch.tensor([1.0, -1.0, 0.5]).double())
    return landscape, torch.linalg.eigvalsh(2.0 * x.T @ x / 32)


@pytest.mark.parametrize("sampler", ["rmsprop", "mala"])
def test_the_sampler_of_a_row_is_its_option(sampler, quadratic_coefficient) -> None:
    landscape, values = regression()
    read = local_coefficient(Evidence(landscape, settings=EvidenceSettings()), sampler=sampler, chains=16)
    exact = quadratic_coefficient(values, inverse_temperature=32.0 / math.log(32.0), localisation=100.0)
    # Fails with probability 1e-4, of Student's t with 15 degrees; the preconditioned step adds 5 % at most.
    assert abs(read.value - exact) < 5.24 * read.standard_error + (0.053 * exact if sampler == "rmsprop" else 0.0)
    assert ("least factor" in read.details) == (sampler == "rmsprop")
    assert read.cautions == ()


def test_a_minibatch_is_refused_where_all_rows_are_taken() -> None:
    landscape, _ = regression()
    with pytest.raises(ValueError, match="batch-size must be left out with sampler mala, which takes all 32 rows"):
        local_coefficient(Evidence(landscape, settings=EvidenceSettings()), sampler="mala", batch_size=8)


def test_rejections_are_no_bias() -> None:
    rises = 0.5 + np.random.default_rng(0).normal(0.0, 0.1, (6, 200))
    found = Chains(rises, 0, 0.1, 1.0, 1.0, np.full((6, 200), 0.4), 0.0, "mala")
    assert chain_cautions(found) == ()
