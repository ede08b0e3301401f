"""The average cost over batches as a function of theta, taken as they are: what a landscape is once it is examined."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from spectra.costs import AnchorLogProbabilities, CrossEntropy, KLFromAnchor, Likelihood, PerSampleCost, cost_name
from spectra.errors import UserError, UserTypeError, foreign
from spectra.landscape.many_costs import ManyCosts
from spectra.model import Batch, Evaluation, ParameterLayout, generator
from spectra.nested import mapped
from spectra.ranks import ALONE, Ranks


class AverageCost(ABC):
    r"""``C(theta) = sum_i w_i c_i / sum_i w_i + l2/2 |theta|^2``, summed over ranks.

    Attributes:
        evaluation: the model as a function of its parameters.
        parameters: layout of the differentiated parameters, in the order of theta.
        theta: (n,) the anchor.
        cost_function: the per-sample cost; of a loss of torch the likelihood that it stands for.
        mode: ``eval`` or ``train``.
        l2: coefficient of the penalty ``l2 / 2 |theta|^2``.
        ranks: the processes that share the data.
        total_weight: sum of the samples' weights.
        samples: number of samples of a weight above zero.
        anchor_cost: cost at the anchor.
        many_costs: sums of the samples' costs of this process's batches at rows of thetas (k, n), float64 (k,).
    """

    evaluation: Evaluation
    parameters: ParameterLayout
    theta: Tensor
    cost_function: PerSampleCost
    mode: str
    l2: float
    ranks: Ranks = ALONE
    total_weight: float
    samples: float
    anchor_cost: float
    many_costs: Callable[[Tensor], Tensor]
    _merged: list[Batch] | None = None
    _anchors: AnchorLogProbabilities | None = None
    _anchor_bytes: int
    _firsts: Sequence[int] = ()
    _cost_writes = _checked = False

    @abstractmethod
    def taken(self) -> Iterator[Batch]:
        """The batches as the model takes them: on the device, joined, with the data's own targets."""

    @abstractmethod
    def unjoined(self) -> Iterator[Batch]:
        """All of the data in the batches that it came in, as the model takes it; not yet on the device."""

    @property
    def size(self) -> int:
        """Number of parameters n."""
        return self.parameters.size

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of theta."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where theta lives."""
        return self.theta.device

    @property
    def likelihood(self) -> Likelihood | None:
        """The cost as a likelihood, or None for a plain callable."""
        return self.cost_function if isinstance(self.cost_function, Likelihood) else None

    @property
    def softmax(self) -> CrossEntropy | KLFromAnchor | None:
        """The cost, or that of a part of the outputs, as one of a softmax; None for others."""
        inner = None if self.likelihood is None else self.likelihood.inner
        return inner if isinstance(inner, CrossEntropy | KLFromAnchor) else None

    def share(self) -> Iterator[Batch]:
        """This process's batches as the cost sees them: on the device, joined, anchor log-probabilities as targets."""
        for number, batch in enumerate(self.taken()):
            first = self._firsts[number] if number < len(self._firsts) else 0
            seen = batch if self._anchors is None else self._anchors.seen(batch, number)
            yield replace(seen, number=number, first=first)

    def _placed(self, batch: Batch) -> Batch:
        """A batch on the device, in the parameters' dtype; of a model of several dtypes as the user made it."""
        return batch.to(self.device, None if self.evaluation.mixed else self.parameters.computed)

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

    @property
    def own_l2(self) -> float:
        """Coefficient of the penalty in what this process adds to a sum over ranks: the first one adds it."""
        return self.l2 if self.ranks.first else 0.0

    def _penalty(self, theta: Tensor) -> float:
        return 0.5 * self.l2 * float(theta.double().square().sum()) if self.l2 else 0.0

    def cost(self, theta: Tensor | None = None) -> float:
        """The cost at theta (n,), default the anchor; float64 sum, unit of the per-sample cost."""
        if theta is None:
            return self.anchor_cost
        return float(self.costs(theta.unsqueeze(0))[0])

    def costs(self, thetas: Tensor) -> Tensor:
        """The costs at rows of thetas (k, n), as float64 (k,)."""
        totals = self.ranks.total(self.many_costs(thetas)) / self.total_weight
        if self.l2:
            totals += 0.5 * self.l2 * thetas.double().square().sum(-1).to(self.device)
        return totals

    def batch_gradient(self, theta: Tensor, batch: Batch, unused: set[str] | None = None) -> Tensor:
        """What a batch adds to the gradient at theta (n,), the penalty left out.

        Args:
            theta: (n,) the point.
            batch: the batch as the cost sees it.
            unused: names of parameters, from which those are taken that the batch's cost depends on.

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
        if unused is not None:
            unused -= {name for name, one in zip(parts, slopes, strict=True) if one is not None}
        return self.parameters.concatenated(slopes, list(parts.values())).detach()

    def leaves(self, theta: Tensor) -> dict[str, Tensor]:
        """Theta as new leaf tensors that require gradients, by parameter name."""
        return self.parameters.leaves(theta)

    def aside(self, share: float) -> Tensor:
        """Theta (n,) a little off the anchor: each parameter moved by a share of its own root mean square."""
        moved = self.theta.clone()
        size = float(moved.double().square().mean().sqrt())
        for number, part in enumerate(torch.split(moved, self.parameters.sizes)):
            noise = torch.randn(len(part), generator=generator(0, "aside", number), dtype=torch.float64).to(part)
            part += share * max(float(part.double().square().mean().sqrt()), 0.1 * size) * noise
        return moved

    def derived(self, batches: list[Batch], dtype: torch.dtype | None = None, *, l2: float = 0.0) -> Self:
        """The same cost on other batches, taken as they are and unchecked, in one process.

        The model is not copied: its parameters and buffers are replaced by their values in another dtype. The average
        is over the samples of these batches.

        Args:
            batches: the batches as the model takes them.
            dtype: dtype of the parameters and the data; default as they are.
            l2: coefficient of the penalty.

        Returns:
            The cost around the same anchor.
        """
        found = copy.copy(self)
        found.ranks, found.l2, found.total_weight, found._checked = ALONE, l2, 1.0, True
        found._anchors, found._firsts = None, ()
        if dtype is not None:
            found.parameters, found.evaluation = self.parameters.in_dtype(dtype), self.evaluation.in_dtype(dtype)
            found.theta = self.theta.to(found.parameters.dtype)
        found._begin()
        found._merged = [found._placed(batch) for batch in batches]
        tensors = found.parameters.unflatten(found.theta)
        with torch.no_grad():
            found._keep_anchors(tensors, "memory")
            sums = [weighted_sums(*found.samples_at(tensors, batch)) for batch in found.share()]
        total, found.total_weight, found.samples = (sum(float(one[place]) for one in sums) for place in range(3))
        found.anchor_cost = total / (found.total_weight or 1.0) + found._penalty(found.theta)
        return found

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """The same cost with other values of buffers, and of parameters that are no variables, examined no more.

        Args:
            state: values by name.

        Returns:
            The cost; its ``anchor_cost`` stays that of the values from before.
        """
        found = copy.copy(self)
        found.evaluation = self.evaluation.with_background(state)
        found._begin()
        return found

    def _begin(self) -> None:
        self.many_costs = ManyCosts(self.evaluation, self.parameters, self.theta, self.samples_at, self.share)

    def _keep_anchors(self, tensors: Mapping[str, Tensor], storage: str) -> None:
        """Where the cost is a divergence, from what it is one."""
        if isinstance(self.softmax, KLFromAnchor) and self.likelihood is not None:
            self._anchors = AnchorLogProbabilities(self.likelihood, partial(self.evaluation, tensors), storage)
            self._anchors.keep(self.taken(), self._anchor_bytes)


def weighted_sums(costs: Tensor, weights: Tensor | None) -> tuple[Tensor, float, float]:
    """Weighted sum of costs in float64, sum of the weights, and how many of them are above zero."""
    if weights is None:
        return costs.double().sum(), float(len(costs)), float(len(costs))
    if not bool((weights >= 0).all()):
        raise UserError("the samples' weights must be non-negative and finite")
    return (costs.double() * weights.double()).sum(), float(weights.double().sum()), float((weights > 0).sum())
