"""The anchor's log-probabilities: what ``kl_from_anchor`` measures from, kept where they fit, else computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spectra.batches import Batch
from spectra.costs import KLFromAnchor


class Anchors:
    """Batches as ``kl_from_anchor`` sees them: log-probabilities as targets, weights zero where a class is ignored.

    Attributes:
        kept: log-probabilities of each batch; None while none are kept.
    """

    def __init__(self, cost: KLFromAnchor, outputs: Callable[[Any], Tensor]) -> None:
        """Keeps nothing yet.

        Args:
            cost: says which class is ignored.
            outputs: the model's outputs on inputs, at the anchor.
        """
        self._cost, self._outputs = cost, outputs
        self.kept: list[Tensor] | None = None

    def keep(self, batches: Iterable[Batch], budget: int) -> None:
        """Computes those of all batches, in order, and keeps them if they take no more bytes than the budget."""
        kept, total = [], 0
        for batch in batches:
            kept.append(self._of(batch))
            total += kept[-1].numel() * kept[-1].element_size()
            if total > budget:
                return
        self.kept = kept

    def seen(self, batch: Batch, number: int | None = None) -> Batch:
        """A batch with its targets and weights replaced; ``number`` says where the kept ones are."""
        anchor = self._of(batch) if self.kept is None or number is None else self.kept[number]
        weights = self._cost.class_weights(anchor, batch.targets)
        if batch.weights is not None:
            given = batch.weights.reshape(-1)
            # Weights of a wrong shape are left for the landscape to refuse.
            weights = given if weights is None or weights.shape != given.shape else weights * given
        return replace(batch, targets=anchor, weights=weights)

    def _of(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self._outputs(batch.inputs).log_softmax(-1)
