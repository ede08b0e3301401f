"""Networks for the tests: with a forward of its own, with a residual block, with convolutions and batch norm."""

import torch
from torch import Tensor, nn

from spectra.costs import cross_entropy, mean_squared_error
from spectra.landscape import Landscape


class Own(nn.Module):
    """Two hidden layers whose activations are functions, which no container shows; the layers may be in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.second = nn.Linear(6, 5)
        self.third = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.tanh(self.first(x)))))


class Residual(nn.Module):
    """Inner units of a block may change places, those of the stream may not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.inner = nn.Linear(6, 6)
        self.back = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.relu(self.stem(x))
        return self.head(stream + self.back(torch.relu(self.inner(stream))))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )


def landscape(
    model: nn.Module, seed: int, inputs: tuple[int, ...] = (3,), classes: int = 2, rows: int = 40
) -> Landscape:
    """Around random parameters of some size, all drawn from the seed; the data is the same for every seed."""
    model = model.double()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 1.0
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64) / scale
            parameter.copy_(1.0 + 0.3 * noise if "weight" in name and parameter.dim() == 1 else 1.5 * noise)
    data = torch.Generator().manual_seed(99)
    x = torch.randn(rows, *inputs, generator=data, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,), generator=data)
    # In uneven batches.
    cut = rows // 3
    return Landscape(model, cross_entropy, [(x[:cut], y[:cut]), (x[cut:], y[cut:])])


class Pole(nn.Module):
    """Its output is the inverse of its one parameter."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([place], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (1.0 / self.place).expand(len(x), 1)


def line(coefficients: Tensor) -> Landscape:
    """A model with one parameter and a quartic cost of it, for barriers in closed form."""

    class Well(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            # The square of the outputs is (a^2 - 1)^2 + b^2.
            return torch.stack([self.place[0] ** 2 - 1.0, self.place[1]]).expand(len(x), 2)

    data = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    return Landscape(Well(), mean_squared_error, data, theta=coefficients.double())
