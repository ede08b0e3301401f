"""One rank's part of a landscape in pieces: its theta, leaves and gradients are this rank's pieces of the whole ones.

Every evaluation joins parameters, so all ranks go through as many batches; where the data is not as many for each, a
rank evaluates the first batch again, which then counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from spectra.costs import KLFromAnchor, PerSampleCost, recognised, with_decoder_inputs
from spectra.errors import UserError
from spectra.landscape import DerivativeError, Landscape, fingerprint, refuse_options, refuse_parameters, weighted_sums
from spectra.model import Batch, Batches, Evaluation, Patterns, preserved_random_state, select_parameters
from spectra.nested import mapped, tensors_in
from spectra.ranks import Joiner, Pieces, Ranks, is_dtensor, reshard
from spectra.timing import CHECKS, phase

# Number of a batch that is evaluated for the other ranks' sake and counts nothing.
IDLE = -1
# Outputs under the model's own hooks that differ by more are of another function; by less, of another precision.
_ANOTHER = 0.1
# Relative difference of the gradient from differences of the cost that is let pass, their own errors apart.
_AGREES = 0.02


class _Evaluation(Evaluation):
    """Evaluates a twin in pieces: what graphs keep of joined parameters are pieces."""

    def __init__(self, joiner: Joiner, mode: str) -> None:
        super().__init__(joiner.model, mode, {})
        self._joiner = joiner

    @contextmanager
    def _guards(self) -> Iterator[None]:
        with super()._guards(), self._joiner.saving_pieces():
            yield


class Shard(Landscape):
    """What a landscape is to the operators' cores, in pieces; other than theirs, its methods must not be used.

    Attributes:
        pieces: how the parameters are cut.
    """

    def __init__(
        self,
        model: nn.Module,
        cost: PerSampleCost,
        batches: Any,
        *,
        parameters: Patterns,
        l2: float,
        mode: str,
        notes: tuple[str, ...],
        ranks: Ranks,
    ) -> None:
        """See ``ShardedLandscape``."""
        refuse_options(mode, l2)
        with torch.inference_mode(False), torch.enable_grad():
            joiner = Joiner(model, ranks)
            self.evaluation = _Evaluation(joiner, mode)
            self.parameters = select_parameters(self.evaluation.model, parameters)
            held = dict(self.evaluation.model.named_parameters())
            self.pieces = Pieces(tuple(joiner.shape(held[name]) for name in self.parameters.names), ranks)
            self.model, self.l2, self.mode, self.ranks = model, l2, mode, ranks
            self._given_cost, self.cost_function = cost, recognised(cost)
            self._notes, self._found, self._shifts = notes, (), False
            self.theta = self.parameters.flatten(held)
            refuse_parameters(self.parameters.unflatten(self.theta))
            for name, part in self.parameters.unflatten(self.theta).items():
                held[name].data = part  # held once, in theta
            self.batches = batches if isinstance(batches, Batches) else Batches(batches)
            self._rounds = -(-self.batches.count // ranks.count)
            with preserved_random_state(self.device):
                self._prepare()

    @phase(CHECKS)
    def _prepare(self) -> None:
        if isinstance(self.softmax, KLFromAnchor):
            raise UserError(
                "kl_from_anchor is not computed on a sharded model: its Hessian at the anchor is the Gauss-Newton "
                "matrix of cross_entropy, give that with operator='gauss-newton'"
            )
        self.ranks.require_same("data", self.batches.sha256)
        self.ranks.require_same("anchor", f"{self.pieces.size} parameters in {self.dtype}")
        self._require_same_state()
        if self.batches.count < self.ranks.count:
            self._note(
                f"batches are shared out whole: of {self.ranks.count} ranks {self.batches.count} have one, the others "
                "wait; give smaller batches"
            )
        tensors = self.parameters.unflatten(self.theta)
        first = self._placed(with_decoder_inputs(self.evaluation.model, next(iter(self.batches))))
        witness = self.evaluation.examine(tensors, first.inputs)
        if witness.embeddings:
            self._note("an embedding's padding row (padding_idx), which training holds constant, is a variable here")
        with torch.no_grad():
            self._held_against_own(tensors, first)
            self._read_first_batch(tensors, first)
            self._sum_at_anchor(tensors)

    def _require_same_state(self) -> None:
        """Refuses ranks on which what is not sharded differs."""
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        kept = [one.detach() for _, one in named if not is_dtensor(one) and one.is_floating_point() and one.numel()]
        if kept:
            self.ranks.require_close("parameters", torch.cat([fingerprint(one.reshape(-1).cpu()) for one in kept]))

    def _held_against_own(self, tensors: Mapping[str, Tensor], first: Batch) -> None:
        """Compares the twin with the user's model, run as it is with its own hooks.

        Raises:
            UserError: if they are not the same function.
        """
        if self.mode == "train":
            return
        twins = self.evaluation(tensors, first.inputs)
        own = Evaluation(self.model, self.mode, {})({}, mapped(first.inputs, Tensor.clone))
        reshard(self.model)
        difference = max(map(_apart, tensors_in(twins), tensors_in(own)), default=0.0)
        difference = self.ranks.largest(difference)
        if difference > _ANOTHER:
            raise UserError(
                f"without the hooks of torch.distributed the model gives other outputs, {difference:.2g} of their norm "
                "apart: a module does more with its sharded parameters than reading them; it cannot be taken in pieces"
            )
        if difference > 1e3 * torch.finfo(self.parameters.computed).eps:
            self._note(
                f"under its own hooks the model gives outputs {difference:.1g} of their norm apart "
                "(MixedPrecisionPolicy?): here it computes in its parameters' own precision"
            )

    def taken(self) -> Iterator[Batch]:
        """This rank's batches, and as many idle ones as make the ranks' numbers equal."""
        mine = self.ranks.part(self.batches.count)
        own = map(self._taken, islice(self.batches, mine.start, mine.stop))
        for _ in range(self._rounds):
            batch = next(own, None)
            if batch is None:
                batch = replace(self._taken(next(iter(self.batches))), number=IDLE)
            yield self._placed(batch)

    def share(self) -> Iterator[Batch]:
        """The same as ``taken``, numbered."""
        for number, batch in enumerate(self.taken()):
            yield batch if batch.number == IDLE else replace(batch, number=number)

    def sample_costs(
        self, outputs: Any, batch: Batch, cost: PerSampleCost | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Those of an idle batch weigh nothing."""
        costs, weights = super().sample_costs(outputs, batch, cost)
        return costs, torch.zeros_like(costs.detach()) if batch.number == IDLE else weights

    def _sum_at_anchor(self, tensors: dict[str, Tensor]) -> None:
        sums, wrong = torch.zeros(3, dtype=torch.float64), ""
        for batch in self.share():
            found = weighted_sums(*self._checked_at(tensors, batch))
            if not torch.isfinite(found[0]) and not wrong:
                wrong = f"batch {self.ranks.part(self.batches.count).start + batch.number} gives {float(found[0])}"
            sums += torch.tensor([float(one) for one in found], dtype=torch.float64)
        # On all ranks, or the others would wait for this one.
        said = next(filter(None, self.ranks.texts(wrong)), "")
        if said:
            raise UserError(f"the cost at the anchor is not finite: {said}")
        total, self.total_weight, self.samples = self.ranks.total(sums).tolist()
        if self.total_weight <= 0.0:
            raise UserError("the samples' weights sum to zero")
        self.anchor_cost = total / self.total_weight + self._penalty(self.theta)

    @property
    def own_l2(self) -> float:
        """Each rank has the penalty of its own pieces."""
        return self.l2

    def _penalty(self, theta: Tensor) -> float:
        return 0.5 * self.l2 * self.norm(theta) ** 2 if self.l2 else 0.0

    def norm(self, part: Tensor) -> float:
        """The norm of a vector of which each rank has a part."""
        square = part.double().square().sum().reshape(1)
        return math.sqrt(float(self.ranks.total(square)))

    def cost(self, theta: Tensor | None = None) -> float:
        """The cost at theta's pieces (width,), default the anchor."""
        if theta is None:
            return self.anchor_cost
        tensors, total = self.parameters.unflatten(theta), torch.zeros(1, dtype=torch.float64)
        with torch.no_grad():
            for batch in self.share():
                total += weighted_sums(*self.samples_at(tensors, batch))[0].cpu()
        return float(self.ranks.total(total)) / self.total_weight + self._penalty(theta)

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """This rank's pieces (width,) of the gradient at theta's pieces (width,), default the anchor."""
        theta = self.theta if theta is None else theta
        total, unused = self.l2 * theta, set(self.parameters.names)
        for batch in self.share():
            total = total + self.batch_gradient(theta, batch, unused)
        if unused and not self.l2:
            self._note(f"the cost does not depend on {', '.join(sorted(unused)[:4])}")
        return total

    def check_gradient_along(self, direction: Tensor, step: float) -> None:
        """Holds the gradient against central differences of the cost, along a direction that leans on the gradient.

        Args:
            direction: this rank's part of a random unit vector.
            step: length of the displacement.

        Raises:
            DerivativeError: if autograd gives something else.
        """
        slope = self.gradient()
        way = direction + slope / (self.norm(slope) or 1.0)
        way = way / self.norm(way)
        known = float(self.ranks.total((slope.double() * way.double()).sum().reshape(1)))

        def found(length: float) -> float:
            ahead, behind = self.cost(self.theta + length * way), self.cost(self.theta - length * way)
            return (ahead - behind) / (2.0 * length)

        near, far = found(step), found(2.0 * step)
        noise = 1e2 * torch.finfo(self.parameters.computed).eps * abs(self.anchor_cost) / step
        if abs(known - near) > _AGREES * max(abs(known), abs(near)) + 4.0 * abs(far - near) + noise:
            raise DerivativeError(
                f"the gradient cannot be trusted: along a direction it is {known:.6g}, and {near:.6g} by finite "
                "differences of the cost, so a derivative of the model is wrong (a hook, a custom autograd.Function, "
                "or a kept intermediate?)"
            )


def _apart(one: Tensor, two: Tensor) -> float:
    """Relative difference of two outputs; infinite where they are not of one shape."""
    two = two.full_tensor() if is_dtensor(two) else two  # type: ignore[attr-defined]
    if one.shape != two.shape or not one.is_floating_point():
        return 0.0 if one.shape == two.shape and torch.equal(one, two) else float("inf")
    finite = torch.isfinite(one) & torch.isfinite(two)
    one, two = one[finite].double(), two[finite].double()
    return float((one - two).norm()) / (float(one.norm()) or 1.0)
