"""What the costs of single samples do along chains: sums over draws, from which functional variances are read."""

from __future__ import annotations

import torch
from torch import Tensor

from comparisons.langevin.minibatches import Minibatches


class SampleSums:
    """Sums over draws of each sample's rise r, of r^2 and of exp(-r), for each chain.

    The rise is the sample's cost above its own at the checkpoint, so that sums of squares lose no digits. Samples of
    weight zero are left out.

    Attributes:
        sums: (chains, 3, samples) float64.
    """

    def __init__(self, batches: Minibatches, chains: int) -> None:
        """Starts with no draw."""
        self._batches, self._counted = batches, batches.sample_weights > 0.0
        self._anchor = batches.sample_costs(None)[self._counted]
        self.sums = torch.zeros(chains, 3, len(self._anchor), dtype=torch.float64, device=self._anchor.device)

    def add(self, anchor: Tensor, moved: Tensor) -> None:
        """Adds one draw of all chains, displaced from the anchor (n,) by rows (chains, n)."""
        for place, row in enumerate(moved):
            rise = self._batches.sample_costs(anchor + row)[self._counted] - self._anchor
            self.sums[place] += torch.stack([rise, rise.square(), (-rise).exp()])


def equally_weighted(batches: Minibatches) -> bool:
    """Whether all samples that count at all count the same: what a likelihood of single samples needs."""
    counted = batches.sample_weights[batches.sample_weights > 0.0]
    return bool((counted == counted[0]).all())
