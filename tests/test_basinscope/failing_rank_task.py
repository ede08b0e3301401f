"""Tasks that fail on one rank of several, or on all."""

import os

import torch
from torch import nn

from spectra.checkpoint import Checkpoint
from spectra.costs import cross_entropy
from spectra.landscape import Landscape

RANK = int(os.environ.get("RANK", "0"))


def different(checkpoint: Checkpoint) -> Landscape:
    """Each rank has data of its own."""
    source = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2)
    rows = torch.randn(8, 3, generator=source) + RANK
    return Landscape(model, cross_entropy, (rows, torch.zeros(8, dtype=torch.int64)))


def alone(checkpoint: Checkpoint) -> Landscape:
    if RANK == 1:
        raise ValueError("only rank 1 fails")
    return different(checkpoint)


def together(checkpoint: Checkpoint) -> Landscape:
    raise ValueError("all ranks fail")
