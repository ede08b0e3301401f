"""Worst case in a box around the weights by ascent that chooses its own step, of the cost or of normalised logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comparisons.evidence import split
from comparisons.searches.worst import averaged, scales
from comparisons.sharpness_result import CountedCost, Sharpness, counted, positive
from spectra.costs import CrossEntropy, Likelihood
from spectra.errors import UserError
from spectra.landscape import Landscape
from spectra.model import generator

# Constants of Auto-PGD: weight of the new point against the momentum, share of steps that have to rise.
_NEW, _RISING = 0.75, 0.75
# The logits of a sample that are all alike have no norm to be divided by.
_LEAST_NORM = 1e-10


@dataclass(frozen=True, eq=False)
class NormalisedLogits(Likelihood):
    """Cross-entropy of logits less their mean, over their norm: what a scale of the logits does not change.

    The published code divides by the norm of the centred logits, and so does this.

    Attributes:
        plain: the cross-entropy with classes, or that of a part of the outputs.

    Reference:
        Andriushchenko et al., A modern look at the relationship between sharpness and generalization, 2023.

    >>> from spectra.costs import cross_entropy
    >>> cost, target = NormalisedLogits(cross_entropy), torch.tensor([0])
    >>> one, other = (cost(scale * torch.tensor([[2.0, 1.0, 0.0]]), target) for scale in (1.0, 100.0))
    >>> bool(torch.isclose(one, other))
    True
    """

    plain: Likelihood
    name: str = "cross-entropy of normalised logits"
    unit: str = "nat"

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Cost of each sample, (samples,)."""
        rows = self.plain.rows(outputs, targets)
        centred = rows - rows.mean(-1, keepdim=True)
        inner = self.plain.inner
        assert isinstance(inner, CrossEntropy)
        classes = self.plain.own_targets(targets).reshape(-1)
        return inner(centred / centred.norm(dim=-1, keepdim=True).clamp_min(_LEAST_NORM), classes)

    def check(self, outputs: Any, targets: Any) -> None:
        """What the plain cost takes."""
        self.plain.check(outputs, targets)

    def own_targets(self, targets: Any) -> Any:
        """Those of the plain cost."""
        return self.plain.own_targets(targets)

    def weights(self, targets: Any) -> Tensor | None:
        """Those of the plain cost."""
        return self.plain.weights(targets)

    def _no_curvature(self, *_: Any, **__: Any) -> Any:
        raise UserError(f"the {self.name} is used without curvatures in the outputs")

    hessian_product = hessian_factor = hessian_diagonal = sample_scores = _no_curvature


def normalised_worst_case(
    landscape: Landscape,
    *,
    size: int = 128,
    radius: float = 0.002,
    steps: int = 20,
    starts: int = 2,
    seed: int = 0,
) -> Sharpness:
    """``box_worst_case`` of normalised logits on each batch of m samples alone, averaged over batches.

    Args:
        landscape: cross-entropy with classes as targets, on data kept in memory.
        size: m; the last batch may be smaller, and counts by its weight.
        radius: rho, half width of the box as a share of each weight.
        steps: gradients from each start.
        starts: as for ``box_worst_case``.
        seed: seed of the random starting points.

    Returns:
        The sharpness, nats; ``samples`` has that of each batch.

    Raises:
        UserError: if a setting is out of range, the cost is another, or the data is not kept in memory.

    Reference:
        Andriushchenko et al., A modern look at the relationship between sharpness and generalization, 2023.
    """
    counted(size=size)
    plain = landscape.likelihood
    if plain is None or not isinstance(landscape.softmax, CrossEntropy):
        raise UserError("normalised logits need the cost cross-entropy with classes as targets")
    parts = split(landscape.with_cost(NormalisedLogits(plain)), size)
    found = [box_worst_case(part, radius=radius, steps=steps, starts=starts, seed=seed) for part in parts]
    return averaged(landscape, parts, found)


def box_worst_case(
    landscape: Landscape, *, radius: float = 0.002, steps: int = 20, starts: int = 2, seed: int = 0
) -> Sharpness:
    r"""``max f(x + |x| z) - f(x)`` over ``|z_i| <= rho`` by Auto-PGD: ascent along signs, its step halved as needed.

    It begins with steps of 2 rho. At checkpoints, which come closer to each other, the step is halved and the ascent
    goes on from the highest point where fewer than three quarters of the steps since the last one rose, or where
    neither the step nor the highest value has changed since. The first start is the checkpoint, further ones are drawn
    in the box. The highest point seen counts. A weight of zero stays as it is.

    Args:
        landscape: the cost.
        radius: rho, half width of the box as a share of each weight.
        steps: gradients from each start.
        starts: how many.
        seed: seed of the random starting points.

    Returns:
        The sharpness, unit of the cost; ``samples`` has what each start found.

    Raises:
        UserError: if a setting is out of range, or a cost in the box is not finite.

    Reference:
        Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, 2020, algorithm 1.

    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(1, 1, bias=False).double(), torch.ones(1, 1).double()
    >>> landscape = Landscape(model, mean_squared_error, (x, 0 * x), theta=torch.tensor([1.0]).double())
    >>> round(box_worst_case(landscape, radius=0.1).value, 9)  # 1.1^2 - 1
    0.21
    """
    positive(radius=radius)
    counted(steps=steps, starts=starts)
    cost, scale = CountedCost(landscape), scales(landscape, "adaptive")
    rises = np.array(
        [_climb(cost, scale, _begin(scale, radius, seed, start), radius, steps) for start in range(starts)]
    )
    return Sharpness(
        value=float(rises.max()),
        search_error=float(rises.max() - np.sort(rises)[-2]) if starts > 1 else 0.0,
        samples=rises,
        cost_evaluations=cost.costs,
        gradient_evaluations=cost.gradients,
    )


def _begin(scale: Tensor, radius: float, seed: int, start: int) -> Tensor:
    if start == 0:
        return torch.zeros_like(scale)
    random = generator(seed, "box-worst-case", start, device=scale.device)
    drawn = torch.rand(scale.shape, generator=random, dtype=torch.float64, device=scale.device)
    return (radius * (2.0 * drawn - 1.0)).to(scale)


def _climb(cost: CountedCost, scale: Tensor, z: Tensor, radius: float, steps: int) -> float:
    """Highest rise on the way of Auto-PGD from z, at least 0."""
    anchor, ends = cost.landscape.theta, checkpoints(steps)

    def rise(at: Tensor) -> float:
        found = float(cost.rises((anchor + scale * at)[None])[0])
        if not math.isfinite(found):
            raise UserError(f"the cost within the box of {radius:g} is not finite; use a smaller radius")
        return found

    last, value = z, rise(z)
    best, highest, step = z, value, 2.0 * radius
    rose, since, then = 0, 0, (step, highest)
    for number in range(1, steps + 1):
        slope = cost.gradient(anchor + scale * z)
        ahead = (z + step * (scale * slope).sign()).clamp(-radius, radius)
        moved = ahead if number == 1 else (z + _NEW * (ahead - z) + (1.0 - _NEW) * (z - last)).clamp(-radius, radius)
        last, z, before, value = z, moved, value, rise(moved)
        rose += value > before
        if value > highest:
            best, highest = z, value
        if number in ends:
            now = (step, highest)
            if rose < _RISING * (number - since) or now == then:
                step, z, last, value = step / 2.0, best, best, highest
            then, rose, since = now, 0, number
    return max(highest, 0.0)


def checkpoints(steps: int) -> frozenset[int]:
    """Numbers of the steps after which Auto-PGD looks back.

    >>> sorted(checkpoints(20))
    [5, 9, 12, 14, 16, 18, 19, 20]
    """
    # In hundredths, as 0.7 times 20 would not be 14.
    found, before, at = set(), 0, 22
    while at <= 100:
        found.add(math.ceil(at * steps / 100))
        before, at = at, at + max(at - before - 3, 6)
    return frozenset(found)
