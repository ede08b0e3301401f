from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from basinscope.training import Tracker

Data = tuple[Tensor, Tensor]


@pytest.fixture
def data() -> Data:
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return inputs, (inputs[:, 0] + inputs[:, 1] ** 2 > 0.5).long()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.fixture
def descend(network: nn.Module, data: Data) -> Callable[..., Tracker]:
    """Gradient descent under a tracker, from a step of it to another; the tracker is closed."""

    def run(first: int, last: int, rate: float = 0.5, **options: Any) -> Tracker:
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        with Tracker(network, nn.CrossEntropyLoss(), data, **{"share": None, "every": 2, **options}) as tracker:
            for step in range(first, last + 1):
                tracker.step(step, optimizer=optimizer)
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(data[0]), data[1]).backward()
                optimizer.step()
        return tracker

    return run
