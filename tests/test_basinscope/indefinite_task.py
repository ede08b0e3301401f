"""Tasks whose Hessian has negative eigenvalues, as that of any cost but the built-in ones has away from a minimum."""

import torch
from torch import Tensor, nn

from spectra.checkpoint import Checkpoint, load_into
from spectra.landscape import Landscape


class TwoHeads(nn.Module):
    """A regression and a classification on one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.label = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.body(inputs))
        return self.value(hidden), self.label(hidden)


def binary_network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))


def rows(seed: int = 1) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, :1] * inputs[:, 1:2] > 0).float()


def binary_cost(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1)


def both_costs(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    value, label = outputs
    wrong = nn.functional.cross_entropy(label, targets[:, 0].long(), reduction="none")
    return (value[:, 0] - targets[:, 0]).square() + wrong


def binary(checkpoint: Checkpoint) -> Landscape:
    model = binary_network()
    load_into(checkpoint, model)
    return Landscape(model, binary_cost, rows())


def other_binary(checkpoint: Checkpoint) -> Landscape:
    model = binary_network()
    load_into(checkpoint, model)
    return Landscape(model, binary_cost, rows(2))


def two_heads(checkpoint: Checkpoint) -> Landscape:
    model = TwoHeads()
    load_into(checkpoint, model)
    return Landscape(model, both_costs, rows())
