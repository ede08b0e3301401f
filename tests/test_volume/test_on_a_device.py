"""Volumes, bridges and their chains on a device: the numbers of the CPU, and nothing crosses to the host in a leap."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spectra.checkpoint import AdamMoments
from spectra.costs import mean_squared_error
from spectra.landscape import Landscape
from spectra.model import generator
from tests.pretend_device import DEVICE, HiddenCopyError, pretend_device
from volume.bridge import bridge_volume, sandwich_bounds
from volume.chains import BridgeSettings, Potential, SublevelCost, hamiltonian
from volume.estimator import VolumeEstimator
from volume.method_result import METHODS
from volume.priors import GaussianPrior, Prior, UniformPrior, parse_prior
from volume.study import PRECONDITIONERS, VolumeSettings

PRIOR = GaussianPrior(1.0)


def landscape(shift: float = 0.0) -> Landscape:
    """Three parameters, seven rows in two batches, the cost quadratic and the anchor at its minimum."""
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + shift
    y = torch.zeros(7, 1, dtype=torch.float64)
    model = nn.Linear(2, 1).double()
    return Landscape(model, mean_squared_error, [(x[:4], y[:4]), (x[4:], y[4:])], theta=torch.zeros(3))


def estimated(device: str | torch.device, method: str, measure: Prior, **options: Any) -> VolumeEstimator:
    settings = VolumeSettings(
        **({"methods": (method,), "cutoff": 0.1, "directions": 4, "probes": 2, "steps": 3} | options)
    )
    first = {name: torch.full(shape, 0.5) for name, shape in (("weight", (1, 2)), ("bias", (1,)))}
    moments = AdamMoments(first, first, 10)
    training = landscape(0.5).to(device=device) if method == "segment" else None
    strategy = "double-vjp"
    return VolumeEstimator(
        landscape().to(device=device), settings, measure, moments=moments, training=training, strategy=strategy
    )


def same(method: str, measure: Prior = PRIOR, **options: Any) -> None:
    truth = estimated("cpu", method, measure, **options).run(method)
    with pretend_device() as device:
        found = estimated(DEVICE, method, measure, **options).run(method)
        assert device.operations > 0
        assert device.early_readings == []
    assert np.isfinite(truth.log_volume)
    assert found.log_volume == pytest.approx(truth.log_volume, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_those_of_the_cpu(method: str) -> None:
    same(method)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_preconditioners_are_those_of_the_cpu(name: str) -> None:
    same("star-domain", preconditioner=name)


@pytest.mark.parametrize("prior", ["lebesgue", "uniform:2", "student:1:5", "gaussian"])
def test_priors_are_those_of_the_cpu(prior: str) -> None:
    same("star-domain", parse_prior(prior, torch.ones(3, dtype=torch.float64)), prior=prior)


@pytest.mark.parametrize("prior", [PRIOR, UniformPrior(1.0), parse_prior("student:1:5", torch.ones(3))])
def test_priors_draw_where_their_generator_is(prior: Prior) -> None:
    truth = prior.sample(generator(0, "points"), 3, 5)
    with pretend_device():
        found = prior.sample(generator(0, "points", device=DEVICE), 3, 5)
        assert found.device == DEVICE
        assert torch.equal(found.cpu(), truth)


def settings(**options: Any) -> BridgeSettings:
    return BridgeSettings(
        **({"cutoffs": (0.1,), "chains": 4, "draws": 8, "warm_up": 2, "kept": 4, "work_spread": 4.0} | options)
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"origin": "prior"}, {"target": "star"}, {"target": "window:0.5"}],
    ids=lambda one: str(one or "quadratic"),
)
def test_bridges_are_those_of_the_cpu_and_leaps_cross_nothing(options: dict[str, str]) -> None:
    truth = bridge_volume(landscape(), PRIOR, settings(**options), strategy="double-vjp")
    with pretend_device() as device:
        there = landscape().to(device=DEVICE)
        there.gradients(there.theta.unsqueeze(0))  # the first looks at the model, on data of its own
        loops = (Potential.energy, Potential.slope, SublevelCost.forces)
        with device.marked(*loops):
            found = bridge_volume(there, PRIOR, settings(**options), strategy="double-vjp")
    assert found.volumes[0].log_volume == pytest.approx(truth.volumes[0].log_volume, rel=1e-8)


def test_a_leap_that_reads_a_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slope = Potential.slope
    monkeypatch.setattr(Potential, "slope", lambda self, slopes, x: slope(self, slopes, x * float(x.isfinite().all())))
    with pretend_device() as device:
        there = landscape().to(device=DEVICE)
        with device.marked(hamiltonian._trajectory), pytest.raises(HiddenCopyError, match="_local_scalar_dense"):
            bridge_volume(there, PRIOR, settings(), strategy="double-vjp")


@pytest.mark.slow
def test_sandwiches_are_those_of_the_cpu() -> None:
    truth = sandwich_bounds(landscape(), PRIOR, settings(), temperatures=2)
    with pretend_device() as device:
        there = landscape().to(device=DEVICE)
        with device.marked(Potential.energy, Potential.slope, SublevelCost.forces):
            found = sandwich_bounds(there, PRIOR, settings(), temperatures=2)
    assert found.lower.value == pytest.approx(truth.lower.value, rel=1e-8)
    assert found.upper.value == pytest.approx(truth.upper.value, rel=1e-8)
