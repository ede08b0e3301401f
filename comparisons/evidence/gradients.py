"""Gradients as evidence: of the cost, of its samples one by one, and the outputs with their margins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from comparisons.evidence.compute_cost import Tally
from comparisons.evidence.evidence import Evidence
from spectra.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.landscape import Landscape
    from spectra.model import Batch

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SampleGradients:
    """How the samples' gradients scatter around their mean.

    Attributes:
        square_norm: ``|g|^2`` of the mean gradient g over all samples, penalty left out, (cost / parameter)^2.
        deviations: (rows,) ``|g_i - g|^2`` of the rows looked at, (cost / parameter)^2.
        weights: (rows,) how many samples each row holds.
        whole: whether every row of the data was looked at.
    """

    square_norm: float
    deviations: Array
    weights: Array
    whole: bool

    @property
    def trace(self) -> float:
        """``tr S = mean |g_i - g|^2``, (cost / parameter)^2."""
        return float(self.weights @ self.deviations / self.weights.sum())

    @property
    def count(self) -> int:
        """How many rows the standard error is of; 0 where it is none."""
        return 0 if self.whole else len(self.deviations)

    @property
    def standard_error(self) -> float:
        """Standard error of ``trace`` where only some of the rows were looked at, else 0."""
        if self.whole:
            return 0.0
        share = self.weights / self.weights.sum()
        return float(np.sqrt((share**2 * (self.deviations - self.trace) ** 2).sum()))


def gradient(evidence: Evidence) -> Tensor:
    """The gradient (n,) of the landscape's cost at the anchor, its penalty included."""

    def build(tally: Tally) -> Tensor:
        tally.gradients += 1
        return evidence.landscape.gradient()

    return evidence.item("gradient", build)


def sample_gradients(evidence: Evidence, samples: int | None = None) -> SampleGradients:
    """The scatter of the samples' gradients, a row of a batch at a time; at most as many rows as the settings say.

    A row of several samples (a sequence of tokens) counts as one of that weight.

    Args:
        evidence: evidence of a checkpoint.
        samples: most rows looked at; None for what the settings say.

    Returns:
        The scatter.

    Raises:
        UserError: if the landscape is in train mode, where rows of a batch may depend on each other, or all rows
            looked at have no weight.
    """
    most = samples or evidence.settings.samples

    def build(tally: Tally) -> SampleGradients:
        landscape = evidence.landscape
        if reason := landscape.rows_apart():
            raise UserError(f"per-sample gradients need rows that are samples of their own: {reason}")
        # The penalty's part is no sample's.
        mean = (gradient(evidence) - landscape.l2 * landscape.theta).double()
        total = sum(batch.rows for batch in landscape.iterate())
        stride = max(1, math.ceil(total / most))
        parts = landscape.leaves(landscape.theta)

        # The model is entered once: doing so for each row would cost more than the row's gradient.
        def scatter() -> list[tuple[float, float]]:
            rows = (_row_gradient(landscape, parts, row) for row in _rows(landscape, stride))
            return [
                (float((slope.double() / weight - mean).square().sum()), weight)
                for slope, weight in rows
                if weight > 0.0
            ]

        found = landscape.evaluation.inside(parts, scatter)
        if not found:
            raise UserError("none of the rows looked at has a weight above zero: there are no gradients to compare")
        deviations, weights = (np.array(side) for side in zip(*found, strict=True))
        tally.gradients += 1.0 / stride
        square = float(mean.square().sum())
        return SampleGradients(square, deviations, weights, stride == 1)

    return evidence.item(f"sample-gradients {most}", build)


def signed_gradients(evidence: Evidence, count: int) -> Tensor:
    r"""Random vectors whose covariance is that of the samples' gradients: ``y = sum_i e_i sqrt(w_i / W) (g_i - g)``.

    The signs e_i are independent, so ``E y y^T = S = sum_i w_i (g_i - g) (g_i - g)^T / W`` and ``E y^T M y = tr(M S)``
    for any matrix M. A sample's signs depend on its place in the data, not on the split into batches.

    Args:
        evidence: evidence of a checkpoint; a sample's cost must depend on its own outputs alone.
        count: how many.

    Returns:
        (count, n) rows, unit of the cost over that of the parameters; the penalty, alike for all samples, is in none.
    """

    def build(tally: Tally) -> Tensor:
        import torch

        from spectra.operators import uniforms

        landscape, seed = evidence.landscape, evidence.settings.seed
        mean = gradient(evidence) - landscape.l2 * landscape.theta
        parts = landscape.leaves(landscape.theta)
        leaves, found, sums = (
            list(parts.values()),
            torch.zeros(count, landscape.size).to(mean),
            torch.zeros(count).to(mean).double(),
        )

        def add(batch: Batch) -> None:
            costs, weights = landscape.sample_costs(landscape.evaluation.outputs(batch.inputs), batch)
            places = range(batch.first, batch.first + len(costs))
            signs = (uniforms(seed, places, (count, 1))[..., 0] - 0.5).sign().to(costs)
            factors = signs if weights is None else signs * weights.to(costs).sqrt()
            sums.add_(factors.double().sum(1))
            for row, factor in enumerate(factors):
                slopes = torch.autograd.grad(costs @ factor, leaves, retain_graph=True, allow_unused=True)
                found[row] += landscape.parameters.concatenated(slopes, leaves)

        def add_all() -> None:
            for batch in landscape.iterate():
                add(batch)

        landscape.evaluation.inside(parts, add_all)
        tally.gradients += count
        rows: Tensor = (found - sums.to(found)[:, None] * mean) / landscape.total_weight**0.5
        return rows

    return evidence.item(f"signed-gradients {count}", build)


def _rows(landscape: Landscape, stride: int) -> Iterator[Batch]:
    """Every ``stride``-th row of the data, as batches of one."""
    place = 0
    for batch in landscape.iterate():
        for row in range(batch.rows):
            if place % stride == 0:
                yield batch.cut(slice(row, row + 1))
            place += 1


def _row_gradient(landscape: Landscape, parts: dict[str, Tensor], row: Batch) -> tuple[Tensor, float]:
    """Gradient of the weighted sum of a row's costs, and the sum of its weights; inside the evaluation."""
    import torch

    costs, weights = landscape.sample_costs(landscape.evaluation.outputs(row.inputs), row)
    summed = costs.sum() if weights is None else (costs * weights.to(costs)).sum()
    weight = float(len(costs)) if weights is None else float(weights.sum())
    leaves = list(parts.values())
    return landscape.parameters.concatenated(torch.autograd.grad(summed, leaves, allow_unused=True), leaves), weight


def margins(evidence: Evidence) -> Array:
    """``f_y - max_(j != y) f_j`` of each sample: positive where the network is right.

    Args:
        evidence: evidence of a checkpoint.

    Returns:
        (samples,), unit of the outputs; samples to ignore are left out.

    Raises:
        UserError: if the cost is no cross-entropy with classes, or there is one class alone.
    """
    import torch

    from spectra.costs import CrossEntropy

    def build(tally: Tally) -> Array:
        landscape = evidence.landscape
        cost, likelihood = landscape.softmax, landscape.likelihood
        if likelihood is None or not isinstance(cost, CrossEntropy):
            raise UserError("margins need the cost cross_entropy")
        tensors = landscape.parameters.unflatten(landscape.theta)
        found = []
        with torch.no_grad():
            for batch in landscape.iterate():
                targets = likelihood.own_targets(batch.targets)
                if targets.is_floating_point():
                    raise UserError("margins need classes as targets, got probabilities")
                outputs = landscape.evaluation(tensors, batch.inputs)
                rows, classes = likelihood.rows(outputs, batch.targets).double(), targets.reshape(-1).long()
                if rows.shape[-1] < 2:
                    raise UserError("margins need two classes at least, got one")
                kept = classes != cost.ignore_index
                found.append(_margins(rows[kept], classes[kept]))
        tally.evaluations += 1
        return torch.cat(found).cpu().numpy()

    return evidence.item("margins", build)


def _margins(rows: Tensor, classes: Tensor) -> Tensor:
    right = rows.gather(1, classes[:, None]).squeeze(1)
    others = rows.scatter(1, classes[:, None], -math.inf).amax(1)
    return right - others
