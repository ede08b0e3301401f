"""Whether batches may be joined, or cut by rows: shown on real batches, at parameters a little off the anchor.

A cost may depend on which rows are evaluated together: recurrent models with time first, statistics of the batch,
contrastive costs, graphs, padding. Nothing tells but trying: each sample's cost and the gradient must stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spectra.errors import UserError
from spectra.landscape.average_cost import AverageCost
from spectra.model import Batch, generator, groups, joined_batch

MERGED_ROWS = 4096
MERGED_BYTES = 256 * 2**20
# Relative differences of costs and of gradients that are rounding: in float64, where a model may still have parts in
# float32, and in units of the epsilon of any other dtype.
_WIDE, _NARROW = 1e-5, 1e3
_GRADIENT = 10.0
# Displacement over the root mean square of each parameter: at the anchor itself a divergence from it has no gradient.
_ASIDE = 0.02
# Float64 parameters beside the model's, in bytes: above this the proof is in the model's own dtype.
_MEMORY = 2**28


def joined_where_shown(
    cost: AverageCost, plain: list[Batch], joinable: bool | None
) -> tuple[list[Batch], bool | None, tuple[str, ...]]:
    """Small batches joined if nothing changes, as far as what a forward pass saves for backward stays small.

    Args:
        cost: the average cost.
        plain: its batches as they came.
        joinable: whether batches may be joined; None finds out.

    Returns:
        Batches with the same rows in the same order, whether they may be joined (None if nobody had to know), and a
        sentence if it was found that they stay as they came.
    """
    if cost.mode == "train" or joinable is False or len(plain) == 1:
        return plain, joinable, ()
    batch = cost._placed(plain[0])
    used = cost.evaluation.saved_bytes(cost.leaves(cost.theta), batch.inputs)
    found = groups(plain, min(MERGED_ROWS, int(MERGED_BYTES / max(used / max(batch.rows, 1), 1.0))))
    notes: tuple[str, ...] = ()
    if joinable is None:
        reason = joined_apart(cost, found)
        joinable = cost.ranks.every(not reason)
        if not joinable:
            words = reason or "another rank found a difference"
            notes = (f"batches are evaluated as they came: joined, {words}",)
    return [joined_batch(group) for group in found] if joinable else plain, joinable, notes


def joined_apart(cost: AverageCost, together: Sequence[Sequence[Batch]]) -> str:
    """What changes when batches are evaluated as one.

    In the model's own dtype the costs of all batches are compared, in float64 the costs and the gradient of a pair.

    Returns:
        A few words; empty if neither a sample's cost nor the gradient changes.
    """
    several = [group for group in together if len(group) > 1]
    if not several:
        return ""

    def compare(wide: AverageCost, seen: list[Batch]) -> str:
        return _apart(wide, seen, joined_batch(seen))

    found = _tried(cost, several[0][:2], compare)
    for group in several:
        found = found or _of_all(cost, group)
    return found


def rows_apart(cost: AverageCost, batch: Batch) -> str:
    """Why the rows of a batch are no samples of their own.

    Returns:
        A few words; empty if any selection of rows costs what these rows cost in the batch.
    """
    if cost.mode == "train":
        return "in train mode the rows of a batch may depend on one another"
    if not batch.divisible:
        return "the tensors of a batch do not have one leading length"
    if batch.rows < 2:
        return ""
    order = torch.randperm(batch.rows, generator=generator(0, "rows"))
    half = (batch.rows + 1) // 2

    def compare(wide: AverageCost, seen: list[Batch]) -> str:
        if not seen[0].divisible:
            return "the cost's targets do not have the rows of its inputs"
        places = order.to(wide.device)
        found = _apart(wide, [seen[0].cut(places[:half]), seen[0].cut(places[half:])], seen[0].cut(places))
        return found or _same_in_any_order(wide, seen[0], places)

    return _tried(cost, [batch], compare)


def _tried(cost: AverageCost, batches: Sequence[Batch], compare: Callable[[AverageCost, list[Batch]], str]) -> str:
    """The comparison in float64 where the model bears it, else in its own dtype."""
    small = 8 * cost.size * 8 <= _MEMORY
    # Half precision shows nothing: its rounding is as large as what is looked for.
    own = torch.promote_types(cost.parameters.computed, torch.float32)
    found = ""
    for dtype in ([torch.float64] if small else []) + [own]:
        found, failed = _caught(lambda: cost.derived(list(batches), dtype), compare)  # noqa: B023
        if not failed:
            return found
    return found


def _of_all(cost: AverageCost, group: Sequence[Batch]) -> str:
    """What changes in the costs of all batches of a group, in the model's own dtype."""
    if cost.parameters.computed.itemsize < torch.float32.itemsize:
        return ""
    return _caught(
        lambda: cost.derived(list(group)),
        lambda own, seen: _apart(own, seen, joined_batch(seen), gradient=False),
    )[0]


def _caught(make: Callable[[], AverageCost], compare: Callable[[AverageCost, list[Batch]], str]) -> tuple[str, bool]:
    """A comparison, and whether it failed: joined or cut, batches may be none that the model takes."""
    try:
        made = make()
        return compare(made, list(made.share())), False
    except (UserError, RuntimeError, IndexError) as problem:
        return f"evaluating them fails ({' '.join(str(problem).split())[:100]})", True


def _apart(wide: AverageCost, parts: Sequence[Batch], whole: Batch, *, gradient: bool = True) -> str:
    theta = wide.aside(_ASIDE)
    together, apart = _costs(wide, theta, whole), torch.cat([_costs(wide, theta, part) for part in parts])
    tolerance = _tolerance(wide)
    if together.shape != apart.shape:
        return f"they give {len(together)} costs and {len(apart)} apart"
    scale = float(apart.abs().max())
    difference = float((together - apart).abs().max())
    if not difference <= tolerance * scale:
        return f"a sample's cost changes by {difference / scale if scale else difference:.2g} of it"
    if not gradient:
        return ""
    slope = wide.batch_gradient(theta, whole)
    slopes = torch.stack([wide.batch_gradient(theta, part) for part in parts]).sum(0)
    length, difference = float(slopes.norm()), float((slope - slopes).norm())
    if not difference <= _GRADIENT * tolerance * length:
        return f"the gradient changes by {difference / length if length else difference:.2g} of its length"
    return ""


def _same_in_any_order(wide: AverageCost, batch: Batch, places: Tensor) -> str:
    theta = wide.aside(_ASIDE)
    whole, moved = _costs(wide, theta, batch), _costs(wide, theta, batch.cut(places))
    if len(whole) % batch.rows or len(whole) != len(moved):
        return "the cost does not give as many values for each row"
    expected = whole.reshape(batch.rows, -1)[places].reshape(-1)
    scale = float(whole.abs().max())
    if not float((moved - expected).abs().max()) <= _tolerance(wide) * scale:
        return "a row's cost changes with the order of the rows"
    return ""


def _costs(wide: AverageCost, theta: Tensor, batch: Batch) -> Tensor:
    """Weighted cost of each sample, (samples,) float64."""
    with torch.no_grad():
        costs, weights = wide.samples_at(wide.parameters.unflatten(theta), batch)
    return costs.double() if weights is None else costs.double() * weights.double()


def _tolerance(wide: AverageCost) -> float:
    computed = wide.parameters.computed
    return _WIDE if computed == torch.float64 else _NARROW * torch.finfo(computed).eps
