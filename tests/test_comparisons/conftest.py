"""Landscapes whose curvature is known: a quadratic, and a small ReLU network with its dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comparisons.evidence import Evidence, EvidenceSettings
from spectra.costs import cross_entropy
from spectra.landscape import Landscape

EIGENVALUES = (6.0, 3.0, 1.5, 1.0, 0.5, 0.25, 0.0, -0.125)


class Quadratic(nn.Module):
    """``1/2 (theta - theta*)^T H (theta - theta*)``, H with prescribed eigenvalues in a random basis."""

    def __init__(self, eigenvalues: Tensor, anchor: Tensor, *, rotate: bool = True) -> None:
        super().__init__()
        size = len(eigenvalues)
        generator = torch.Generator().manual_seed(3)
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        basis = basis if rotate else torch.eye(size, dtype=torch.float64)
        self.theta = nn.Parameter(anchor.clone())
        self.register_buffer("anchor", anchor.clone())
        self.register_buffer("matrix", basis @ torch.diag(eigenvalues) @ basis.T)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.theta - self.anchor
        return (0.5 * x @ self.matrix @ x).expand(len(inputs), 1)


def value(outputs: Tensor, targets: Tensor) -> Tensor:
    """The output itself as the cost."""
    return outputs.squeeze(-1) + 0.0 * targets


def quadratic(eigenvalues: tuple[float, ...] = EIGENVALUES, *, rotate: bool = True) -> Landscape:
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    anchor = torch.linspace(0.5, 1.5, len(values), dtype=torch.float64)
    inputs = torch.zeros(4, 1, dtype=torch.float64)
    return Landscape(Quadratic(values, anchor, rotate=rotate), value, (inputs, inputs.squeeze(1)))


def relu_network(hidden: int = 5, inputs: int = 4, outputs: int = 3, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)).double()


def classified(seed: int = 1, rows: int = 30, inputs: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (rows,), generator=generator)


@pytest.fixture
def quadratic_evidence() -> Evidence:
    return Evidence(quadratic())


@pytest.fixture
def network_landscape() -> Landscape:
    return Landscape(relu_network(), cross_entropy, classified())


@pytest.fixture
def network_evidence(network_landscape: Landscape) -> Evidence:
    return Evidence(network_landscape, settings=EvidenceSettings(probes=4, steps=16))


@pytest.fixture
def eigenvalues() -> np.ndarray:
    return np.array(EIGENVALUES)
