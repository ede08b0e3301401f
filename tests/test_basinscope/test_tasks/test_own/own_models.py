"""Models as users write them, and a task file that does by hand what --model, --data and --loss do."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from basinscope import Checkpoint, Landscape, load_into


def regression(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))


def classifier(width: int = 3, norm: bool = False) -> nn.Module:
    layers = [nn.Linear(3, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.Tanh(), nn.Linear(width, 4)]
    return nn.Sequential(*layers)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))


class Tagger(nn.Module):
    """A class for each token: outputs (N, T, K), targets (N, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(5, 2), nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(3, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0])


class Reader(nn.Module):
    """One number for a sequence, from the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.recurrent(series)[1][0][-1]).squeeze(-1)


class Transformer(nn.Module):
    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=dropout, batch_first=True)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens)))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.first(left) * self.second(right).tanh()


def load(path: str, rows: int = 8) -> tuple[Tensor, Tensor]:
    with np.load(path) as found:
        return torch.from_numpy(found["x"][:rows]), torch.from_numpy(found["y"][:rows])


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean(-1)


def task(checkpoint: Checkpoint, *, path: Path) -> Landscape:
    model = classifier(width=3)
    load_into(checkpoint, model)
    return Landscape(model, nn.CrossEntropyLoss(), load(str(path), 300))
