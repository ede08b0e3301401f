"""Landscapes whose measures are known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectra.landscape import Landscape


class Theta(nn.Module):
    """Theta itself: the cost makes any function of it."""

    def __init__(self, anchor: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(anchor.clone())

    def forward(self, ones: Tensor) -> Tensor:
        return ones * self.theta


def landscape_of(function: Callable[[Tensor], Tensor], anchor: Tensor, rows: int = 1) -> Landscape:
    """Any function of rows of thetas as a landscape in float64; each of its data rows says the same."""

    def cost(outputs: Tensor, _: Tensor) -> Tensor:
        return function(outputs)

    anchor = anchor.double()
    return Landscape(Theta(anchor), cost, (torch.ones(rows, len(anchor)).double(), torch.zeros(rows)))


def quadratic(
    matrix: Tensor, anchor: Tensor | None = None, centre: Tensor | None = None, floor: float = 0.0
) -> Landscape:
    """``floor + 1/2 (x - centre)^T matrix (x - centre)``."""
    matrix = matrix.double()
    anchor = torch.zeros(len(matrix)).double() if anchor is None else anchor.double()
    middle = anchor if centre is None else centre.double()

    def cost(thetas: Tensor) -> Tensor:
        gap = thetas - middle
        return floor + 0.5 * ((gap @ matrix) * gap).sum(-1)

    return landscape_of(cost, anchor)


def rotated(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=random, dtype=torch.float64))[0]
    matrix = (basis * values.double()) @ basis.T
    return (matrix + matrix.T) / 2


def quadratic_coefficient(
    eigenvalues: Tensor, *, inverse_temperature: float, localisation: float, step_size: float = 0.0
) -> float:
    """``1/2 sum nb h / (a (1 - e a / 4))``, ``a = nb h + g``: ``nb (E[L] - L*)`` of Langevin sampling on a quadratic.

    In one direction the chain is autoregressive: x' = (1 - e a / 2) x + sqrt(e) z, of variance 1 / (a (1 - e a / 4)).
    """
    curvature = inverse_temperature * eigenvalues.double().numpy()
    stiffness = curvature + localisation
    return float(0.5 * np.sum(curvature / (stiffness * (1.0 - 0.25 * step_size * stiffness))))


class ReluNetwork(nn.Module):
    """One hidden layer of ReLU, whose neurons can be rescaled without changing the function."""

    def __init__(self, inputs: int = 4, hidden: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(name="landscape_of")
def landscape_of_fixture() -> Callable[..., Landscape]:
    return landscape_of


@pytest.fixture(name="quadratic")
def quadratic_fixture() -> Callable[..., Landscape]:
    return quadratic


@pytest.fixture(name="quadratic_coefficient")
def quadratic_coefficient_fixture() -> Callable[..., float]:
    return quadratic_coefficient


@pytest.fixture(name="rotated")
def rotated_fixture() -> Callable[..., Tensor]:
    return rotated


@pytest.fixture
def relu_network() -> Callable[[Tensor | None], nn.Module]:
    """A ReLU network; with factors (hidden,), the same function with neurons rescaled."""

    def build(factors: Tensor | None = None) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = ReluNetwork().double()
        if factors is not None:
            with torch.no_grad():
                network.first.weight.mul_(factors.unsqueeze(1))
                network.first.bias.mul_(factors)
                network.second.weight.div_(factors)
        return network

    return build


@pytest.fixture
def classes() -> tuple[Tensor, Tensor]:
    """Inputs (40, 4) and classes (40,)."""
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 4, generator=random, dtype=torch.float64)
    return inputs, torch.randint(3, (40,), generator=random)
