"""The evidence that measures share: computed when first asked for, once a checkpoint, with what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from comparisons.evidence.compute_cost import ComputeCost, Tally
from comparisons.evidence.needs import NEEDS
from comparisons.evidence.settings import EvidenceSettings
from spectra.errors import UserError
from spectra.spectrum import SpectrumSettings
from spectra.timing import synchronise

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.checkpoint import Checkpoint
    from spectra.landscape import Landscape
    from spectra.spectrum import Spectrum
    from volume.study import VolumeStudy

Item = TypeVar("Item")


class Evidence:
    """What is known of one checkpoint; items are computed lazily, cached, counted and timed.

    A family of measures keeps its items in functions ``(evidence) -> evidence.item("name", build)``; whichever measure
    asks first pays, and each is told what it would have cost alone.

    Attributes:
        landscape: the cost on the training data, as the task makes it.
        held_out: the same network on data it was not trained on, or None.
        checkpoint: the file's content, or None.
        initial: (n,) the parameters at initialisation, or None.
        settings: what decides the numbers.
        notes: sentences on what was reused, and what was not and why.
        strategies: how products of each curvature are computed, by its name: what the first of them chose by time, and
            all others, and whoever goes on, take again.
        memory: bytes that graphs and bases may take.
        follow: called with the gradients that an item has taken so far, where that is known on the way; or None.
    """

    def __init__(
        self,
        landscape: Landscape,
        *,
        held_out: Landscape | None = None,
        checkpoint: Checkpoint | None = None,
        initial: Tensor | None = None,
        settings: EvidenceSettings | None = None,
        strategies: Mapping[str, str] | None = None,
        memory: int = SpectrumSettings.memory,
    ) -> None:
        """Computes nothing yet.

        Raises:
            UserError: if ``initial`` has another size than the landscape.
        """
        if initial is not None and initial.shape != landscape.theta.shape:
            raise UserError(f"initial must have shape {tuple(landscape.theta.shape)}, got {tuple(initial.shape)}")
        self.landscape, self.held_out, self.checkpoint = landscape, held_out, checkpoint
        self.initial = None if initial is None else initial.to(landscape.theta)
        self.settings = settings or EvidenceSettings()
        self.notes: tuple[str, ...] = ()
        self.strategies, self.memory = dict(strategies or {}), memory
        self.stored_spectra: dict[str, Spectrum] = {}
        self.stored_study: VolumeStudy | None = None
        self.follow: Callable[[float], None] | None = None
        self._items: dict[str, Any] = {}
        self._work: dict[str, ComputeCost] = {}
        self._parts: dict[str, set[str]] = {}
        self._open: list[_Opened] = []

    def item(self, name: str, build: Callable[[Tally], Item]) -> Item:
        """What is known under a name, built at the first call.

        Args:
            name: of the item, unique for what is built.
            build: computes it, and adds the passes over the data that it takes to the tally; may ask for other items,
                whose cost is theirs.

        Returns:
            The item.

        Raises:
            UserError: what ``build`` raised, at the first call and at each later one.
        """
        for opened in self._open:
            opened.parts.add(name)
        if name not in self._items:
            self._build(name, build)
        else:
            for opened in self._open:
                opened.parts |= self._parts[name]
        found = self._items[name]
        if isinstance(found, UserError):
            raise found
        known: Item = found
        return known

    def _build(self, name: str, build: Callable[[Tally], Any]) -> None:
        opened, tally, start = _Opened(), Tally(), self._now()
        self._open.append(opened)
        try:
            self._items[name] = build(tally)
        except UserError as error:
            self._items[name] = error
        finally:
            self._open.pop()
        seconds = self._now() - start
        if self._open:
            self._open[-1].seconds += seconds
        self._work[name] = ComputeCost(tally.evaluations, tally.gradients, tally.products, seconds - opened.seconds)
        self._parts[name] = opened.parts

    def _now(self) -> float:
        """Seconds of the clock, once the device has done what was queued."""
        synchronise(self.landscape.device)
        return time.perf_counter()

    def watch(self, compute: Callable[[Evidence], Item]) -> tuple[Item | UserError, ComputeCost]:
        """Runs a measure and says what it would have cost alone: its own time and all items that it used.

        Args:
            compute: the measure's function.

        Returns:
            What it returned, or the error it raised; and the work.
        """
        opened, start = _Opened(), self._now()
        self._open.append(opened)
        found: Item | UserError
        try:
            found = compute(self)
        except UserError as error:
            found = error
        finally:
            self._open.pop()
        own = self._now() - start - opened.seconds
        work = ComputeCost(seconds=own)
        for name in sorted(opened.parts):
            work = work + self._work[name]
        return found, work

    def strategy(self, curvature: str) -> str:
        """How products of a curvature are to be computed; ``auto`` as long as that is open."""
        return self.strategies.get(curvature, "auto")

    def keep_strategy(self, curvature: str, operator: object) -> None:
        """Notes what an operator that has computed products, or a result of it, says of its strategy."""
        found = str(getattr(operator, "strategy", ""))
        if found not in ("", "auto"):
            self.strategies.setdefault(curvature, found)

    @property
    def work(self) -> dict[str, ComputeCost]:
        """What each item has cost, without the items it is made of."""
        return dict(self._work)

    def missing(self, need: str) -> str:
        """Why there is no evidence of a kind that a measure needs.

        Args:
            need: ``held-out``, ``initial``, ``optimizer``, one of ``NEEDS``, or a kind of item that can always be
                computed, such as ``hessian``.

        Returns:
            A sentence; empty if it is there.
        """
        if need == "held-out" and self.held_out is None:
            return "there is no held-out data: the task has none"
        if need == "initial" and self.initial is None:
            return "the parameters at initialisation are not known: there is no step-0 checkpoint of the same run"
        if need == "optimizer" and (self.checkpoint is None or not self.checkpoint.optimizer):
            return "the checkpoint has no optimizer state"
        return NEEDS[need](self.landscape) if need in NEEDS else ""

    def tell(self, tally: Tally) -> None:
        """Says how far the item that is being built has come, to who follows it."""
        if self.follow is not None:
            self.follow(tally.in_gradients)


class _Opened:
    """An item or a measure that is being computed: the items it uses, and the seconds that were theirs."""

    def __init__(self) -> None:
        self.parts: set[str] = set()
        self.seconds = 0.0
