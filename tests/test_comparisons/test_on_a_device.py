"""Measures, chains and paths on a device: the numbers of the CPU, and nothing crosses to the host in a chain's step.

The table of measures is long: of it a short run takes every sixth, as of all long tables.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.calibration import Ensemble, Members
from comparisons.connections import PathSettings, SliceSettings, connect_landscapes, slice_landscape
from comparisons.evidence import Evidence, EvidenceSettings
from comparisons.examination import outcome_of
from comparisons.flatness import Measure
from comparisons.langevin import Chains, ChainSettings, Minibatches, sample_chains
from comparisons.langevin.metropolis import MetropolisRun
from comparisons.langevin.sgld import LangevinRun
from comparisons.measures import REGISTRY
from spectra.costs import cross_entropy
from spectra.landscape import Landscape
from tests.pretend_device import DEVICE, HiddenCopyError, pretend_device

# So few probes and draws are no estimates, and take the same steps.
SETTINGS = EvidenceSettings(probes=2, steps=6, directions=2, cutoff=0.05)
CHAINS: dict[str, Any] = {
    "inverse_temperature": 4.0,
    "step_size": 1e-3,
    "chains": 2,
    "draws": 16,
    "burn_in": 4,
    "batch_size": 3,
    "checks": 2,
    "decay": 0.75,
}


def landscape(seed: int = 0) -> Landscape:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=random, dtype=torch.float64)
    y = torch.randint(0, 3, (8,), generator=random)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    return Landscape(model, cross_entropy, (x, y))


def evidence(device: str | torch.device) -> Evidence:
    strategies = {"hessian": "double-backward", "gauss-newton": "double-vjp", "fisher": "double-vjp"}
    there, held = landscape().to(device=device), landscape().to(device=device)
    return Evidence(there, held_out=held, initial=landscape(1).theta, settings=SETTINGS, strategies=strategies)


# Chains at two temperatures take as long as all others together.
SLOW = {"two-temperatures": (pytest.mark.slow,)}


@pytest.mark.parametrize("measure", [pytest.param(one, id=one.name, marks=SLOW.get(one.name, ())) for one in REGISTRY])
def test_measures_are_those_of_the_cpu(measure: Measure) -> None:
    truth = outcome_of(evidence("cpu"), measure)
    with pretend_device() as device:
        found = outcome_of(evidence(DEVICE), measure)
        assert device.early_readings == []
    assert found.failure == truth.failure
    if truth.reading is not None:
        assert found.reading is not None
        assert math.isclose(found.reading.value, truth.reading.value, rel_tol=1e-7, abs_tol=1e-9)


def sampled(device: str | torch.device, **changes: Any) -> Chains:
    return sample_chains(landscape().to(device=device), ChainSettings(**(CHAINS | changes)))


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop", "mala"])
def test_steps_of_chains_cross_nothing_and_are_those_of_the_cpu(sampler: str) -> None:
    truth = sampled("cpu", sampler=sampler)
    seen: list[int] = []
    run = MetropolisRun if sampler == "mala" else LangevinRun
    step = run.step

    def stepped(self: LangevinRun, number: int) -> torch.Tensor:
        # The first steps decide how minibatches are evaluated.
        if number < 12:
            return step(self, number)
        seen.append(number)
        with device.marked(step):
            return step(self, number)

    with pretend_device() as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "step", stepped)
        found = sampled(DEVICE, sampler=sampler)
    assert seen == list(range(12, 20))
    np.testing.assert_allclose(found.rises, truth.rises, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.acceptance, truth.acceptance, rtol=1e-8)


def test_steps_of_a_calibration_cross_nothing_before_their_numbers_are_brought_home() -> None:
    members = Members(count=2, steps=16, seed=0, sampler="sgld", checks=0)
    cells = [(4.0, 1.0, 1e-3), (8.0, 1.0, 1e-3)]
    truth = Ensemble(landscape(), members, cells, 3).advance(14)[0]
    with pretend_device() as device:
        ensemble = Ensemble(landscape().to(device=DEVICE), members, cells, 3)
        ensemble.advance(12)
        device.crossings.clear()
        with device.marked(Minibatches.draw, Minibatches.slopes, Ensemble._noise, Ensemble._rows):
            found = ensemble.advance(2)[0]
        assert all("Ensemble.advance" in one.site for one in device.crossings)
    np.testing.assert_allclose(found, truth[..., 12:], rtol=1e-6)


def test_a_step_that_reads_a_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = Minibatches.slopes
    monkeypatch.setattr(
        Minibatches, "slopes", lambda self, at, rows: slopes(self, at * at.isfinite().all().item(), rows)
    )
    with pretend_device() as device, device.marked(LangevinRun.step), pytest.raises(HiddenCopyError, match="scalar"):
        sampled(DEVICE)


def test_paths_and_slices_are_those_of_the_cpu() -> None:
    def found(device: str | torch.device) -> list[np.ndarray]:
        one, other = landscape().to(device=device), landscape(1).to(device=device)
        paths = connect_landscapes(one, other, PathSettings(points=5, most=7)).paths
        return [slice_landscape(one, settings=SliceSettings(points=3)).costs, *(path.costs for path in paths)]

    truth = found("cpu")
    with pretend_device():
        costs = found(DEVICE)
    assert len(costs) == len(truth) == 3
    for one, other in zip(costs, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)
