"""The landscape: model, data and cost as a function of the flat parameter vector theta."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from spectra.anchors import Anchors
from spectra.batches import Batch, Batches, merged
from spectra.costs import KLFromAnchor, Likelihood, PerSampleCost, cost_name
from spectra.errors import UserError
from spectra.evaluation import Evaluation
from spectra.many_costs import ManyCosts
from spectra.one_process import OneProcess
from spectra.parallel_sharded import whole_model
from spectra.parameters import ParameterLayout, Patterns, matches, select_parameters
from spectra.randomness import preserved_random_state
from spectra.unreached import refuse_checkpoints, refuse_hidden

MERGED_ROWS = 4096
MERGED_BYTES = 256 * 2**20


class Landscape(OneProcess):
    r"""The cost of a model on data as a function of its parameters.

    ``C(theta) = sum_i w_i c_i / sum_i w_i + l2/2 |theta|^2``.

    Costs are summed in float64 and averaged over samples, so the split into batches does not matter. The user's
    model is left as found. It is evaluated in eval mode (batch norm with its running statistics, no dropout) unless
    ``mode`` says ``train``.

    Attributes:
        model: the user's model; a twin with whole parameters of one that is sharded (FSDP2, DTensor).
        cost_function: the per-sample cost.
        parameters: layout of the differentiated parameters, in the order of theta.
        theta: (n,) the anchor.
        batches: the data as read.
        total_weight: sum of the samples' weights.
        l2: coefficient of the penalty ``l2 / 2 |theta|^2``.
        anchor_cost: cost at the anchor.
    """

    def __init__(
        self,
        model: nn.Module,
        cost: PerSampleCost,
        batches: Any,
        *,
        theta: Tensor | None = None,
        parameters: Patterns = "*",
        l2: float = 0.0,
        mode: str = "eval",
        background: Mapping[str, Tensor] | None = None,
        anchor_bytes: int = 2**30,
        anchor_storage: str = "auto",
        notes: tuple[str, ...] = (),
    ) -> None:
        """Reads the data, and refuses what cannot be trusted.

        Args:
            model: any module; its trainable parameters that match ``parameters`` are the variables.
            cost: ``(outputs, targets) -> (samples,)``; see ``spectra.costs``.
            batches: tensors (inputs, targets[, weights]), or a re-iterable of such batches. Samples of class -100 (the
                cost's ``ignore_index``) count nothing, under cross-entropy and ``kl_from_anchor`` alike.
            theta: (n,) the anchor; default the model's present parameters.
            parameters: patterns of the names to select.
            l2: coefficient of the penalty, non-negative.
            mode: ``eval`` or ``train``.
            background: values of parameters that are not variables, by name; default the model's own.
            anchor_bytes: anchor log-probabilities of ``kl_from_anchor`` are kept in memory up to this size.
            anchor_storage: ``memory``, ``disk`` or ``recompute``; ``auto`` takes the first that has room.
            notes: sentences on the data and the model, for whoever reads the results.

        Raises:
            UserError: for an empty selection, data or model that are not deterministic, a cost that is not finite
                at the anchor (naming the batch and the value), a cost of the wrong shape, or targets that are none
                for the cost (missing, of the wrong shape, soft ones that do not sum to 1).
        """
        if mode not in ("eval", "train"):
            raise UserError(f"mode must be eval or train, got {mode!r}")
        if not (math.isfinite(l2) and l2 >= 0.0):
            raise UserError(f"l2 must be finite and non-negative, got {l2}")
        model = whole_model(model)
        self.evaluation = Evaluation(model, mode, background or {})
        self.parameters: ParameterLayout = select_parameters(self.evaluation.model, parameters)
        self.model, self.cost_function, self.l2, self.mode = model, cost, l2, mode
        self._anchor_bytes, self._anchor_storage, self._notes = anchor_bytes, anchor_storage, notes
        found = self.parameters.flatten(dict(self.evaluation.model.named_parameters()))
        self.theta = found if theta is None else theta.detach().to(found).clone()
        self.parameters.split(self.theta)
        self.device = self.theta.device
        self.batches = batches if isinstance(batches, Batches) else Batches(batches)
        self.many_costs = ManyCosts(self)
        self._merged: list[Batch] | None = None
        self._firsts: list[int] = []
        self._reached = False
        self._anchors: Anchors | None = None
        with preserved_random_state(self.device):
            self._prepare()

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return self.parameters.size

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of theta."""
        return self.theta.dtype

    @cached_property
    def samples(self) -> float:
        """Number of samples whose weight is not zero."""
        count, tensors = 0.0, self.parameters.unflatten(self.theta)
        with torch.no_grad():
            for batch in self.iterate():
                costs, weights = self.sample_costs(self.evaluation(tensors, batch.inputs), batch)
                count += len(costs) if weights is None else int((weights > 0).sum())
        return count

    @property
    def likelihood(self) -> Likelihood | None:
        """The cost as a likelihood, or None for a plain callable."""
        return self.cost_function if isinstance(self.cost_function, Likelihood) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the data, what was stepped back from, and where the anchor is kept."""
        return (*self._notes, *self.evaluation.notes, *(self._anchors.notes if self._anchors is not None else ()))

    def _prepare(self) -> None:
        if self.batches.kept:
            rows = MERGED_ROWS if self.mode == "eval" else 1
            self._merged = [b.to(self.device, self.parameters.computed) for b in self._merge(rows)]
        tensors = self.parameters.unflatten(self.theta)
        first = next(self._raw_batches())
        with torch.no_grad():
            self.evaluation.check_deterministic(tensors, first.inputs)
        if isinstance(self.cost_function, KLFromAnchor):
            self._anchors = Anchors(self.cost_function, partial(self.evaluation, tensors), self._anchor_storage)
            self._anchors.keep(self._raw_batches(), self._anchor_bytes)
        self.total_weight = 0.0
        total, samples, firsts = 0.0, 0, []
        with torch.no_grad():
            for number, batch in enumerate(self.share()):
                outputs = self.evaluation(tensors, batch.inputs)
                if self.likelihood is not None:
                    self.likelihood.check(outputs, batch.targets)
                firsts.append(samples)
                value, weight, count = self._summed(outputs, batch)
                samples += count
                if not torch.isfinite(value):
                    self._refuse_values(tensors, number, float(value))
                total, self.total_weight = total + float(value), self.total_weight + weight
        total, self.total_weight, self._firsts = self._over_ranks(total, self.total_weight, firsts, samples)
        if self.total_weight <= 0.0:
            raise UserError("the samples' weights sum to zero")
        self.anchor_cost = total / self.total_weight + self._penalty(self.theta)

    def _refuse_values(self, tensors: dict[str, Tensor], number: int, value: float) -> None:
        """Names the batch as the user numbers it, where merged ones hold several."""
        for index, batch in enumerate(self.batches if self._merged is not None else ()):
            moved = batch.to(self.device, self.parameters.computed)
            if self._anchors is not None:
                moved = self._anchors.seen(moved)
            found, _, _ = self._summed(self.evaluation(tensors, moved.inputs), moved)
            if not torch.isfinite(found):
                number, value = index, float(found)
                break
        raise UserError(f"the cost at the anchor is not finite: batch {number} gives {value}")

    def _merge(self, rows: int) -> list[Batch]:
        """Small batches joined, as far as what a forward pass saves for backward stays small."""
        plain = list(self._source())
        if len(plain) == 1 or rows == 1:
            return plain
        tensors = {k: v.detach().requires_grad_() for k, v in self.parameters.unflatten(self.theta).items()}
        batch = plain[0].to(self.device, self.parameters.computed)
        used = self.evaluation.saved_bytes(tensors, batch.inputs)
        return merged(plain, min(rows, int(MERGED_BYTES / max(used / max(batch.rows, 1), 1.0))))

    def _raw_batches(self) -> Iterator[Batch]:
        if self._merged is not None:
            return iter(self._merged)
        return (batch.to(self.device, self.parameters.computed) for batch in self._source())

    def share(self) -> Iterator[Batch]:
        """The batches as the cost sees them: on the device, merged, anchor log-probabilities as targets."""
        for number, batch in enumerate(self._raw_batches()):
            first = self._firsts[number] if number < len(self._firsts) else 0
            seen = batch if self._anchors is None else self._anchors.seen(batch, number)
            yield replace(seen, number=number, first=first)

    def sample_costs(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Cost of each sample of a batch, (samples,), and the samples' weights or None."""
        costs = self.cost_function(outputs, batch.targets)
        if costs.dim() != 1:
            raise UserError(
                f"cost {cost_name(self.cost_function)} must return one value a sample, shape (samples,), got "
                f"shape {tuple(costs.shape)}; use reduction='none'"
            )
        weights = self.likelihood.weights(batch.targets) if self.likelihood is not None else None
        if batch.weights is not None:
            given = batch.weights.reshape(-1)
            if given.shape != costs.shape:
                raise UserError(f"weights must have shape {tuple(costs.shape)}, got {tuple(given.shape)}")
            weights = given if weights is None else weights * given
        return costs, weights

    def batch_cost(self, outputs: Any, batch: Batch) -> Tensor:
        """What a batch adds to the average over all samples, a scalar to differentiate."""
        costs, weights = self.sample_costs(outputs, batch)
        summed = costs.sum() if weights is None else (costs * weights.to(costs)).sum()
        return summed / self.total_weight

    def _summed(self, outputs: Any, batch: Batch) -> tuple[Tensor, float, int]:
        """Weighted sum of a batch's costs in float64, sum of the weights, and how many samples."""
        costs, weights = self.sample_costs(outputs, batch)
        if weights is None:
            return costs.double().sum(), float(len(costs)), len(costs)
        if not bool((weights >= 0).all()):
            raise UserError("the samples' weights must be non-negative and finite")
        return (costs.double() * weights.double()).sum(), float(weights.double().sum()), len(costs)

    def _penalty(self, theta: Tensor) -> float:
        return 0.5 * self.l2 * float(theta.double().square().sum()) if self.l2 else 0.0

    def cost(self, theta: Tensor | None = None) -> float:
        """The cost at theta (n,), default the anchor; float64 sum, unit of the per-sample cost."""
        if theta is None:
            return self.anchor_cost
        return float(self.costs(theta.unsqueeze(0))[0])

    def costs(self, thetas: Tensor) -> Tensor:
        """The costs at rows of thetas (k, n), as float64 (k,)."""
        totals = self.joint(self.many_costs(thetas)) / self.total_weight
        if self.l2:
            totals += 0.5 * self.l2 * thetas.double().square().sum(-1).to(self.device)
        return totals

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Gradient at theta (n,), default the anchor; the first refuses parameters hidden from autograd."""
        theta = self.theta if theta is None else theta.to(self.theta)
        total, unused = self.own_l2 * theta, set(self.parameters.names)
        for batch in self.share():
            parts = self.leaves(theta)

            def slope(batch: Batch = batch, parts: dict[str, Tensor] = parts) -> tuple[Tensor | None, ...]:
                value = self.batch_cost(self.evaluation.outputs(batch.inputs), batch)
                if not self._reached:
                    refuse_checkpoints(value)
                if not value.requires_grad:
                    return (None,) * len(parts)
                return torch.autograd.grad(value, list(parts.values()), allow_unused=True)

            slopes = self.evaluation.inside(parts, slope)
            unused -= {name for name, one in zip(parts, slopes, strict=True) if one is not None}
            total = total + self.flat(slopes, list(parts.values()))
        if not self._reached:
            tensors = self.parameters.unflatten(self.theta)
            refuse_hidden(self.evaluation, next(self._raw_batches()).inputs, tensors, unused)
            self._reached = True
        return self.joint(total)

    def gradients(self, thetas: Tensor) -> Tensor:
        """Gradients at rows of thetas (k, n), as (k, n)."""
        return torch.stack([self.gradient(theta) for theta in thetas])

    def outputs(self, theta: Tensor | None = None) -> list[Tensor]:
        """The model's outputs at theta (n,), one tensor a batch, without graph."""
        tensors = self.parameters.unflatten(self.theta if theta is None else theta.to(self.theta))
        with torch.no_grad():
            return [self.evaluation(tensors, batch.inputs) for batch in self._raw_batches()]

    def leaves(self, theta: Tensor) -> dict[str, Tensor]:
        """Theta as new leaf tensors that require gradients, by parameter name."""
        return {name: part.detach().requires_grad_() for name, part in self.parameters.unflatten(theta).items()}

    def flat(
        self,
        parts: tuple[Tensor | None, ...] | list[Tensor | None],
        like: list[Tensor],
        out: Tensor | None = None,
    ) -> Tensor:
        """Gradients of leaves as one vector (n,), into ``out`` if given; what a cost does not depend on is zero."""
        rows = (torch.zeros_like(one) if part is None else part for part, one in zip(parts, like, strict=True))
        return torch.cat([row.reshape(-1).to(self.dtype) for row in rows], out=out)

    def restricted(self, patterns: Patterns) -> Landscape:
        """The same landscape with only those of its parameters that match as variables.

        Args:
            patterns: see ``select_parameters``.

        Returns:
            A landscape around the same anchor.

        Raises:
            UserError: if none of the landscape's parameters matches, naming some of them.
        """
        names = tuple(name for name in self.parameters.names if matches(name, patterns))
        if not names:
            offer = ", ".join(self.parameters.names[:6])
            raise UserError(f"no parameter of the landscape matches {patterns!r}; it has {offer}")
        tensors = self.parameters.unflatten(self.theta)
        theta = torch.cat([tensors[name].reshape(-1).to(self.dtype) for name in names])
        return self._again(parameters=names, theta=theta, background=tensors)

    def with_cost(self, cost: PerSampleCost) -> Landscape:
        """The same model, data and anchor under another cost."""
        return self._again(cost=cost)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Landscape:
        """A copy in another dtype or on another device; the model is copied."""
        return self._again(
            model=copy.deepcopy(self.model).to(device=device, dtype=dtype),
            theta=self.theta.to(device=device, dtype=dtype),
            background={k: v.to(device=device, dtype=dtype) for k, v in self.evaluation.background.items()},
        )

    def sample(self, rows: int) -> Landscape:
        """A float64 copy on the first rows of the first batch (all of it where they carry no weight)."""
        first = next(iter(self.batches))
        options: dict[str, Any] = {
            "model": copy.deepcopy(self.evaluation.model).to(torch.float64),
            "theta": self.theta.double(),
            "background": {name: tensor.double() for name, tensor in self.evaluation.background.items()},
        }
        try:
            return Landscape(**(self._options() | {"batches": [first.head(rows)]} | options))
        except UserError:
            return Landscape(**(self._options() | {"batches": [first]} | options))

    def _again(self, **changes: Any) -> Landscape:
        return Landscape(**(self._options() | changes))

    def _options(self) -> dict[str, Any]:
        """What it was made from."""
        return {
            "model": self.model,
            "cost": self.cost_function,
            "batches": self.batches,
            "theta": self.theta,
            "parameters": self.parameters.names,
            "background": self.evaluation.background,
            "l2": self.l2,
            "mode": self.mode,
            "anchor_bytes": self._anchor_bytes,
            "anchor_storage": self._anchor_storage,
            "notes": self._notes,
        }
