"""The anchor's log-probabilities: what ``kl_from_anchor`` measures from, kept where they fit, else computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spectra.costs.likelihood import Likelihood, precise
from spectra.costs.softmax import KLFromAnchor
from spectra.errors import UserError
from spectra.files import AnchorFile
from spectra.model import Batch

STORAGES = ("auto", "memory", "disk", "recompute")
_AGAIN = "the anchor's log-probabilities are computed again for each batch"


class AnchorLogProbabilities:
    """Batches as ``kl_from_anchor`` sees them: log-probabilities as targets, weights zero where a class is ignored.

    Attributes:
        kept: log-probabilities of each batch, in memory or on disk; None while none are kept.
        notes: where they are, in a sentence; none while they are in memory.
    """

    def __init__(self, cost: Likelihood, outputs: Callable[[Any], Any], storage: str = "auto") -> None:
        """Keeps nothing yet.

        Args:
            cost: ``KLFromAnchor``, or one on a part of the outputs: says which class is ignored.
            outputs: the model's outputs on inputs, at the anchor.
            storage: ``memory``, ``disk``, ``recompute``, or ``auto``: the first of them that has room.

        Raises:
            UserError: if there is no such storage.
        """
        if storage not in STORAGES:
            raise UserError(f"anchor_storage must be one of {', '.join(STORAGES)}; got {storage!r}")
        self._cost, self._outputs, self._storage = cost, outputs, storage
        self.kept: list[Tensor] | AnchorFile | None = None
        self.notes: tuple[str, ...] = ()

    def keep(self, batches: Iterable[Batch], budget: int) -> None:
        """Computes those of all batches, in order, and keeps them where there is room.

        Args:
            batches: all of them.
            budget: bytes that they may take in memory, under ``auto``.
        """
        if self._storage == "recompute":
            self.notes = (f"{_AGAIN}, as asked",)
            return
        kept: list[Tensor] | AnchorFile | None = AnchorFile() if self._storage == "disk" else []
        most, total = math.inf if self._storage == "memory" else budget, 0
        for batch in batches:
            found = self._of(batch)
            total += found.numel() * found.element_size()
            kept = _extended(kept, found, total <= most)
            if kept is None:
                self.notes = (f"{_AGAIN}: neither memory nor disk has room for them",)
                return
        if isinstance(kept, AnchorFile):
            self.notes = (f"the anchor's log-probabilities, {total / 1e9:.2g} GB, are in a temporary file on disk",)
        self.kept = kept

    def seen(self, batch: Batch, number: int | None = None) -> Batch:
        """A batch with its targets and weights replaced; ``number`` says where the kept ones are."""
        found = None if self.kept is None or number is None else self.kept[number]
        anchor = self._of(batch) if found is None else found.to(next(batch.tensors()).device)
        inner = self._cost.inner
        assert isinstance(inner, KLFromAnchor)
        weights = inner.ignored(anchor, self._cost.own_targets(batch.targets))
        if batch.weights is not None:
            given = batch.weights
            # Weights of a wrong shape are left for the landscape to refuse.
            fits = weights is not None and weights.numel() == given.numel()
            weights = weights * given.reshape(weights.shape) if weights is not None and fits else given
        return replace(batch, targets=anchor, weights=weights)

    def _of(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return precise(self._cost.laid_out(self._outputs(batch.inputs), batch.targets)).log_softmax(-1)


def _extended(kept: list[Tensor] | AnchorFile | None, tensor: Tensor, fits: bool) -> list[Tensor] | AnchorFile | None:
    """One tensor more, all moved to disk once they do not fit the memory; None where the disk has no room either."""
    if isinstance(kept, list):
        kept.append(tensor)
        return kept if fits else _on_disk(kept)
    return kept if kept is not None and kept.append(tensor) else None


def _on_disk(tensors: list[Tensor]) -> AnchorFile | None:
    try:
        file = AnchorFile()
    except OSError:
        return None
    return file if all(file.append(tensor) for tensor in tensors) else None
