"""What bounds from both sides say of a log normaliser, and what speaks against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from spectra.errors import UserError
from spectra.estimate import Estimate, independent, jackknife
from spectra.files import Result, counted
from spectra.interval import with_ends
from volume.bridge.result import BridgeResult
from volume.chains import Array

# A gap that issues no caution, nats: each bound is then within a factor e^2 of the truth, as far as their errors say.
WIDEST_GAP = 2.0
# Share of all weight that one chain may have before the spread over chains says little of the error.
LARGEST_SHARE = 0.5
# Standard errors of their difference that the ladder's own value may lie outside of a bound.
_APART = 3.0


@dataclass(frozen=True, eq=False)
class Annealing:
    """Annealed importance sampling one way, done or on its way.

    Attributes:
        log_weights: (chains,) nats.
        points: (chains, n) where the chains stand, as displacements from the teacher in standard deviations.
        costs: (chains,) their costs above the teacher's.
        done: how many changes of temperature are behind them.
        gradients: gradient evaluations, of one parameter vector each.
        diverged: trajectories that ended at no finite energy, or far too high a one; all were rejected.
    """

    log_weights: Array
    points: np.ndarray[Any, Any]
    costs: Array
    done: int = 0
    gradients: int = 0
    diverged: int = 0

    @property
    def log_mean(self) -> Estimate:
        """Log of the mean weight over chains, with its jackknife error, nats."""
        count = len(self.log_weights)
        left = [float(logsumexp(np.delete(self.log_weights, c))) - math.log(count - 1) for c in range(count)]
        value = float(logsumexp(self.log_weights)) - math.log(count)
        finite = bool(np.isfinite(left).all())
        return Estimate(value, jackknife(np.array(left)) if finite else math.inf, freedom=count - 1.0)

    @property
    def largest_share(self) -> float:
        """Share of all weight that one chain has."""
        return float(np.exp(self.log_weights.max() - logsumexp(self.log_weights)))


@dataclass(frozen=True, eq=False, repr=False)
class SandwichResult(Result):
    """A ladder on a teacher's labels, and the bounds on its log normaliser from both sides.

    Attributes:
        inverse_temperature: b of the posterior.
        temperatures: changes of temperature from one rung to the next.
        ladder: the ladder from the prior to b, whose rungs give the temperatures and the steps.
        forward: annealing from the prior; None before it begins.
        backward: annealing from the teacher; None before it begins.
        source: what it was made from, texts by name.
    """

    inverse_temperature: float
    temperatures: int
    ladder: BridgeResult
    forward: Annealing | None = None
    backward: Annealing | None = None
    source: Mapping[str, str] = field(default_factory=dict)
    _written_by: ClassVar[str] = "volume.bridge.sandwich_store:write_sandwich"

    @property
    def complete(self) -> bool:
        """Whether both sides are done."""
        changes = self.temperatures * (len(self.ladder.rungs) - 2) if self.ladder.complete else math.inf
        return all(side is not None and side.done == changes for side in (self.forward, self.backward))

    @property
    def lower(self) -> Estimate:
        """Stochastic lower bound of log Z(b): its exponential is right on average, nats."""
        return self._sides[0].log_mean

    @property
    def upper(self) -> Estimate:
        """Stochastic upper bound of log Z(b): the exponential of its negative is right on average, nats."""
        found = self._sides[1].log_mean
        return replace(found, value=-found.value)

    @property
    def gap(self) -> Estimate:
        """The upper bound less the lower one, nats."""
        return independent(self.upper, self.lower)

    @property
    def by_ladder(self) -> Estimate:
        """The ladder's own log Z(b), by the acceptance ratios of neighbouring rungs, nats."""
        value = float(self.ladder.log_normalisers[0][-1])
        return Estimate(value, self.ladder.links_error, freedom=self.ladder.freedom)

    def proven(self, level: float = 0.95) -> tuple[float, float]:
        """An interval that misses log Z(b) with at most a chance ``1 - level`` over teacher, labels and chains, nats.

        Markov's inequality on the mean weights, ``Pr[log Z^ - log Z >= log k] <= 1 / k``, half of the chance a side; it
        asks nothing of the chains' mixing, and does not rest on the standard errors.
        """
        slack = math.log(2.0 / (1.0 - level))
        return self.lower.value - slack, self.upper.value + slack

    @property
    def gradient_evaluations(self) -> int:
        """All that were spent, of one parameter vector each."""
        sides = [side.gradients for side in (self.forward, self.backward) if side is not None]
        return self.ladder.gradient_evaluations + sum(sides)

    @property
    def _sides(self) -> tuple[Annealing, Annealing]:
        if not self.complete or self.forward is None or self.backward is None:
            raise UserError("the sandwich is not complete: go on with it")
        return self.forward, self.backward

    def _title(self) -> str:
        name = Path(self.source.get("checkpoint", "a checkpoint")).name
        return f"sandwich for {name}, {counted(self.ladder.size, 'parameter')}, b = {self.inverse_temperature:g}"

    def _facts(self) -> dict[str, str]:
        if not self.complete:
            sides = [side.done for side in (self.forward, self.backward) if side is not None]
            done = f"{counted(self.ladder.rung_count, 'rung')} and {counted(sum(sides), 'change')} of temperature"
            return {"not complete": f"{done} so far; go on with --resume"}
        values = {"lower bound": self.lower, "by the ladder": self.by_ladder, "upper bound": self.upper}
        found = {f"log Z, {name}": f"{with_ends(one.value, one.interval())} nat" for name, one in values.items()}
        low, high = self.proven()
        found["gap"] = f"{with_ends(self.gap.value, self.gap.interval())} nat"
        return found | {"proven with probability 95 %": f"{low:.2f} to {high:.2f} nat (Markov's inequality)"}

    def _cautions(self) -> tuple[str, ...]:
        if not self.complete:
            return ()
        found = []
        for name, excess in (
            ("below the lower", (self.lower, self.by_ladder)),
            ("above the upper", (self.by_ladder, self.upper)),
        ):
            outside = independent(*excess)
            if outside.value > _APART * outside.standard_error:
                found.append(f"the ladder's own log Z is {outside.value:.2g} nat {name} bound: its chains do not mix")
        for name, side in zip(("forward", "backward"), self._sides, strict=True):
            if side.largest_share > LARGEST_SHARE:
                found.append(
                    f"one chain has {side.largest_share:.0%} of the {name} weight, so that its error is not known: use "
                    "more --temperatures or --chains"
                )
        if self.gap.value > WIDEST_GAP:
            found.append(f"the bounds are {self.gap.value:.2g} nat apart: more --temperatures bring them together")
        return tuple(found)

    def records(self) -> list[dict[str, Any]]:
        """One row a chain: the log weights of both ways."""
        return [
            {"chain": chain, "forward_log_weight": float(one), "backward_log_weight": float(other)}
            for chain, (one, other) in enumerate(zip(*(side.log_weights for side in self._sides), strict=True))
        ]

    def _stored(self) -> tuple[Any, ...]:
        return self, self.source
