"""Curvature of a landscape: one product rule a batch, in several ways, the fastest right one chosen."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spectra.errors import FAST_PATH_FAILURES, UserError, out_of_memory
from spectra.landscape import Landscape, check_curvature
from spectra.model import Batch, Patterns, generator
from spectra.operators.graph_memory import GraphMemory
from spectra.operators.linear import Restricted, SymmetricOperator
from spectra.operators.recording import record
from spectra.operators.verification import difference, timed, tolerance
from spectra.timing import TRIALS, phase

Product = Callable[[Tensor], Tensor]
Linearised = tuple[Tensor, Callable[[Tensor], Tensor]]
DEFAULT_MEMORY = 4 * 2**30
_LARGE = 10**6
# Seconds a row from which one run times a product well enough.
_LONG = 0.1


@dataclass(frozen=True)
class Strategy:
    """One way to compute a batch's products.

    Attributes:
        name: what ``strategy=`` and the notes call it.
        build: prepares a batch; the product it returns is linear, (k, n) -> (k, n).
        prepared: preparing a batch costs a product or more, so that it pays only where the batch is kept.
        linearised: holds a linearised program, which is large, and takes hundreds of gradients to make: never
            chosen by ``auto``.
        batched: works on all k vectors at once, so that they are chunked by memory.
        instead_of: name of a strategy that does the same better; tried only where that one fails.
    """

    name: str
    build: Callable[[Batch], Product]
    prepared: bool = False
    linearised: bool = False
    batched: bool = False
    instead_of: str = ""


class Curvature(SymmetricOperator):
    """A curvature matrix of a landscape at theta, summed over its batches.

    The first strategy of ``strategies`` is the core, right on nearly every model, and itself held against finite
    differences in float64 on a few rows. The others are tried against it on the first batch: dropped where they fail
    or differ on a random vector, else the fastest is kept. One that is named is refused where it fails or differs.
    """

    def __init__(
        self,
        landscape: Landscape,
        *,
        theta: Tensor | None = None,
        strategy: str = "auto",
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        """Prepares nothing yet; the first product does.

        Args:
            landscape: what is differentiated.
            theta: (n,) the point; default its anchor.
            strategy: a strategy's name, or ``auto``.
            memory: bytes that kept graphs and blocks of vectors may take.

        Raises:
            UserError: if there is no strategy of that name.
        """
        self.landscape, self.memory = landscape, memory
        self.theta = landscape.theta if theta is None else theta.detach().to(landscape.theta)
        self.size, self.dtype, self.device = landscape.size, landscape.dtype, landscape.device
        self._strategies = {one.name: one for one in self.strategies()}
        if strategy != "auto" and strategy not in self._strategies:
            raise UserError(f"strategy must be auto or one of {', '.join(self._strategies)}; got {strategy!r}")
        self.strategy = self.asked = strategy
        self.ranks = landscape.ranks
        self._said: tuple[str, ...] = ()
        self._products: Callable[[], Iterator[Product]] | None = None
        self._traced: tuple[int, Linearised] | None = None
        self._recorded: tuple[int, Callable[[Tensor], Tensor]] | None = None
        self._chunk, self._keep = 1, True

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the landscape, and on how products are computed."""
        return (*self.landscape.notes, *self._said)

    @property
    def coarseness(self) -> float:
        """Relative error of the landscape's gradient where it computes more coarsely than its dtype says."""
        return self.landscape.coarseness

    @abstractmethod
    def strategies(self) -> list[Strategy]:
        """The ways to compute products, the core first."""

    @abstractmethod
    def differentiated(
        self, landscape: Landscape, theta: Tensor, direction: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The core's derivative along a direction on another landscape, and the function of theta it is that of."""

    @abstractmethod
    def again(self, landscape: Landscape) -> Curvature:
        """The same curvature at the anchor of another landscape."""

    def restricted(self, patterns: Patterns) -> SymmetricOperator:
        """The diagonal block of the parameters that match; at the anchor only they are differentiated."""
        if torch.equal(self.theta, self.landscape.theta):
            return self.again(self.landscape.restricted(patterns))
        return Restricted(self, self.landscape.parameters.positions(patterns).to(self.device))

    def matmat(self, vectors: Tensor) -> Tensor:
        """``V H`` for rows V (k, n), as (k, n), summed over batches."""
        return self.ranks.total(self.addend(vectors))

    def addend(self, vectors: Tensor) -> Tensor:
        """The sum over this process's batches."""
        vectors = self._checked(vectors)
        if self._products is None:
            self._prepare(vectors)
        core = next(iter(self._strategies.values()))
        if self.strategy == core.name:
            return self._summed(vectors)
        try:
            return self._summed(vectors)
        except FAST_PATH_FAILURES as problem:  # a fast path may fail on a batch or a block of another shape
            self._note(f"{self.strategy} fails here ({type(problem).__name__}) and is no longer used")
        self.strategy, self._chunk = core.name, 2**30
        self._products = self._passes(core.build)
        return self._summed(vectors)

    def _summed(self, vectors: Tensor) -> Tensor:
        assert self._products is not None
        total = self.landscape.own_l2 * vectors if self.landscape.own_l2 else None
        for product in self._products():
            total = self._added(total, product, vectors)
            del product  # or a graph that is not kept would live while the next is built
        assert total is not None
        return total

    def _added(self, total: Tensor | None, product: Product, vectors: Tensor) -> Tensor:
        if total is None and len(vectors) <= self._chunk:
            # The caller may overwrite what it gets; only the core's result is surely nobody else's.
            found = product(vectors)
            return found if self.strategy == next(iter(self._strategies)) else found.clone()
        total = torch.zeros_like(vectors) if total is None else total
        for start in range(0, len(vectors), self._chunk):
            part = slice(start, start + self._chunk)
            total[part] += product(vectors[part])
        return total

    @phase(TRIALS)
    def _prepare(self, vectors: Tensor) -> None:
        first = next(self.landscape.share())
        held = self.graph_memory
        core = next(iter(self._strategies.values()))
        # Alike on all ranks, which go through what is tried together.
        keep = self.ranks.every(held.kept(self.memory))
        recordable = self.ranks.every(held.recordable(self.memory))
        # Two vectors tell a block apart from a row; a model so large that they weigh is checked on one.
        probe = self._probe("verify")
        if self.size <= _LARGE:
            probe = torch.cat([probe, self._probe("verify again")])
        self.landscape.check_gradient()
        product, truth, seconds = self._core_product(core, first, probe)
        self._said += check_curvature(self.landscape, self.name, self.theta, self.differentiated)
        if self.strategy == "auto":
            core_time = self.ranks.largest(self._seconds_per_vector(core, product, vectors, seconds / len(probe)))
            del product  # one graph at a time
            chosen = self._choose(first, core, core_time, (probe, truth), vectors, recordable)
        else:
            chosen = self._strategies[self.strategy]
            keep &= held.kept(self.memory, linearised=chosen.linearised)
            del product
            self._verify_named(core, chosen, first, probe, truth)
        if not keep:
            reason = held.reason(self.memory, linearised=chosen.linearised)
            self._note(f"{reason}: graphs are rebuilt for each block")
        self.strategy, self._chunk = chosen.name, self._chunk_of(chosen)
        self._keep = keep
        self._products = self._built(core, chosen)
        self._traced = self._recorded = None

    def _built(self, core: Strategy, chosen: Strategy) -> Callable[[], Iterator[Product]]:
        """The products of all batches; by the core if the chosen way fails on a later batch."""
        try:
            return self._passes(chosen.build)
        except FAST_PATH_FAILURES as problem:
            if chosen is core:
                raise
            self._note(f"{chosen.name} fails here ({type(problem).__name__}) and is not used")
            self.strategy = core.name
            return self._passes(core.build)

    def _passes(self, build: Callable[[Batch], Product]) -> Callable[[], Iterator[Product]]:
        """Starts a pass over the products of this process's batches: built once and kept, or built anew each time."""
        if not self._keep:
            return lambda: (build(batch) for batch in self.landscape.share())
        kept = [build(batch) for batch in self.landscape.share()]
        return lambda: iter(kept)

    def _probe(self, stream: str) -> Tensor:
        probe = torch.randn(self.size, generator=generator(0, stream, device=self.device), device=self.device)
        return probe.to(self.dtype).unsqueeze(0)

    def _core_product(self, core: Strategy, batch: Batch, probe: Tensor) -> tuple[Product, Tensor, float]:
        """The core on the first batch and a random vector, and its seconds; its failure told in a sentence."""
        try:
            product = core.build(batch)
            return product, *timed(product, probe)
        except RuntimeError as problem:
            if out_of_memory(problem):
                raise
            reason = str(problem).strip().partition("\n")[0][:200]
            raise UserError(
                f"the {self.name} cannot be computed: the model cannot be differentiated as {core.name} needs "
                f"({type(problem).__name__}: {reason})"
            ) from problem

    def _verify_named(self, core: Strategy, chosen: Strategy, batch: Batch, probe: Tensor, truth: Tensor) -> None:
        """Refuses a strategy that was asked for by name and fails or differs from the core."""
        if chosen is core:
            return
        try:
            error, _ = difference(chosen.build(batch), probe, truth)
        except FAST_PATH_FAILURES as problem:
            raise UserError(
                f"strategy {chosen.name} fails on this model ({type(problem).__name__}); use auto or {core.name}"
            ) from problem
        if not error <= tolerance(self.landscape.parameters.computed):
            raise UserError(
                f"strategy {chosen.name} is wrong on this model: it differs from {core.name} by {error:.2g} of the "
                f"product's norm; use auto or {core.name}"
            )

    @cached_property
    def graph_memory(self) -> GraphMemory:
        """What graphs of this process's batches take; costs a forward pass of the first."""
        landscape = self.landscape
        saved = landscape.evaluation.saved_bytes(landscape.leaves(self.theta), next(landscape.share()).inputs)
        return GraphMemory(
            saved, self.size * self.theta.element_size(), landscape.count(), repeatable=landscape.batches.kept
        )

    def _chunk_of(self, strategy: Strategy) -> int:
        return self.graph_memory.chunk(self.memory) if strategy.batched else 2**30

    def _choose(
        self,
        batch: Batch,
        core: Strategy,
        core_time: float,
        known: tuple[Tensor, Tensor],
        vectors: Tensor,
        recordable: bool,
    ) -> Strategy:
        """Times the strategies on the first batch and keeps the fastest that agrees with the core."""
        best, best_time = core, core_time
        right = set()
        for one in list(self._strategies.values())[1:]:
            if not self._worth_trying(one, recordable, len(vectors)) or one.instead_of in right:
                continue
            taken = self.ranks.largest(self._tried(one, core, batch, known, vectors))
            if math.isfinite(taken):
                right.add(one.name)
            if taken < best_time:
                best, best_time = one, taken
        return best

    def _tried(
        self,
        one: Strategy,
        core: Strategy,
        batch: Batch,
        known: tuple[Tensor, Tensor],
        vectors: Tensor,
    ) -> float:
        """Seconds a vector takes by one strategy; inf, and a note, if it fails or differs from the core."""
        try:
            product = one.build(batch)
            error, seconds = difference(product, *known)
            if error <= tolerance(self.landscape.parameters.computed):
                return self._seconds_per_vector(one, product, vectors, seconds / len(known[0]))
            self._note(f"{one.name} differs from {core.name} by {error:.2g} and is not used")
        except FAST_PATH_FAILURES as problem:  # any failure of a fast path is a reason to step back from it
            self._note(f"{one.name} fails here ({type(problem).__name__}) and is not used")
        return math.inf

    def _seconds_per_vector(self, strategy: Strategy, product: Product, vectors: Tensor, known: float) -> float:
        # What verifying took tells enough of a row that takes long; of a block it tells nothing.
        if not strategy.batched and known >= _LONG:
            return known
        # A large model gains nothing from blocks beyond a few vectors, and timing them is dear.
        most = self._chunk_of(strategy) if self.size <= _LARGE else min(self._chunk_of(strategy), 4)
        block = vectors[: most if strategy.batched else 2]
        taken = [timed(product, block)[1] for _ in range(1 if strategy.batched else 2)]
        return min(taken) / len(block)

    def recorded(self, batch: Batch) -> Product:
        """The core's product of a batch, as the operations that depend on the vector."""
        replay = self._recording(batch)
        return lambda vectors: torch.stack([replay(vector) for vector in vectors])

    def recorded_batched(self, batch: Batch) -> Product:
        """The same operations on all vectors at once, vmapped."""
        replay = torch.func.vmap(self._recording(batch))
        return lambda vectors: replay(vectors)

    def _recording(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The recording of a batch: made once, shared by the strategies that use it while one is chosen."""
        if self._recorded is None or self._recorded[0] != batch.number:
            self._recorded = None
            product = next(iter(self._strategies.values())).build(batch)
            replay = record(lambda vector: product(vector.unsqueeze(0))[0], self._probe("record")[0])
            self._recorded = (batch.number, replay)
        return self._recorded[1]

    def linearised(self, batch: Batch, trace: Callable[[], Linearised]) -> Linearised:
        """The linearised program of a batch: traced once, shared by the strategies that use it."""
        if self._traced is None or self._traced[0] != batch.number:
            self._traced = None
            self._traced = (batch.number, trace())
        return self._traced[1]

    def _worth_trying(self, strategy: Strategy, recordable: bool, rows: int) -> bool:
        if strategy.linearised or (strategy.prepared and not recordable):
            return False
        # One row at a time a block's way gains nothing, and takes two vectors more of a large model's memory.
        if strategy.batched and rows == 1 and self.size > _LARGE:
            return False
        return not (strategy.batched and self.landscape.evaluation.convolutional and self.device.type == "cpu")

    def _note(self, sentence: str) -> None:
        self._said = (*self._said, sentence)


def row_by_row(product: Callable[..., Tensor], vectors: Tensor) -> Tensor:
    """Products of rows (k, n), one after another; no copy of a row: of a large model each is worth sparing."""
    if len(vectors) == 1:
        return product(vectors[0]).unsqueeze(0)
    found = torch.empty_like(vectors)
    for place, vector in zip(found, vectors, strict=True):
        product(vector, out=place)
    return found


def linearize(function: Callable[[Tensor], Tensor], theta: Tensor) -> Linearised:
    """``torch.func.linearize`` at theta: the value and the linear map to its tangents."""
    with warnings.catch_warnings():
        # torch's constant folding warns of attributes that it then finds.
        warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node")
        value, tangent = torch.func.linearize(function, theta)
    return value, tangent


def flat_cost(landscape: Landscape, batch: Batch) -> Callable[[Tensor], Tensor]:
    """A batch's share of the cost as a function of the flat theta, for ``torch.func``."""

    def cost(theta: Tensor) -> Tensor:
        tensors: Mapping[str, Tensor] = landscape.parameters.unflatten(theta)
        return landscape.cost_at(tensors, batch)

    return cost
