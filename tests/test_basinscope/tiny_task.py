"""Tasks for the tests: a network of 50 parameters on 40 rows, right and wrong in several ways."""

import torch
from torch import Tensor, nn

from spectra.checkpoint import Checkpoint, load_into
from spectra.costs import cross_entropy
from spectra.landscape import Landscape


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] + inputs[:, 1] ** 2 > 0.5).long()


def loaded(checkpoint: Checkpoint) -> nn.Module:
    model = network()
    load_into(checkpoint, model)
    return model


def tiny(checkpoint: Checkpoint) -> Landscape:
    return Landscape(loaded(checkpoint), cross_entropy, rows())


def other_data(checkpoint: Checkpoint) -> Landscape:
    return Landscape(loaded(checkpoint), cross_entropy, rows(1))


def not_a_number(checkpoint: Checkpoint) -> Landscape:
    inputs, targets = rows()
    inputs[7, 1] = torch.nan
    return Landscape(loaded(checkpoint), cross_entropy, (inputs, targets))


def infinite_cost(checkpoint: Checkpoint) -> Landscape:
    def cost(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full((len(targets),), torch.inf) * outputs.square().sum()

    return Landscape(loaded(checkpoint), cost, rows())


def no_targets(checkpoint: Checkpoint) -> Landscape:
    def cost(outputs: Tensor, targets: Tensor | None) -> Tensor:
        return outputs.square().sum(1)

    return Landscape(loaded(checkpoint), cost, rows()[0])


def out_of_memory(checkpoint: Checkpoint) -> Landscape:
    def cost(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().sum() * torch.empty(10**15)

    return Landscape(loaded(checkpoint), cost, rows())


def misfit(checkpoint: Checkpoint) -> Landscape:
    return Landscape(loaded(checkpoint), cross_entropy, (torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)))


def returns_nothing(checkpoint: Checkpoint) -> None:
    return None


not_callable = 3
