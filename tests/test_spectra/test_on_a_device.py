"""Operators, Lanczos and spectra on a device: the numbers of the CPU, and loops that cross to the host nowhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectra.compute import compute_spectrum
from spectra.costs import cross_entropy
from spectra.lanczos import draw_probes, hutch_plus_plus, krylov_space, lanczos, top_eigenpairs, xtrace
from spectra.lanczos.recurrence import _State
from spectra.landscape import Landscape
from spectra.landscape.many_costs import ManyCosts
from spectra.members import stated
from spectra.operators import Curvature, GaussNewton, Hessian, KroneckerFactored
from spectra.plan import make_operator
from spectra.spectrum import SpectrumSettings
from tests.pretend_device import DEVICE, pretend_device

STEPS = 12


def landscape(**options: Any) -> Landscape:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=random, dtype=torch.float64)
    y = torch.randint(0, 3, (8,), generator=random)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    return Landscape(model, cross_entropy, [(x[:5], y[:5]), (x[5:], y[5:])], joinable=False, **options)


ON_CPU = landscape()
VECTORS = draw_probes(ON_CPU.size, 2, seed=1, dtype=torch.float64)


def close(found: Tensor, truth: Tensor) -> None:
    assert found.device == DEVICE
    torch.testing.assert_close(found.cpu(), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", stated("spectra.operators"))
def test_products_whose_graphs_are_built_anew_cross_nothing(name: str) -> None:
    strategy = "double-backward" if name == "hessian" else "double-vjp"
    settings = SpectrumSettings(operator=name, strategy=strategy, memory=1)
    truth = make_operator(ON_CPU, settings).matmat(VECTORS)
    with pretend_device() as device:
        there = landscape().to(device=DEVICE)
        operator, vectors = make_operator(there, settings), VECTORS.to(DEVICE)
        operator.matmat(vectors)
        with device.marked(Curvature.addend):
            close(operator.matmat(vectors), truth)


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_every_way_to_a_product_crosses_nothing(kind: Callable[..., Curvature]) -> None:
    truth = kind(ON_CPU).matmat(VECTORS)
    with pretend_device() as device:
        there, vectors = landscape().to(device=DEVICE), VECTORS.to(DEVICE)
        for name, way in kind(there)._strategies.items():
            if way.linearised:
                continue
            operator = kind(there, strategy=name)
            operator.matmat(vectors)
            assert operator.strategy == name
            with device.marked(Curvature.addend):
                close(operator.matmat(vectors), truth)


def test_the_choice_of_a_strategy_waits_for_the_device_before_it_reads_the_clock() -> None:
    with pretend_device() as device:
        Hessian(landscape().to(device=DEVICE)).matmat(VECTORS.to(DEVICE))
        assert device.early_readings == []


def test_costs_and_gradients_cross_nothing() -> None:
    thetas = ON_CPU.theta + 0.1 * VECTORS
    with pretend_device() as device:
        there, moved = landscape(l2=0.1).to(device=DEVICE), thetas.to(DEVICE)
        there.costs(moved), there.gradients(moved)
        with device.marked(Landscape.costs, Landscape.gradient, ManyCosts.__call__):
            costs, slopes = there.costs(moved), there.gradients(moved)
        penalised = landscape(l2=0.1)
        close(costs, penalised.costs(thetas))
        close(slopes, penalised.gradients(thetas))


def test_a_lanczos_step_crosses_nothing_and_every_eighth_looks_whether_any_is_left() -> None:
    truth = lanczos(Hessian(ON_CPU, strategy="double-backward"), VECTORS, STEPS).tridiagonal
    with pretend_device() as device:
        operator = Hessian(landscape().to(device=DEVICE), strategy="double-backward")
        operator.matmat(VECTORS.to(DEVICE))
        device.crossings.clear()
        with device.marked(_State.advance, Curvature.matmat):
            found = lanczos(operator, VECTORS.to(DEVICE), STEPS).tridiagonal
        # The starts and the coefficients are looked at, and three tables are brought home.
        assert device.count("lanczos") == STEPS // 8 + 2 + 3
    np.testing.assert_allclose(found.diagonal, truth.diagonal, rtol=1e-9, atol=1e-12)


def test_probes_are_drawn_on_the_device() -> None:
    with pretend_device() as device:
        drawn = draw_probes(7, 3, seed=0, kind="rademacher", device=DEVICE)
        assert drawn.device == DEVICE
        assert device.crossings == []


ESTIMATES = {
    "eigenpairs": lambda one, _: top_eigenpairs(one, 2).values,
    "krylov": lambda one, starts: krylov_space(one, starts, 4).deflation().nodes,
    "hutch++": lambda one, _: hutch_plus_plus(one, 9).samples,
    "xtrace": lambda one, _: xtrace(one, 6).samples,
    "dense": lambda one, _: one.to_dense().cpu().numpy(),
    "kronecker": lambda one, _: KroneckerFactored(one.landscape).values().cpu().numpy(),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_are_those_of_the_cpu(name: str) -> None:
    estimate = ESTIMATES[name]
    truth = estimate(Hessian(ON_CPU, strategy="double-backward"), VECTORS)
    with pretend_device() as device:
        operator = Hessian(landscape().to(device=DEVICE), strategy="double-backward")
        operator.matvec(operator.theta)
        with device.marked(Curvature.addend):
            found = estimate(operator, VECTORS.to(DEVICE))
    np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["slq", "dense", "gram", "pyhessian"])
def test_spectra_are_those_of_the_cpu(engine: str) -> None:
    operator = "gauss-newton" if engine == "gram" else "hessian"
    strategy = "double-vjp" if engine == "gram" else "double-backward"
    settings = SpectrumSettings(operator=operator, strategy=strategy, engine=engine, probes=2, steps=5)
    truth = compute_spectrum(ON_CPU, settings)
    with pretend_device():
        found = compute_spectrum(landscape().to(device=DEVICE), settings)
    assert found.density.trace().value == pytest.approx(truth.density.trace().value, rel=1e-9)
