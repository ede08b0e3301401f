"""The three workloads of the speed benchmarks: a model, its data in one batch and in several, a mean loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """A model and its data.

    Attributes:
        name: key on the command line.
        title: what it is, for the table.
        model: in eval mode, from inputs to logits (rows, classes).
        batch: all inputs and targets at once.
        pieces: the same rows split over several equal batches.
        goals: largest cost of one product in gradients that the project aims at, by matrix.
    """

    name: str
    title: str
    model: nn.Module
    batch: Batch
    pieces: list[Batch]
    goals: dict[str, float]

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of one batch."""
        return functional.cross_entropy(self.model(inputs), targets)

    def batches(self, several: bool) -> list[Batch]:
        """The data as a list of batches: the pieces, or all in one."""
        return self.pieces if several else [self.batch]


def split(batch: Batch, rows: int, targets_per_row: int = 1) -> list[Batch]:
    """Cut a batch into pieces of so many input rows."""
    inputs, targets = batch
    return list(zip(inputs.split(rows), targets.split(rows * targets_per_row), strict=True))


def digits_mlp() -> Workload:
    """The 64-64-10 GELU network on the 1,024 training rows of UCI digits."""
    from basinscope.tasks import digits_network, load_digits

    batch = load_digits("train")
    goals = {"hessian": 1.7, "gauss-newton": 1.0}
    return Workload("mlp", "(a) digits MLP, 1,024 rows", digits_network().eval(), batch, split(batch, 64), goals)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Shortcut plus the two convolutions, through a rectifier."""
        inner = functional.relu(self.first_norm(self.first(images)))
        return functional.relu(self.shortcut(images) + self.second_norm(self.second(inner)))


class SmallResNet(nn.Module):
    """A ResNet of half a million parameters for images of 3x32x32."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        steps = zip(widths[:-1], widths[1:], strict=True)
        self.blocks = nn.Sequential(*(Residual(a, b, stride=2) for a, b in steps), Residual(widths[-1], 96, stride=1))
        self.head = nn.Linear(96, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        features = self.blocks(functional.relu(self.stem_norm(self.stem(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def resnet() -> Workload:
    """A ResNet on 256 random images; batch norm has seen them, and is in eval mode."""
    model = SmallResNet()
    batch = (torch.randn(256, 3, 32, 32), torch.randint(10, (256,)))
    with torch.no_grad():
        for _ in range(20):
            model.train()(batch[0])
    return Workload("resnet", "(b) ResNet, 256 images", model.eval(), batch, split(batch, 64), {"hessian": 2.4})


class NextTokenLogits(nn.Module):
    """A causal language model as a map from tokens (b, t) to logits (b t, vocabulary)."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position."""
        output: Any = self.language_model(input_ids=tokens, use_cache=False)
        logits: Tensor = output.logits
        return logits.flatten(0, 1)


def transformer() -> Workload:
    """A GPT-NeoX-like transformer with random weights on 8 x 128 random tokens."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=1536,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=1024,
        max_position_embeddings=128,
    )
    tokens = torch.randint(config.vocab_size, (8, 129))
    batch = (tokens[:, :-1].contiguous(), tokens[:, 1:].flatten())
    model = NextTokenLogits(GPTNeoXForCausalLM(config)).eval()
    goals = {"hessian": 2.4, "gauss-newton": 1.5}
    return Workload("transformer", "(c) GPT-NeoX-like, 8 x 128 tokens", model, batch, split(batch, 2, 128), goals)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "mlp": digits_mlp,
    "resnet": resnet,
    "transformer": transformer,
}
