"""Langevin chains of a whole grid of settings in one batch, which can be left and gone on with at any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comparisons.langevin import LARGEST_RISE, Minibatches
from spectra.landscape import Landscape
from spectra.model import generator
from volume.chunks import pieces, squared_lengths

Array = NDArray[np.float64]
# Rises (cells, members), energies (cells, members) and their gradients (cells, members, n) where chains stand.
_State = tuple[Tensor, Tensor, Tensor]
# What a step gives: rises before it, and where asked for the probability of accepting it.
_Step = tuple[Tensor, Tensor | None]
# Steps that draw from the same streams of random numbers, one after the other: making a stream costs some draws.
STREAM_STEPS = 16


@dataclass(frozen=True, eq=False)
class Members:
    """The chains that each cell has, and what decides their random numbers.

    Member m draws the same rows and the same noise in all cells: what differs between cells is what their settings do.
    Draws are numbered by member and by blocks of steps, so that a chain can be gone on with from its place alone.

    Attributes:
        count: number of these chains.
        steps: steps of each.
        seed: the seed.
        sampler: how they move.
        checks: steps at which the acceptance probability is computed, after half of the steps; ``mala`` has it at all
            of those.
        stream: first word of the names of their random numbers.
        first: number of the first of them: all chains of a cell may be too many for the memory.
    """

    count: int
    steps: int
    seed: int
    sampler: str
    checks: int
    stream: str = "llc"
    first: int = 0

    def names(self, kind: str) -> list[str]:
        """Names of their random numbers of a kind."""
        return [f"{self.stream}-{kind}-{member}" for member in range(self.first, self.first + self.count)]

    @property
    def checked(self) -> Sequence[int]:
        """The steps at which the acceptance is computed."""
        if self.sampler == "mala":
            return range(self.steps // 2, self.steps)
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
        factors: Tensor | None = None,
    ) -> None:
        """Starts all chains at the checkpoint.

        Args:
            landscape: the cost that is sampled.
            members: the chains of a cell.
            cells: inverse temperature, localisation and step size of each.
            batch_size: rows of a minibatch; None for all of them.
            factors: (cells, n) by which each direction's step is multiplied; None for one.
        """
        self._members, self._landscape, self._anchor = members, landscape, landscape.theta
        self._batches = Minibatches(landscape, batch_size)
        table = torch.tensor(cells, dtype=torch.float64).to(landscape.theta)
        self._nb, self._pull, self._e = (table[:, column, None, None] for column in range(3))
        # Of a step: what the gradient and the noise are multiplied by, (cells, 1, 1), or (cells, 1, n) with factors.
        self._drift = self._e if factors is None else self._e * factors.to(self._anchor).unsqueeze(1)
        self._spread = self._drift.sqrt()
        self._scale = torch.tensor([cell[0] for cell in cells], dtype=torch.float64, device=table.device)[:, None]
        self.moved = torch.zeros(len(cells), members.count, landscape.size).to(landscape.theta)
        self.alive = torch.ones(len(cells), members.count, dtype=torch.bool, device=table.device)
        self.step = 0
        self._state: _State | None = None
        self._streams: dict[str, tuple[int, list[torch.Generator]]] = {}

    def go_on_from(self, moved: Array, alive: NDArray[np.bool_], step: int) -> None:
        """Takes up chains that were left at a step."""
        self.moved.copy_(torch.from_numpy(np.ascontiguousarray(moved)))
        self.alive.copy_(torch.from_numpy(np.ascontiguousarray(alive)))
        self.step = step
        for _ in range(step % STREAM_STEPS):
            self._rows()
            self._noise()
            if self._members.sampler == "mala":
                self._uniforms()
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
        rises: list[Tensor] = []
        acceptances: list[Tensor] = []
        for _ in range(count):
            found, accepted = ADVANCE[self._members.sampler](self, self.step in self._members.checked)
            rises.append(found.masked_fill(~self.alive, torch.nan))
            acceptances += [] if accepted is None else [accepted.masked_fill(~self.alive, torch.nan)]
            self.step += 1
        return torch.stack(rises, 2).float().cpu().numpy(), [one.cpu().numpy() for one in acceptances]

    def mean_squares(self, count: int) -> Tensor:
        """Takes plain steps; returns the mean squares of the gradients of each cell on their way (cells, n)."""
        sums = torch.zeros_like(self.moved[:, 0])
        chains = torch.zeros(len(sums), 1, dtype=torch.int64, device=sums.device)
        for _ in range(count):
            _, slopes = self._slopes()
            squares = slopes.square().masked_fill_(~self.alive.unsqueeze(2), 0.0)
            sums += squares.sum(1)
            chains += self.alive.sum(1, keepdim=True)
            self._move(slopes)
            self.step += 1
        return sums / chains.clamp_min(1)

    def langevin(self, checked: bool) -> _Step:
        """``x -= e/2 F (nb grad L + g x)``, ``x += N(0, e F)``, with gradients of minibatches."""
        accepted = self._acceptance() if checked else None
        rises, slopes = self._slopes()
        self._move(slopes)
        return rises, accepted

    def _slopes(self) -> tuple[Tensor, Tensor]:
        """Rises (cells, members) and gradients (cells, members, n) on minibatches; chains that failed are dropped."""
        rises, slopes = self._batches.slopes(self._flat(self._anchor + self.moved), self._rows())
        rises = rises.view(self.moved.shape[:2])
        self._drop(rises)
        return rises, slopes.view(self.moved.shape)

    def _move(self, slopes: Tensor) -> None:
        pull = slopes.mul_(self._nb).addcmul_(self.moved, self._pull)
        noise = self._noise().expand_as(self.moved)
        self.moved.addcmul_(pull, self._drift, value=-0.5).addcmul_(noise, self._spread)

    def metropolis(self, checked: bool) -> _Step:
        """The same with the gradient of all rows as a proposal, which each chain takes or leaves."""
        rises, energy, slope = self._state or self._energy(self.moved, self._batches)
        self._drop(rises)
        proposal = self._proposal(slope, self._noise())
        found, after, back = self._energy(proposal, self._batches)
        probability = self._probability(proposal, energy - after, slope, back)
        taken = self._uniforms().unsqueeze(0) < probability
        wide = taken.unsqueeze(2)
        self.moved.copy_(torch.where(wide, proposal, self.moved))
        self._state = (
            torch.where(taken, found, rises),
            torch.where(taken, after, energy),
            torch.where(wide, back, slope),
        )
        return rises, probability if checked else None

    def _of_members(self, kind: str, device: torch.device | str = "cpu") -> list[torch.Generator]:
        """The members' random numbers of a kind at the present step; each step of a block draws once from them."""
        block = self.step // STREAM_STEPS
        if self._streams.get(kind, (-1, []))[0] != block:
            made = [generator(self._members.seed, name, block, device=device) for name in self._members.names(kind)]
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

    def _uniforms(self) -> Tensor:
        """A number between 0 and 1 of each member at the present step (members,), drawn on the device."""
        device = self._anchor.device
        streams = self._of_members("accept", device)
        return torch.stack([torch.rand((), generator=one, dtype=torch.float64, device=device) for one in streams])

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
        seed, device = self._members.seed, self._anchor.device
        names = self._members.names("check")
        noise = self._drawn([generator(seed, name, self.step, device=device) for name in names])
        whole = Minibatches(self._landscape, None)
        _, energy, slope = self._energy(self.moved, whole)
        proposal = self._proposal(slope, noise)
        del noise  # a vector of the model's size
        _, after, back = self._energy(proposal, whole)
        return self._probability(proposal, energy - after, slope, back)

    def _proposal(self, slope: Tensor, noise: Tensor) -> Tensor:
        """A step from each chain's place by the gradient of its energy (cells, members, n)."""
        proposal = torch.addcmul(self.moved, slope, self._drift, value=-0.5)
        return proposal.addcmul_(noise.expand_as(proposal), self._spread)

    def _probability(self, proposal: Tensor, lost: Tensor, slope: Tensor, back: Tensor) -> Tensor:
        """The Metropolis acceptance probability (cells, members) of proposals that lose some energy.

        With d the move, s and b the energy's gradients at its ends, the densities of the move back and forth differ by
        ``d (s + b) / 2 + e/8 (s F s - b F b)``: no lengths of order n are subtracted from one another.
        """
        along, squares = (torch.zeros_like(lost, dtype=torch.float64) for _ in range(2))
        drift = self._drift.expand(-1, -1, self.moved.shape[2])
        for part in pieces(self.moved.shape[2]):
            here, there = slope[..., part], back[..., part]
            along += ((proposal[..., part] - self.moved[..., part]) * (here + there)).sum(2, dtype=torch.float64)
            squares += ((here - there) * (here + there) * drift[..., part]).sum(2, dtype=torch.float64)
        return (lost + 0.5 * along + 0.125 * squares).clamp_max(0.0).exp().nan_to_num(0.0)

    def _energy(self, moved: Tensor, whole: Minibatches) -> _State:
        """Rises on all data (cells, members), ``nb (L - L*) + g/2 |x|^2`` there, and its gradient; some at a time."""
        thetas = self._flat(self._anchor + moved)
        at_once = max(1, len(thetas) * self._batches.size // whole.rows)
        rises, slopes = [], torch.empty_like(thetas) if len(thetas) > at_once else None
        for first in range(0, len(thetas), at_once):
            some = thetas[first : first + at_once]
            # A block that is filled up keeps its shape, and so its recording.
            filled = torch.cat([some, some[:1].expand(at_once - len(some), -1)]) if len(some) < at_once else some
            costs, found = whole.slopes(filled, whole.draw([torch.Generator()] * len(filled)))
            rises.append(costs[: len(some)])
            if slopes is None:
                slopes = found
            else:
                slopes[first : first + at_once] = found[: len(some)]
        assert slopes is not None
        costs = torch.cat(rises).view(moved.shape[:2])
        squares = squared_lengths(self._flat(moved)).view(moved.shape[:2])
        energy = self._scale * costs + 0.5 * self._pull.double().squeeze(2) * squares
        return costs, energy, slopes.view(moved.shape).mul_(self._nb).addcmul_(moved, self._pull)

    @staticmethod
    def _flat(thetas: Tensor) -> Tensor:
        return thetas.flatten(0, 1)


# Passes after which ``Minibatches`` records the operations of one, and one more.
_PASSES_BEFORE_RECORDING = 9
ADVANCE: dict[str, Callable[[Ensemble, bool], _Step]] = {
    "sgld": Ensemble.langevin,
    "rmsprop": Ensemble.langevin,
    "mala": Ensemble.metropolis,
}
