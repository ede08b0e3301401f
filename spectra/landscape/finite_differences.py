"""Holds derivatives against finite differences: the last guard against a derivative that is silently wrong.

Autograd is not always the derivative: hooks, detached parts, kept intermediates, a custom ``autograd.Function`` whose
backward pass cannot itself be differentiated; and nothing in torch complains. The first gradient is held against
differences of the cost, the first product of a curvature against differences of what it differentiates: in float64 on
a part of the data, without copying the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape.average_cost import AverageCost
from spectra.landscape.hidden_parameters import DerivativeError, graph_nodes, refuse_hidden
from spectra.model import Batch, Witness, generator
from spectra.timing import CHECKS, phase
from spectra.words import dtype_title

Cost = TypeVar("Cost", bound=AverageCost)
# The derivative along a direction (theta's, (n,)) on a part of the data, and the function of theta it is that of.
Differentiated = Callable[[Cost, Tensor, Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]

# An eighth of the batch at most, so that the check costs a few gradients, but more than one row.
ROWS, SHARE = 16, 8
# Lengths of the central difference over that of theta. In float64 the first is right to 1e-6 for a smooth function;
# the second is for models that compute in float32 inside, the last for those with kinks, which it seldom crosses.
STEPS, NARROW_STEPS = (1e-5, 1e-3, 1e-7), (1e-2, 3e-3)
# The differences' own error stays far below the first; a wrong rule of one layer shows far above it. The second says
# when two of the differences agree so well that the fault is autograd's.
AGREES, REPRODUCED = 1e-3, 1e-2
# Differences in float32 are right to this at best.
NARROW_AGREES = 2e-2
# Vectors that a check in float64 works with, and the bytes that they may take; beyond, it is made in the own dtype.
_VECTORS, _MEMORY = 8, 2**28
# Displacement over the root mean square of each parameter: at its anchor a divergence has no gradient to be checked.
_ASIDE = 0.01
_DIRECTIONS = 3
# Errors of the gradient beyond this are no rounding of float32.
COARSE = 1e-3
# A part of a vector smaller than this share of the whole need not be right to its own size.
_SMALL = 1e-4


@phase(CHECKS)
def check_curvature(cost: Cost, name: str, theta: Tensor, differentiated: Differentiated[Cost]) -> tuple[str, ...]:
    """Compares what a curvature differentiates with central differences on a few rows.

    Args:
        cost: the average cost whose curvature is about to be used.
        name: name of the curvature.
        theta: (n,) the point.
        differentiated: the curvature's derivative along a direction, and the function that it differentiates.

    Returns:
        Sentences on what could not be confirmed; none where the two agree.

    Raises:
        UserError: if the differences agree with one another and the derivative does not agree with them.
    """

    def compare(part: Cost) -> tuple[str, ...]:
        at = theta.to(part.theta)
        direction = torch.randn(part.size, generator=generator(0, "confirm"), dtype=torch.float64).to(at)
        direction /= direction.norm()
        known, function = differentiated(part, at, direction)
        verdict = _Verdict(part, known, function, at, direction)
        return verdict.notes_or_refusal(f"the {name}", "products", "second derivative", lambda: "", part)

    return _on_a_part(cost, f"the {name}", compare)


def check_gradient(cost: AverageCost) -> tuple[float, tuple[str, ...]]:
    """Compares the gradient with central differences of the cost on a few rows, a little off the anchor.

    Args:
        cost: the average cost whose first gradient is about to be used.

    Returns:
        Relative error of the gradient where it is coarser than the dtype says, else 0; and sentences on what could not
        be confirmed.

    Raises:
        UserError: if the gradient leaves parameters out on which the outputs depend, or the differences agree with one
            another and the gradient does not agree with them.
    """
    coarseness = 0.0

    def compare(part: AverageCost) -> tuple[str, ...]:
        nonlocal coarseness
        theta = part.aside(_ASIDE)
        slope = _slope(part, theta)
        refuse_hidden(part, theta)
        found, notes = _precision(cost, part, theta, slope)
        coarseness = found or coarseness
        for direction in _directions(part, theta, slope):
            known = (slope.double() @ direction.double()).reshape(1).cpu()
            function = lambda at: torch.tensor([part.cost(at)], dtype=torch.float64)  # noqa: E731
            verdict = _Verdict(part, known, function, theta, direction)
            where = partial(_culprit, part, theta, slope)
            notes += verdict.notes_or_refusal("the gradient", "values", "derivative", where, part)
        return tuple(dict.fromkeys(notes))

    notes = _on_a_part(cost, "the gradient", compare)
    return coarseness, notes


def _slope(part: AverageCost, theta: Tensor) -> Tensor:
    """The gradient, the penalty left out."""
    return sum((part.batch_gradient(theta, batch) for batch in part.share()), torch.zeros_like(theta))


def _precision(cost: AverageCost, part: AverageCost, theta: Tensor, slope: Tensor) -> tuple[float, tuple[str, ...]]:
    """The error and what is said of a model that computes in lower precision than its curvature's digits suggest."""
    own = cost.parameters.computed
    if part.parameters.computed != torch.float64 or own == torch.float64:
        return 0.0, ()
    narrow = cost.derived(list(part.taken()), own)
    found = _slope(narrow, theta.to(narrow.theta))
    error = float((found.double() - slope).norm()) / (float(slope.norm()) or 1.0)
    if not error > COARSE:
        return 0.0, ()
    kind = dtype_title(own)
    inside = "" if own in (torch.float16, torch.bfloat16) else " (autocast or half precision inside of the model?)"
    return error, (
        f"computed in {kind}, in which the gradient is {error:.1g} of its length off that in float64{inside}: so are "
        "all numbers here, also those that are called exact; use --dtype float32 or float64",
    )


class _Verdict:
    """A derivative along a direction beside its central differences."""

    def __init__(
        self, part: AverageCost, known: Tensor, function: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor
    ) -> None:
        wide = part.parameters.computed == torch.float64
        self.tolerance = AGREES if wide else NARROW_AGREES
        epsilon = torch.finfo(part.parameters.computed).eps
        length = float(theta.norm()) or 1.0
        self.sizes = part.parameters.sizes if len(known) == part.size else [len(known)]
        self.errors: list[float] = []
        self.differences: list[Tensor] = []
        for step in STEPS if wide else NARROW_STEPS:
            ahead, behind = function(theta + step * length * direction), function(theta - step * length * direction)
            found = (ahead - behind) / (2.0 * step * length)
            rounding = 1e2 * epsilon * float(ahead.norm()) / (step * length)
            self.differences.append(found)
            self.errors.append(0.0 if float((found - known).norm()) <= rounding else _apart(known, found, self.sizes))
            if self.errors[-1] <= self.tolerance:
                break

    @property
    def agrees(self) -> bool:
        return self.errors[-1] <= self.tolerance

    def notes_or_refusal(
        self, what: str, its: str, kind: str, where: Callable[[], str], part: AverageCost
    ) -> tuple[str, ...]:
        """Nothing, a sentence of caution, or the refusal; ``where`` is asked for that alone, as it takes many costs."""
        if self.agrees:
            return ()
        least = min(self.errors)
        pairs = combinations(self.differences, 2)
        reproduced = any(_apart(*pair, self.sizes) <= max(REPRODUCED, self.tolerance) for pair in pairs)
        if reproduced and least > max(REPRODUCED, 2.0 * self.tolerance):
            raise DerivativeError(
                f"{what} cannot be trusted: its {its} differ from finite differences by {least:.2g} of their norm"
                f"{where()}, so a {kind} of the model is wrong{_suspects(part)}"
            )
        return (f"finite differences confirm {what} only to {least:.2g}: the model is not smooth there",)


def _on_a_part(cost: Cost, what: str, compare: Callable[[Cost], tuple[str, ...]]) -> tuple[str, ...]:
    """A comparison in float64 where the model bears it, else in its own dtype; on a few rows where they can be cut."""
    reason = ""
    for batch, dtype in _parts(cost):
        try:
            return compare(_with_weight(cost.derived([batch], dtype)))
        except DerivativeError:
            raise
        except (UserError, RuntimeError, IndexError, TypeError) as problem:
            reason = reason or type(problem.__cause__ or problem).__name__
    return (f"{what} was not held against finite differences: evaluating a part of the data fails ({reason})",)


def _parts(cost: AverageCost) -> Iterator[tuple[Batch, torch.dtype]]:
    """Parts of the data and dtypes to try, the best first."""
    whole = next(cost.unjoined())
    rows = min(ROWS, max(2, whole.rows // SHARE))
    batches = [whole.cut(slice(rows)), whole] if whole.divisible and whole.rows > rows else [whole]
    own = cost.parameters.computed
    wide = _VECTORS * 8 * cost.size <= _MEMORY and own != torch.float64
    for dtype in ([torch.float64] if wide else []) + [torch.promote_types(own, torch.float32)]:
        yield from ((batch, dtype) for batch in batches)


def _with_weight(part: Cost) -> Cost:
    if part.total_weight <= 0.0:
        raise UserError("the part of the data has no sample that counts")
    return part


def _directions(part: AverageCost, theta: Tensor, slope: Tensor) -> Iterator[Tensor]:
    """Unit directions in which each parameter takes part: random ones, and one that leans on the gradient's signs."""
    parts = list(zip(*(torch.split(one, part.parameters.sizes) for one in (theta, slope)), strict=True))
    size = float(theta.double().square().mean().sqrt()) or 1.0
    strengths = [float(g.double().norm()) * _scale(t, size) for t, g in parts]
    least = 1e-2 * max(strengths) or 1.0
    for number in range(_DIRECTIONS):
        random = generator(0, "directions", number)
        found = []
        for (at, pull), strength in zip(parts, strengths, strict=True):
            way = torch.randn(len(at), generator=random, dtype=torch.float64).to(theta)
            if number == _DIRECTIONS - 1:
                way = pull.sign() + 0.5 * way
            # So that no parameter's share drowns in that of the others.
            found.append(way * _scale(at, size) / max(strength, least))
        direction = torch.cat(found)
        yield direction / direction.norm()


def _scale(values: Tensor, size: float) -> float:
    return max(float(values.double().square().mean().sqrt()), 0.1 * size)


def _culprit(part: AverageCost, theta: Tensor, slope: Tensor) -> str:
    """The parameter whose gradient is furthest from finite differences, in words."""
    worst, name = 0.0, ""
    length = 1e-5 * (float(theta.norm()) or 1.0)
    places = torch.split(torch.arange(part.size), part.parameters.sizes)
    for place, one in zip(places, part.parameters.names, strict=True):
        way = torch.zeros_like(theta)
        way[place] = torch.randn(len(place), generator=generator(0, "culprit"), dtype=torch.float64).to(theta)
        way /= way.norm()
        found = (part.cost(theta + length * way) - part.cost(theta - length * way)) / (2.0 * length)
        error = abs(found - float(slope.double() @ way.double()))
        if error > worst:
            worst, name = error, one
    return f", most by {name}" if name else ""


def _suspects(part: AverageCost) -> str:
    """What in the model may be the cause, in words."""
    witness = Witness()
    leaves = part.leaves(part.theta)
    batch = next(part.share())
    with torch.enable_grad(), witness:
        value = part.cost_at(leaves, batch)
    functions = ", ".join(_custom_functions(value))
    found = [*([f"the custom autograd.Function {functions}"] if functions else []), *filter(None, [witness.sentence])]
    kinds = {type(module).__name__ for module in part.evaluation.model.modules()}
    if part.mode == "train" and any("spectral" in kind.lower() for kind in kinds):
        found.append("spectral_norm, which in train mode moves with each call")
    return (
        f"; found in it: {'; '.join(found)}"
        if found
        else " (a hook, a custom autograd.Function, or a kept intermediate?)"
    )


def _custom_functions(value: Tensor) -> list[str]:
    """Names of the custom autograd.Functions in a graph."""
    custom = torch.autograd.function.BackwardCFunction
    names = [node.name() for node in graph_nodes(value) if issubclass(type(node), custom)]
    return sorted({name.removesuffix("Backward") for name in names})


def _apart(one: Tensor, two: Tensor, sizes: list[int]) -> float:
    """The largest relative difference of the parts of two vectors; small parts count against the whole."""
    least = max(_SMALL * float(one.norm()), _SMALL * float(two.norm()), torch.finfo(torch.float64).tiny)
    parts = zip(torch.split(one, sizes), torch.split(two, sizes), strict=True)
    return max(float((a - b).norm()) / (max(float(a.norm()), float(b.norm())) + least) for a, b in parts)
