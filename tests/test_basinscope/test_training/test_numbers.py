"""A recorded step against dense matrices of functions written out by hand, and limits against what steps do."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from basinscope.training import QUANTITIES, CurvatureReading, Tracker
from spectra.density import SpectralDensity
from volume.quadratic import from_components, quadratic_mass

Data = tuple[Tensor, Tensor]


def parameters_of(model: nn.Module) -> Tensor:
    return torch.cat([one.detach().reshape(-1) for one in model.parameters()])


def outputs(theta: Tensor, inputs: Tensor) -> Tensor:
    first, bias, second, last = torch.split(theta, [12, 4, 8, 2])
    hidden = torch.tanh(inputs @ first.reshape(4, 3).T + bias)
    return hidden @ second.reshape(2, 4).T + last


def cost(theta: Tensor, data: Data) -> Tensor:
    rows = outputs(theta, data[0])
    return (rows.logsumexp(1) - rows.gather(1, data[1][:, None]).squeeze(1)).mean()


def gauss_newton(theta: Tensor, data: Data) -> Tensor:
    shares = outputs(theta, data[0]).softmax(1)
    middle = torch.diag_embed(shares) - shares.unsqueeze(2) * shares.unsqueeze(1)
    jacobian = torch.func.jacrev(outputs)(theta, data[0])
    return torch.einsum("bki,bkl,blj->ij", jacobian, middle, jacobian) / len(shares)


def reading(network: nn.Module, data: Data, optimizer: object = None, **options: object) -> CurvatureReading:
    tracker = Tracker(network, nn.CrossEntropyLoss(), data, share=None, every=1, **options)  # type: ignore[arg-type]
    found = tracker.step(0, optimizer=optimizer)
    assert found is not None
    return found


def test_every_number_is_that_of_dense_matrices(network: nn.Module, data: Data) -> None:
    theta = parameters_of(network)
    found = reading(network, data, quantities=QUANTITIES, eigenvalues=4, tolerance=1e-9, standard_deviation=0.7)
    hessian = torch.func.hessian(cost)(theta, data)
    curvature = gauss_newton(theta, data)
    levels, vectors = torch.linalg.eigh(curvature)
    assert found.cost == pytest.approx(float(cost(theta, data)), rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(torch.func.grad(cost)(theta, data).norm()), rel=1e-12)
    assert found.eigenvalues == pytest.approx(torch.linalg.eigvalsh(hessian).flip(0)[:4].tolist(), rel=1e-8)
    assert found.gauss_newton_largest == pytest.approx(float(levels[-1]), rel=1e-8)
    slopes = torch.stack([torch.func.grad(cost)(theta, (x[None], y[None])) for x, y in zip(*data, strict=True)])
    noise = float((slopes - slopes.mean(0)).square().sum(1).mean())
    assert found.gradient_noise == pytest.approx(noise, rel=1e-10)
    assert found.gradient_noise_half_width == 0.0
    exact = SpectralDensity.from_eigenvalues(levels.clamp(min=0.0).numpy())
    anchor = from_components(levels.clamp(min=0.0).numpy(), (vectors.T @ theta).numpy())
    mass = quadratic_mass(exact, anchor, 0.01, standard_deviation=0.7)[0].log_mass
    assert found.log_mass == pytest.approx(mass.value, rel=1e-6)
    assert found.notes == ()


def test_a_trace_is_exact_where_all_directions_are_deflated_and_else_has_an_error(
    network: nn.Module, data: Data
) -> None:
    hessian = torch.func.hessian(cost)(parameters_of(network), data)
    whole = reading(network, data, quantities=("eigenvalues", "trace"), eigenvalues=26)
    assert whole.trace == pytest.approx(float(hessian.trace()), rel=1e-9)
    assert whole.trace_standard_error == 0.0
    some = reading(network, data, quantities=("eigenvalues", "trace"))
    assert 0.0 < some.trace_standard_error < some.trace_half_width
    assert abs(some.trace - float(hessian.trace())) < 2.0 * some.trace_half_width


def test_eigenvalues_that_a_small_model_lacks_are_nan(data: Data) -> None:
    torch.manual_seed(0)
    found = reading(nn.Linear(3, 2, bias=False).double(), data, eigenvalues=8)
    assert np.isfinite(found.eigenvalues).tolist() == [True] * 6 + [False] * 2


def test_noise_of_some_rows_has_an_error_that_covers_the_whole(network: nn.Module, data: Data) -> None:
    whole = reading(network, data).gradient_noise
    some = reading(network, data, samples=12)
    assert some.gradient_noise_half_width > 0.0
    assert abs(some.gradient_noise - whole) < 2.0 * some.gradient_noise_half_width


class Parabola(nn.Module):
    """A cost of curvature 3 in one parameter."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([start], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.place


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1.5 * outputs.squeeze(1).square()


ROW = (torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1))


def grows(model: Parabola, optimizer: torch.optim.Optimizer, steps: int) -> bool:
    start = abs(model.place.item())
    for _ in range(steps):
        optimizer.zero_grad()
        half_square(model(ROW[0]), ROW[1]).sum().backward()
        optimizer.step()
    return abs(model.place.item()) > start


def limits(model: nn.Module, optimizer: object) -> CurvatureReading:
    found = Tracker(model, half_square, ROW, share=None, every=1, quantities=("eigenvalues",), eigenvalues=1)
    told = found.step(0, optimizer=optimizer)
    assert told is not None
    return told


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.8, False), (0.8, True)])
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_descent_grows_just_where_the_limit_says(momentum: float, nesterov: bool, factor: float) -> None:
    limit = limits(Parabola(1.0), torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)).notes
    assert "steps none of them" in limit[0]
    model = Parabola(1.0)

    def made(rate: float) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, nesterov=nesterov)

    # The limit is inversely proportional to the rate: where curvature 3 is the limit, times a factor.
    rate = factor * limits(model, made(1.0)).stability_limit / 3.0
    assert grows(model, made(rate), 400) == (factor > 1.0)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_adam_grows_just_where_its_limit_says(factor: float) -> None:
    """With a second moment that stays as it is: gradients of 1e-9 change one of 4 by nothing."""
    model = Parabola(1e-9)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 1.0 - 1e-7))
    state = {"step": torch.tensor(1e9), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.full((1,), 4.0)}
    optimizer.state[model.place] = {name: one.double() for name, one in state.items()}
    found = limits(model, optimizer)
    assert found.preconditioned_eigenvalue == pytest.approx(3.0 / (2.0 + 1e-8), rel=1e-6)
    assert found.preconditioned_limit == pytest.approx(38.0, rel=1e-12)
    optimizer.param_groups[0]["lr"] = factor * found.preconditioned_limit / found.preconditioned_eigenvalue
    assert grows(model, optimizer, 40) == (factor > 1.0)


def test_what_has_no_limit_says_so(network: nn.Module, data: Data) -> None:
    groups = [{"params": [one], "lr": rate} for one, rate in zip(network.parameters(), (1, 2, 3, 4), strict=True)]
    for optimizer, words in (
        (torch.optim.SGD(groups), "has 4 values of lr"),
        (torch.optim.RMSprop(network.parameters()), "no stability limit is known of RMSprop"),
        (torch.optim.Adam(network.parameters()), "no second moment"),
    ):
        found = reading(network, data, optimizer, quantities=("eigenvalues",))
        assert words in found.notes[0]
        assert math.isnan(found.stability_limit)
        assert math.isnan(found.preconditioned_eigenvalue)
    assert reading(network, data, 0.25, quantities=("eigenvalues",)).stability_limit == pytest.approx(8.0)
