"""A task whose cost is exactly quadratic: a linear model of 4 parameters under squared error, at its minimum."""

import torch
from torch import Tensor, nn

from spectra.checkpoint import Checkpoint, load_into
from spectra.costs import mean_squared_error
from spectra.landscape import Landscape

SIZE = 4


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(30, SIZE - 1, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(30, 1, generator=generator, dtype=torch.float64)


def design() -> Tensor:
    inputs, _ = rows()
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)


def hessian() -> Tensor:
    return 2.0 * design().T @ design() / len(design())


def minimum() -> Tensor:
    return torch.linalg.lstsq(design(), rows()[1]).solution[:, 0]


def few(checkpoint: Checkpoint) -> Landscape:
    """Two of the rows: two directions are flat."""
    model = nn.Linear(SIZE - 1, 1).double()
    load_into(checkpoint, model)
    inputs, targets = rows()
    return Landscape(model, mean_squared_error, (inputs[:2], targets[:2]))


def linear(checkpoint: Checkpoint) -> Landscape:
    model = nn.Linear(SIZE - 1, 1).double()
    load_into(checkpoint, model)
    return Landscape(model, mean_squared_error, rows())
