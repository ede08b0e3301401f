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

from spectra.costs import (
    Anchors,
    CrossEntropy,
    KLFromAnchor,
    Likelihood,
    PerSampleCost,
    cost_name,
    divergence_like,
    recognised,
    refuse_ignored,
    shifted,
    with_decoder_inputs,
)
from spectra.errors import UserError, UserTypeError, foreign
from spectra.landscape.derivatives import confirm_gradient
from spectra.landscape.joining import joined_where_shown, rows_apart
from spectra.landscape.many_costs import ManyCosts
from spectra.landscape.settling import refuse_anchor, refuse_values, settle_cost, settle_padding, weighted_sums
from spectra.model import (
    Batch,
    Batches,
    Evaluation,
    ParameterLayout,
    Patterns,
    chosen,
    kept_tensors,
    preserved_random_state,
    select_parameters,
)
from spectra.nested import cast, mapped, tensors_in
from spectra.ranks import OneProcess, whole_model

_NAMED = 4
PADDINGS = ("refuse", "constant", "variable")


class Landscape(OneProcess):
    r"""The cost of a model on data as a function of its parameters.

    ``C(theta) = sum_i w_i c_i / sum_i w_i + l2/2 |theta|^2``.

    Costs are summed in float64 and averaged over samples, so that batches of unequal size count as they should. Batches
    are evaluated as they came, or joined where that was shown to change nothing. The user's model is left as found. It
    is evaluated in eval mode (batch norm with its running statistics, no dropout) unless ``mode`` says ``train``.

    Attributes:
        model: the user's model; a twin with whole parameters of one that is sharded (FSDP2, DTensor).
        cost_function: the per-sample cost; of a loss of torch the likelihood that it stands for.
        parameters: layout of the differentiated parameters, in the order of theta.
        theta: (n,) the anchor.
        batches: the data as read.
        total_weight: sum of the samples' weights.
        samples: number of samples of a weight above zero.
        l2: coefficient of the penalty ``l2 / 2 |theta|^2``.
        anchor_cost: cost at the anchor.
        coarseness: relative error of the gradient where it is coarser than the dtype says (half precision), else 0.
    """

    coarseness = 0.0

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
        padding: str = "refuse",
        joinable: bool | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Reads the data, and refuses what cannot be trusted.

        Args:
            model: any module; its trainable parameters that match ``parameters`` are the variables.
            cost: ``(outputs, targets) -> (samples,)``, see ``spectra.costs``; or a loss of ``torch.nn``, which is
                averaged as its ``reduction="mean"`` does.
            batches: tensors (inputs, targets[, weights]), or a re-iterable of such batches. Samples of class -100 (the
                cost's ``ignore_index``) count nothing, under cross-entropy and ``kl_from_anchor`` alike.
            theta: (n,) the anchor; default the model's present parameters.
            parameters: patterns of the names to select.
            l2: coefficient of the penalty, non-negative.
            mode: ``eval`` or ``train``.
            background: values of parameters that are not variables, by name; default the model's own.
            anchor_bytes: anchor log-probabilities of ``kl_from_anchor`` are kept in memory up to this size.
            anchor_storage: ``memory``, ``disk`` or ``recompute``; ``auto`` takes the first that has room.
            padding: what is done with the padding row of an embedding where the cost depends on it: ``refuse`` it, hold
                it ``constant`` as training does, or differentiate it as a ``variable``.
            joinable: whether batches may be joined for speed; default finds out whether that changes anything.
            notes: sentences on the data and the model, for whoever reads the results.

        Raises:
            UserError: for an empty selection, data or model that are not deterministic, a cost that is not finite
                at the anchor (naming the batch and the value), a cost of the wrong shape, or targets that are none
                for the cost (missing, of the wrong shape, soft ones that do not sum to 1).
        """
        if mode not in ("eval", "train"):
            raise UserError(f"mode must be eval or train, got {mode!r}")
        if padding not in PADDINGS:
            raise UserError(f"padding must be one of {', '.join(PADDINGS)}; got {padding!r}")
        if not (math.isfinite(l2) and l2 >= 0.0):
            raise UserError(f"l2 must be finite and non-negative, got {l2}")
        # The caller may have switched gradients off, or be in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            model = whole_model(model)
            self.evaluation = Evaluation(model, mode, background or {})
            self.parameters: ParameterLayout = select_parameters(self.evaluation.model, parameters)
            self.model, self.l2, self.mode, self._padding = model, l2, mode, padding
            self._given_cost, self.cost_function = cost, recognised(cost)
            self._is_torchs, self._cost_writes = self.cost_function is not cost, False
            self._anchor_bytes, self._anchor_storage, self._notes = anchor_bytes, anchor_storage, notes
            found = self.parameters.flatten(dict(self.evaluation.model.named_parameters()))
            self.theta = found if theta is None else theta.detach().to(found).clone()
            refuse_anchor(self.parameters.unflatten(self.theta))
            self.device = self.theta.device
            self.batches = batches if isinstance(batches, Batches) else Batches(batches)
            self.many_costs = ManyCosts(self)
            self._merged: list[Batch] | None = None
            self._firsts: list[int] = []
            self._reached = self._shifts = False
            self._rows_apart: str | None = None
            self._joinable = joinable
            self._found: tuple[str, ...] = ()
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
    def softmax(self) -> CrossEntropy | KLFromAnchor | None:
        """The cost, or that of a part of the outputs, as one of a softmax; None for others."""
        inner = None if self.likelihood is None else self.likelihood.inner
        return inner if isinstance(inner, CrossEntropy | KLFromAnchor) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the data and the cost, what was stepped back from, and where the anchor is kept."""
        cost = getattr(self.cost_function, "notes", ())
        anchors = self._anchors.notes if self._anchors is not None else ()
        return (*self._notes, *cost, *self.evaluation.notes, *self._found, *anchors)

    def _note(self, sentence: str) -> None:
        if sentence not in self._found:
            self._found = (*self._found, sentence)

    def _prepare(self) -> None:
        tensors = self.parameters.unflatten(self.theta)
        first = with_decoder_inputs(self.evaluation.model, next(iter(self.batches)))
        first = self._placed(first)
        witness = self.evaluation.examine(tensors, first.inputs)
        with torch.no_grad():
            settle_cost(self, tensors, first)
        if self.batches.kept:
            self._merged = [self._placed(batch) for batch in self._merge()]
        if isinstance(self.softmax, KLFromAnchor) and self.likelihood is not None:
            self._anchors = Anchors(self.likelihood, partial(self.evaluation, tensors), self._anchor_storage)
            self._anchors.keep(self.taken(), self._anchor_bytes)
        self._sum_at_anchor(tensors)
        settle_padding(self, witness, tensors)

    def _sum_at_anchor(self, tensors: dict[str, Tensor]) -> None:
        """The cost at the anchor, the samples' weights and places, and what is to be checked on each batch."""
        sums, places, count = [0.0, 0.0, 0.0], [], 0
        with torch.no_grad():
            for number, batch in enumerate(self.share()):
                places.append(count)
                costs, weights = self._checked_at(tensors, batch)
                refuse_ignored(self.cost_function, costs, weights, batch.targets)
                value, weight, used = weighted_sums(costs, weights)
                count += len(costs)
                if not torch.isfinite(value):
                    self._refuse_values(tensors, number, float(value))
                sums = [sums[0] + float(value), sums[1] + weight, sums[2] + used]
        (total, self.total_weight, self.samples), self._firsts = self._over_ranks(sums, places, count)
        if self.total_weight <= 0.0:
            raise UserError("the samples' weights sum to zero")
        self.anchor_cost = total / self.total_weight + self._penalty(self.theta)

    def _checked_at(self, tensors: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor | None]:
        """``samples_at`` once the likelihood has looked at outputs and targets."""

        def checked() -> tuple[Tensor, Tensor | None]:
            outputs = self.evaluation.outputs(batch.inputs)
            if self.likelihood is not None:
                self.likelihood.check(outputs, batch.targets)
            return self.sample_costs(outputs, batch)

        return self.evaluation.inside(tensors, checked)

    def _refuse_values(self, tensors: dict[str, Tensor], number: int, value: float) -> None:
        refuse_values(self, tensors, number, value)

    def _merge(self) -> list[Batch]:
        return joined_where_shown(self, [self._taken(batch) for batch in self._source()])

    def _taken(self, batch: Batch) -> Batch:
        """A batch as the model takes it: labels shifted, inputs of a decoder made, as in the model's own loss."""
        if batch.labelled:
            batch = with_decoder_inputs(self.evaluation.model, batch)
        return shifted(batch) if self._shifts and batch.labelled else batch

    def _placed(self, batch: Batch) -> Batch:
        """A batch on the device, in the parameters' dtype; of a model of several dtypes as the user made it."""
        return batch.to(self.device, None if self.evaluation.mixed else self.parameters.computed)

    def taken(self) -> Iterator[Batch]:
        """The batches as the model takes them: on the device, joined, with the data's own targets."""
        if self._merged is not None:
            return iter(self._merged)
        return (self._placed(self._taken(batch)) for batch in self._source())

    def share(self) -> Iterator[Batch]:
        """The batches as the cost sees them: on the device, joined, anchor log-probabilities as targets."""
        for number, batch in enumerate(self.taken()):
            first = self._firsts[number] if number < len(self._firsts) else 0
            seen = batch if self._anchors is None else self._anchors.seen(batch, number)
            yield replace(seen, number=number, first=first)

    def rows_apart(self) -> str:
        """Why rows of the data are no samples of their own, in a few words; empty if they are.

        Any selection of rows has to cost what these rows cost in their batch: shown on the first batch and the last.
        """
        if self._rows_apart is None:
            every = list(self.batches) if self.batches.kept else [next(iter(self.batches))]
            ends = every[:1] + every[1:][-1:]
            self._rows_apart = next(filter(None, (rows_apart(self, self._taken(batch)) for batch in ends)), "")
        return self._rows_apart

    def sample_costs(
        self, outputs: Any, batch: Batch, cost: PerSampleCost | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Cost of each sample of a batch, (samples,), and the samples' weights or None."""
        cost = cost or self.cost_function
        targets = mapped(batch.targets, Tensor.clone) if self._cost_writes else batch.targets
        with foreign(f"the cost {cost_name(cost)}"):
            costs = cost(outputs, targets)
        if not isinstance(costs, Tensor):
            raise UserTypeError(f"cost {cost_name(cost)} must return a tensor, got {type(costs).__name__}")
        if costs.dim() == 2 and costs.shape[1] == 1:
            costs = costs.squeeze(1)
        if costs.dim() != 1:
            raise UserError(
                f"cost {cost_name(cost)} must return one value a sample, shape (samples,), got shape "
                f"{tuple(costs.shape)}: average the elements of each sample, leave the mean over samples out "
                "(reduction='none'), or give a loss of torch.nn itself; a cost of a whole batch has shape (1,)"
            )
        weights = cost.weights(batch.targets) if isinstance(cost, Likelihood) else None
        if batch.weights is not None:
            given = batch.weights.reshape(-1)
            if given.shape != costs.shape:
                raise UserError(f"weights must have shape {tuple(costs.shape)}, got {tuple(given.shape)}")
            weights = given if weights is None else weights * given
        return costs, weights

    def samples_at(self, tensors: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor | None]:
        """``sample_costs`` at parameters by name; the cost too sees the model with them, as do hooks and penalties."""
        return self.evaluation.inside(tensors, lambda: self.sample_costs(self.evaluation.outputs(batch.inputs), batch))

    def cost_at(self, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """``batch_cost`` at parameters by name."""
        return self.evaluation.inside(tensors, lambda: self.batch_cost(self.evaluation.outputs(batch.inputs), batch))

    def batch_cost(self, outputs: Any, batch: Batch) -> Tensor:
        """What a batch adds to the average over all samples, a scalar to differentiate."""
        costs, weights = self.sample_costs(outputs, batch)
        summed = costs.sum() if weights is None else (costs * weights.to(costs)).sum()
        return summed / self.total_weight

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
        """Gradient at theta (n,), default the anchor.

        The first is held against finite differences of the cost, and refused where autograd gives something else.
        """
        theta = self.theta if theta is None else theta.to(self.theta)
        self.confirm()
        total, unreached = self.own_l2 * theta, set(self.parameters.names)
        for batch in self.share():
            total = total + self.batch_gradient(theta, batch, unreached)
        total = self.joint(total)
        if unreached and not self.l2:
            self._name_useless(total, unreached)
        return total

    def _name_useless(self, slope: Tensor, unreached: set[str]) -> None:
        """Says which parameters no path leads from to the cost, on this rank or another."""
        parts = zip(self.parameters.names, torch.split(slope, self.parameters.sizes), strict=True)
        names = [name for name, part in parts if name in unreached and not bool(part.any())]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            self._note(f"the cost does not depend on {', '.join(names[:_NAMED])}{more}")

    def confirm(self) -> None:
        """Holds the gradient against finite differences of the cost, the first time that it is asked to.

        Raises:
            DerivativeError: if autograd gives something else.
        """
        if not self._reached:
            confirm_gradient(self)
            self._reached = True

    def batch_gradient(self, theta: Tensor, batch: Batch, unreached: set[str] | None = None) -> Tensor:
        """What a batch adds to the gradient at theta (n,), the penalty left out.

        Args:
            theta: (n,) where.
            batch: as the cost sees it.
            unreached: names of parameters, from which those are taken that the batch's cost depends on.

        Returns:
            (n,) the gradient.
        """
        parts = self.leaves(theta)

        def slope() -> tuple[Tensor | None, ...]:
            value = self.batch_cost(self.evaluation.outputs(batch.inputs), batch)
            if not value.requires_grad:
                return (None,) * len(parts)
            return torch.autograd.grad(value, list(parts.values()), allow_unused=True)

        with torch.enable_grad():
            slopes = self.evaluation.inside(parts, slope)
        if unreached is not None:
            unreached -= {name for name, one in zip(parts, slopes, strict=True) if one is not None}
        return self.parameters.joined(slopes, list(parts.values())).detach()

    def gradients(self, thetas: Tensor) -> Tensor:
        """Gradients at rows of thetas (k, n), as (k, n)."""
        return torch.stack([self.gradient(theta) for theta in thetas])

    def outputs(self, theta: Tensor | None = None) -> list[Any]:
        """The model's outputs at theta (n,), one nest of tensors a batch, without graph."""
        tensors = self.parameters.unflatten(self.theta if theta is None else theta.to(self.theta))
        with torch.no_grad():
            return [self.evaluation(tensors, batch.inputs) for batch in self.taken()]

    def leaves(self, theta: Tensor) -> dict[str, Tensor]:
        """Theta as new leaf tensors that require gradients, by parameter name."""
        return {name: part.detach().requires_grad_() for name, part in self.parameters.unflatten(theta).items()}

    def restricted(self, patterns: Patterns) -> Landscape:
        """The same landscape with only those of its parameters that match as variables.

        Args:
            patterns: see ``select_parameters``.

        Returns:
            A landscape around the same anchor.

        Raises:
            UserError: if none of the landscape's parameters matches, naming some of them.
        """
        names = tuple(chosen(self.parameters.names, patterns))
        if not names:
            offer = ", ".join(self.parameters.names[:6])
            raise UserError(f"no parameter of the landscape matches {patterns!r}; it has {offer}")
        tensors = self.parameters.unflatten(self.theta)
        theta = torch.cat([tensors[name].reshape(-1).to(self.dtype) for name in names])
        return self._again(parameters=names, theta=theta, background=self.evaluation.background | tensors)

    def with_cost(self, cost: PerSampleCost) -> Landscape:
        """The same model, data and anchor under another cost; the divergence is of the softmax of this one's."""
        if isinstance(cost, KLFromAnchor) and self.softmax is not None and self.likelihood is not None:
            cost = divergence_like(self.likelihood, cost)
        return self._again(cost=cost, joinable=None)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Landscape:
        """A copy in another dtype or on another device; the model is copied."""
        # What hooks have made of parameters cannot be copied as it is, and is made anew at the next call.
        made = {id(one): one.detach().clone() for kept in kept_tensors(self.model).values() for one in tensors_in(kept)}
        return self._again(
            model=copy.deepcopy(self.model, made).to(device=device, dtype=dtype),
            theta=self.theta.to(device=device, dtype=dtype),
            background={k: cast(v, dtype, device) for k, v in self.evaluation.background.items()},
        )

    def derived(self, batches: list[Batch], dtype: torch.dtype | None = None, *, l2: float = 0.0) -> Landscape:
        """The same cost on other batches, taken as they are and unchecked, in one process.

        The model is not copied: its parameters and buffers are replaced by their values in another dtype. The average
        is over the samples of these batches.

        Args:
            batches: as the model takes them.
            dtype: of the parameters and the data; default as they are.
            l2: coefficient of the penalty.

        Returns:
            A landscape around the same anchor.
        """
        found = object.__new__(Landscape)
        vars(found).update(vars(self), ranks=None, l2=l2, _reached=True, _anchors=None, _firsts=[], total_weight=1.0)
        if dtype is not None:
            found.parameters, found.evaluation = self.parameters.in_dtype(dtype), self.evaluation.in_dtype(dtype)
            found.theta = self.theta.to(found.parameters.dtype)
        found.many_costs = ManyCosts(found)
        found._merged = [found._placed(batch) for batch in batches]
        tensors = found.parameters.unflatten(found.theta)
        with torch.no_grad():
            if isinstance(self.softmax, KLFromAnchor) and self.likelihood is not None:
                found._anchors = Anchors(self.likelihood, partial(found.evaluation, tensors), "memory")
                found._anchors.keep(found.taken(), self._anchor_bytes)
            sums = [weighted_sums(*found.samples_at(tensors, batch)) for batch in found.share()]
        total, found.total_weight, found.samples = (sum(float(one[place]) for one in sums) for place in range(3))
        found.anchor_cost = total / (found.total_weight or 1.0) + found._penalty(found.theta)
        return found

    def _again(self, **changes: Any) -> Landscape:
        return self._inherited(Landscape(**(self._options() | changes)), changes)

    def _inherited(self, found: Landscape, changes: Mapping[str, Any]) -> Landscape:
        """A landscape made from this one: what was shown of it need not be shown again."""
        fewer = set(changes) == {"parameters", "theta", "background"}
        if fewer or not changes.keys() & {"model", "cost", "batches", "theta"}:
            found._reached, found._rows_apart = self._reached, self._rows_apart
            found.coarseness = self.coarseness
        return found

    def _options(self) -> dict[str, Any]:
        """What it was made from."""
        return {
            "model": self.model,
            "cost": self._given_cost,
            "batches": self.batches,
            "theta": self.theta,
            "parameters": self.parameters.names,
            "background": self.evaluation.background,
            "l2": self.l2,
            "mode": self.mode,
            "anchor_bytes": self._anchor_bytes,
            "anchor_storage": self._anchor_storage,
            "padding": self._padding,
            "joinable": self._joinable,
            "notes": self._notes,
        }
