"""The task ``own``: the user's model, data and loss by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from basinscope.tasks import TaskRow
from basinscope.tasks.own.own_data import batches_of
from basinscope.tasks.own.own_loss import check_outputs, fitted_shape, loss_of
from basinscope.tasks.own.own_model import filled_model, inputs_of
from spectra.checkpoint import Checkpoint
from spectra.costs import CrossEntropy, recognised
from spectra.errors import ForeignError, UserError
from spectra.landscape import Landscape
from spectra.model import Batch, Batches, Evaluation, as_batch
from spectra.nested import tensors_in
from spectra.words import dtype_title


def own(checkpoint: Checkpoint, *, model: str, data: str, loss: str) -> Landscape:
    """The task ``own``: mean of the loss over the rows of the data, of the model in eval mode."""
    return own_landscape(checkpoint, model, data, loss)


def own_landscape(checkpoint: Checkpoint, model: Any, data: Any, loss: Any) -> Landscape:
    """The landscape of the user's model with a checkpoint's weights, on the user's data, under the user's loss.

    Args:
        checkpoint: the weights.
        model: a name as it is typed, a module, or a factory.
        data: a name as it is typed, or an object, see ``batches_of``.
        loss: a word, a name as it is typed, or a function.

    Returns:
        The landscape.

    Raises:
        UserError: if one of them does not exist, cannot be read or made, or they do not fit one another.
    """
    try:
        return _landscape(checkpoint, model, data, loss)
    except FileNotFoundError as error:  # of a name that the user gave; what the user's code raises has been told of
        raise UserError(str(error)) from error


def _landscape(checkpoint: Checkpoint, model: Any, data: Any, loss: Any) -> Landscape:
    cost = loss_of(loss)
    network, said = filled_model(model, checkpoint)
    source, cut, notes = batches_of(data, inputs_of(network))
    if isinstance(source, Iterator):
        return Landscape(network, cost, source)  # which says why it cannot be
    if isinstance(recognised(cost), CrossEntropy) and str(data).partition("?")[0].endswith(".csv"):
        source = [_with_classes(batch) for batch in source]
    first = next(map(as_batch, source), None)
    if first is None:
        raise UserError("the data has no rows: it is empty")
    outputs, targets = _outputs(network, first), first.targets
    shape = fitted_shape(cost, outputs, targets)
    if shape is not None:
        now = (len(targets), *shape)
        notes = (*notes, f"targets of shape {tuple(targets.shape)} are taken in the shape {now}, which the loss needs")
        source, targets = _Reshaped(source, shape), targets.reshape(now)
    notes = (*notes, *said, *check_outputs(loss, cost, outputs, targets), *_tokens_alone(first))
    # A padding row of an embedding is held constant, as in training, which a note then says.
    made = Landscape(network, cost, source, padding="constant", notes=notes)
    if cut and made.batches.count > 1 and (reason := made.rows_apart()):
        raise UserError(
            f"rows of the data depend on one another ({reason}), so that the cost depends on what makes a batch: name "
            "a function as --data that gives the batches that it was trained on"
        )
    return made


class _Reshaped:
    """Batches whose targets have other dimensions of one."""

    def __init__(self, source: Iterable[Any], shape: tuple[int, ...]) -> None:
        # A loader is examined as it is, before it cannot be seen any more.
        self.source, self.shape = source if isinstance(source, list) else Batches(source), shape

    def __iter__(self) -> Iterator[Batch]:
        for batch in map(as_batch, self.source):
            yield replace(batch, targets=batch.targets.reshape(len(batch.targets), *self.shape))


def _with_classes(batch: Batch) -> Batch:
    """The batch with targets of a table, where all numbers are written alike, as whole numbers if they are."""
    whole = bool((batch.targets == batch.targets.round()).all())
    return replace(batch, targets=batch.targets.long()) if whole else batch


def _tokens_alone(batch: Batch) -> tuple[str, ...]:
    """A sentence where tokens are to be predicted from themselves: those of a language model have to be shifted."""
    targets = batch.targets
    if batch.labelled or not isinstance(targets, Tensor) or targets.is_floating_point():
        return ()
    if not any(one.shape == targets.shape and torch.equal(one, targets) for one in tensors_in(batch.inputs)):
        return ()
    return ("the targets are the inputs themselves: a model that is to say the next token needs them shifted by one",)


def _outputs(model: nn.Module, batch: Batch) -> Any:
    """What the model gives on a batch; where it fails, the sentence says on what."""
    evaluation = Evaluation(model, "eval", {})
    tensors = dict(evaluation.model.named_parameters())
    like = next((one for one in tensors.values() if one.is_floating_point()), None)
    if like is None:
        raise UserError(f"the model {type(model).__name__} has no parameters of floating point")
    placed = batch.to(like.device, None if evaluation.mixed else like.dtype)
    try:
        with torch.no_grad():
            return evaluation(tensors, placed.inputs)
    except ForeignError as error:
        given = list(tensors_in(placed.inputs))
        shapes = ", ".join(f"{dtype_title(one.dtype)} of shape {tuple(one.shape)}" for one in given)
        whole = any(not one.is_floating_point() for one in given) and not any(
            isinstance(module, nn.Embedding) for module in model.modules()
        )
        advice = "; where bytes are pixels, add ?divide=255 to the file" if whole else ""
        raise UserError(f"{error}; its inputs were {shapes}{advice}") from error


ROWS = (TaskRow("own", own),)
