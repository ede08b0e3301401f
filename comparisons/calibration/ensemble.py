"""Langevin chains of a whole grid of settings in one batch, which can be left and gone on with at any step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comparisons.langevin import LARGEST_RISE, Minibatches
from spectra.landscape import Landscape
from spectra.model import generator

Array = NDArray[np.float64]
# Steps that draw from the same streams of random numbers, one after the other: making a stream costs some draws.
STREAM_STEPS = 16
Advance = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def langevin(moved: Tensor, pull: Tensor, noise: Tensor, step_sizes: Tensor) -> None:
    """``x -= e/2 (nb grad L + g x)``, ``x += N(0, e)``, in place.

    Args:
        moved: (cells, members, n) displacements x.
        pull: the same shape, ``nb grad L + g x``; overwritten.
        noise: (members, n), standard normal, the same in all cells.
        step_sizes: (cells, 1, 1) e.
    """
    moved.addcmul_(pull, step_sizes, value=-0.5).addcmul_(noise.expand_as(moved), step_sizes.sqrt())


ADVANCE: dict[str, Advance] = {"sgld": langevin}


@dataclass(frozen=True, eq=False)
class Members:
    """The chains that each cell has, and what decides their random numbers.

    Member m draws the same rows and the same noise in all cells: what differs between cells is what their settings do.
    Draws are numbered by member and by blocks of steps, so that a chain can be gone on with from its place alone.

    Attributes:
        count: number of chains of a cell.
        steps: steps of each.
        seed: the seed.
        sampler: how they move.
        checks: steps at which the acceptance probability is computed, after half of the steps.
    """

    count: int
    steps: int
    seed: int
    sampler: str
    checks: int

    @property
    def checked(self) -> list[int]:
        """The steps at which the acceptance is computed."""
        found = np.linspace(self.steps // 2, self.steps - 1, min(self.checks, self.steps)).astype(int)
        return list(dict.fromkeys(found.tolist()))


class Ensemble:
    """The chains of some cells, each at its own settings; all cells have the same members.

    Attributes:
        moved: (cells, members, n) displacements from the checkpoint.
        step: steps that are done.
    """

    def __init__(
        self,
        landscape: Landscape,
        members: Members,
        cells: list[tuple[float, float, float]],
        batch_size: int | None,
    ) -> None:
        """Starts all chains at the checkpoint; a cell is its inverse temperature, localisation and step size."""
        self._members, self._landscape, self._anchor = members, landscape, landscape.theta
        self._batches = Minibatches(landscape, batch_size)
        table = torch.tensor(cells, dtype=torch.float64).to(landscape.theta)
        self._nb, self._pull, self._e = (table[:, column, None, None] for column in range(3))
        self._scale = torch.tensor([cell[0] for cell in cells], dtype=torch.float64, device=table.device)[:, None]
        self.moved = torch.zeros(len(cells), members.count, landscape.size).to(landscape.theta)
        self.alive = torch.ones(len(cells), members.count, dtype=torch.bool, device=table.device)
        self.step = 0
        self._streams: dict[str, tuple[int, list[torch.Generator]]] = {}

    def go_on_from(self, moved: Array, alive: NDArray[np.bool_], step: int) -> None:
        """Takes up chains that were left at a step."""
        self.moved.copy_(torch.from_numpy(np.ascontiguousarray(moved)))
        self.alive.copy_(torch.from_numpy(np.ascontiguousarray(alive)))
        self.step = step
        for _ in range(step % STREAM_STEPS):
            self._rows()
            self._noise()
        # The shared passes are recorded after some of them: from here on as in a run that was not left.
        index = torch.arange(self._batches.size, device=self._anchor.device).expand(self.moved.shape[:2].numel(), -1)
        for _ in range(_PASSES_BEFORE_RECORDING):
            self._batches.slopes(self._flat(self._anchor + self.moved), index)

    def advance(self, count: int) -> tuple[Array, list[Array]]:
        """Takes steps.

        Args:
            count: number of steps, at most those that are left.

        Returns:
            Rises (cells, members, count), cost above the checkpoint's before each step, nan from where a chain failed;
            and the acceptances (cells, members) at the steps that are checked. Nothing is copied to the host before.
        """
        shape, rises, acceptances = self.moved.shape, [], []
        for _ in range(count):
            found, slopes = self._batches.slopes(self._flat(self._anchor + self.moved), self._rows())
            found = found.view(shape[:2])
            self._drop(found)
            rises.append(found.masked_fill(~self.alive, torch.nan))
            if self.step in self._members.checked:
                slopes = slopes.clone()
                acceptances.append(self._acceptance())
            pull = slopes.view(shape).mul_(self._nb).addcmul_(self.moved, self._pull)
            ADVANCE[self._members.sampler](self.moved, pull, self._noise(), self._e)
            self.step += 1
        return torch.stack(rises, 2).float().cpu().numpy(), [one.cpu().numpy() for one in acceptances]

    def _of_members(self, kind: str, device: torch.device | str = "cpu") -> list[torch.Generator]:
        """The members' random numbers of a kind at the present step; each step of a block draws once from them."""
        block = self.step // STREAM_STEPS
        if self._streams.get(kind, (-1, []))[0] != block:
            names = [f"llc-{kind}-{member}" for member in range(self._members.count)]
            made = [generator(self._members.seed, name, block, device=device) for name in names]
            self._streams[kind] = block, made
        return self._streams[kind][1]

    def _rows(self) -> Tensor:
        """Rows of each member's minibatch at the present step, the same in all cells: (cells * members, size)."""
        whole = self._batches.size == self._batches.rows
        streams = [torch.Generator()] * self._members.count if whole else self._of_members("rows", self._anchor.device)
        return self._batches.draw(streams).repeat(len(self.moved), 1)

    def _noise(self) -> Tensor:
        """Noise of each member at the present step (members, n), drawn on the device."""
        return self._drawn(self._of_members("noise", self._anchor.device))

    def _drawn(self, streams: list[torch.Generator]) -> Tensor:
        device, dtype = self._anchor.device, self._anchor.dtype
        noise = torch.empty(len(streams), len(self._anchor), dtype=dtype, device=device)
        for random, part in zip(streams, noise, strict=True):
            torch.randn(part.shape, generator=random, out=part, dtype=dtype, device=device)
        return noise

    def _drop(self, rises: Tensor) -> None:
        """Marks chains that left the finite numbers; they wait at the checkpoint, where nothing overflows."""
        fine = (rises.abs() * self._scale <= LARGEST_RISE * len(self._anchor)) & torch.isfinite(self.moved.sum(2))
        self.alive &= fine
        self.moved.masked_fill_(~self.alive.unsqueeze(2), 0.0)

    def _acceptance(self) -> Tensor:
        """Probability of accepting one full-gradient proposal from each chain's place, which is not changed."""
        names = [f"llc-check-{member}" for member in range(self._members.count)]
        device = self._anchor.device
        noise = self._drawn([generator(self._members.seed, name, self.step, device=device) for name in names])
        energy, slope = self._energy(self.moved)
        proposal = torch.addcmul(self.moved, slope, self._e, value=-0.5).addcmul_(
            noise.expand_as(self.moved), self._e.sqrt()
        )
        after, back = self._energy(proposal)
        returned = (self.moved - proposal).addcmul_(back, self._e, value=0.5)
        forward = 0.5 * noise.double().square().sum(1)
        backward = 0.5 * returned.double().square().sum(2) / self._e.double().squeeze(2)
        probability = (energy - after + forward - backward).clamp_max(0.0).exp()
        return torch.nan_to_num(probability, nan=0.0).masked_fill(~self.alive, torch.nan)

    def _energy(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """``nb (L - L*) + g/2 |x|^2`` on all data (cells, members), and its gradient; some chains at a time."""
        thetas, whole = self._flat(self._anchor + moved), Minibatches(self._landscape, None)
        at_once = max(1, len(thetas) * self._batches.size // whole.rows)
        rises, slopes = [], torch.empty_like(thetas)
        for first in range(0, len(thetas), at_once):
            some = thetas[first : first + at_once]
            # A block that is filled up keeps its shape, and so its recording.
            filled = torch.cat([some, some[:1].expand(at_once - len(some), -1)]) if len(some) < at_once else some
            costs, found = whole.slopes(filled, whole.draw([torch.Generator()] * len(filled)))
            rises.append(costs[: len(some)])
            slopes[first : first + at_once] = found[: len(some)]
        squares = moved.double().square().sum(2)
        energy = self._scale * torch.cat(rises).view(moved.shape[:2]) + 0.5 * self._pull.double().squeeze(2) * squares
        return energy, slopes.view(moved.shape).mul_(self._nb).addcmul_(moved, self._pull)

    @staticmethod
    def _flat(thetas: Tensor) -> Tensor:
        return thetas.flatten(0, 1)


# Passes after which ``Minibatches`` records the operations of one, and one more.
_PASSES_BEFORE_RECORDING = 9
