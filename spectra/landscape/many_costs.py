"""Costs at many parameter vectors: one at a time, or vmapped where that is right and the model small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from spectra.errors import FAST_PATH_FAILURES
from spectra.model import Batch, Evaluation, ParameterLayout

# Vmapped outputs and activations of one chunk stay below this: within the cache, where the device is the CPU.
CHUNK_BYTES = 2**28
CPU_CHUNK_BYTES = 2**23
LARGEST_CHUNK = 64
# With fewer vectors at once vmapping gains nothing.
SMALLEST_CHUNK = 4
# Larger models fill the machine with one vector at a time.
LARGEST_VMAPPED = 10**6


def nearby(theta: Tensor) -> Tensor:
    """Two vectors near the anchor, on which two ways to evaluate are compared, the same whatever is asked for first.

    Returns:
        (2, n), off the anchor, where a gradient may be nothing but rounding.
    """
    aside = 0.01 * (theta.abs() + 0.1)
    return torch.stack([theta + aside, theta - aside])


def vmappable(evaluation: Evaluation, theta: Tensor) -> bool:
    """Whether passes at several vectors gain from being one: small models, and on the CPU none with convolutions."""
    return len(theta) <= LARGEST_VMAPPED and not (evaluation.convolutional and theta.device.type == "cpu")


def agree(one: Tensor, two: Tensor, rounding: float) -> bool:
    """Whether two ways give the same numbers, up to a share of the largest."""
    one, two = one.double(), two.double()
    scale = one.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return bool((one - two).abs().max() <= rounding * scale)


class ManyCosts:
    """Sums of the samples' costs at rows of thetas, in float64.

    The vmapped way is tried once, on two vectors beside the anchor, and then used for two vectors or more if it agrees
    with the loop to rounding. Neither time nor what was asked for first decides: the last bit of a cost, and so of a
    resumed run, must depend on nothing but the vectors.

    Attributes:
        vmapped: whether it is used; None as long as nobody asked.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        layout: ParameterLayout,
        theta: Tensor,
        samples_at: Callable[[Mapping[str, Tensor], Batch], tuple[Tensor, Tensor | None]],
        batches: Callable[[], Iterator[Batch]],
    ) -> None:
        """Takes what is summed.

        Args:
            evaluation: the model.
            layout: the parameters in theta.
            theta: (n,) the anchor.
            samples_at: costs and weights of a batch's samples at parameters by name.
            batches: starts a pass over the data.
        """
        self._evaluation, self._layout, self._theta = evaluation, layout, theta
        self._samples_at, self._batches = samples_at, batches
        self.vmapped: bool | None = None
        self._chunk = 1

    def __call__(self, thetas: Tensor) -> Tensor:
        """Cost sums (k,) over all samples, float64, penalty left out."""
        thetas = thetas.to(self._theta)
        several = len(thetas) > 1
        if self.vmapped is None and several:
            self.vmapped = self._decide(nearby(self._theta))
        vmapped = self.vmapped and several
        totals = torch.zeros(len(thetas), dtype=torch.float64, device=thetas.device)
        with torch.no_grad():
            for batch in self._batches():
                totals += self._vmapped(thetas, batch) if vmapped else self._looped(thetas, batch)
        return totals

    def _looped(self, thetas: Tensor, batch: Batch) -> Tensor:
        sums = [self._at(batch)(theta).double().sum() for theta in thetas]
        return torch.stack(sums) if sums else thetas.new_zeros(0, dtype=torch.float64)

    def _vmapped(self, thetas: Tensor, batch: Batch) -> Tensor:
        mapped = torch.func.vmap(self._at(batch))
        return torch.cat([mapped(part).double().sum(-1) for part in torch.split(thetas, self._chunk)])

    def _at(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        def weighted(theta: Tensor) -> Tensor:
            costs, weights = self._samples_at(self._layout.unflatten(theta), batch)
            return costs if weights is None else costs.double() * weights.double()

        return weighted

    def _decide(self, thetas: Tensor) -> bool:
        if not vmappable(self._evaluation, self._theta):
            return False
        batch = next(self._batches())
        held = self._evaluation.saved_bytes(self._layout.leaves(self._theta), batch.inputs)
        limit = CPU_CHUNK_BYTES if self._theta.device.type == "cpu" else CHUNK_BYTES
        self._chunk = max(1, min(LARGEST_CHUNK, limit // max(held, 1)))
        if self._chunk < SMALLEST_CHUNK:
            return False
        with torch.no_grad():
            one = self._looped(thetas, batch)
            try:
                two = self._vmapped(thetas, batch)
            except FAST_PATH_FAILURES:  # whatever vmap cannot do, the loop can
                return False
        return agree(one, two, 100 * torch.finfo(self._theta.dtype).eps)
