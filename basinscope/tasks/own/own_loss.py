"""The user's loss, and whether it fits what the model gives: logits and not probabilities, targets of their shape."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from basinscope.choices import nearest
from basinscope.tasks import named_object
from basinscope.tasks.own.call import called, split_query
from basinscope.tasks.own.choice import LOSS_FORMS
from spectra.costs import BY_NAME, CrossEntropy, Likelihood, PerSampleCost, TorchLoss, cost_name, recognised
from spectra.errors import ForeignError, UserError, UserTypeError, foreign
from spectra.words import LOSSES, dtype_title

# Sums of a softmax in half precision are no closer to 1.
_SUM = 1e-2
_LOG_SUM = 1e-3


def loss_of(loss: Any) -> PerSampleCost:
    """The loss as a landscape takes it.

    Args:
        loss: one of ``LOSSES``, a name with options as it is typed, a loss of torch, or a function.

    Returns:
        The cost ``(outputs, targets) -> (samples,)``, or a loss of torch.

    Raises:
        UserError: if there is no such loss, or it cannot be made.
        UserTypeError: if it is nothing that can be called.

    >>> loss_of("mse").name
    'mean-squared-error'
    """
    what, options = "loss", dict[str, Any]()
    if isinstance(loss, str):
        if loss in LOSSES:
            return BY_NAME[LOSSES[loss]]
        place, options = split_query(loss)
        if ":" not in place:
            raise UserError(f"--loss must be {LOSS_FORMS}; got {loss!r}{nearest(place, LOSSES)}")
        what, loss = f"--loss {place}", named_object(place, "loss", LOSS_FORMS)
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        made: PerSampleCost = called(loss, options, what)
        return made
    if not callable(loss):
        raise UserTypeError(f"{what} must be a function (outputs, targets) -> (samples,), got {type(loss).__name__}")
    return partial(loss, **options) if options else loss


def fitted_shape(loss: PerSampleCost, outputs: Any, targets: Any) -> tuple[int, ...] | None:
    """Shape that a row of targets has to take, where it differs from what the loss needs by dimensions of one alone.

    Losses that subtract (n,) from (n, 1) give (n, n) in silence.

    Args:
        loss: the loss.
        outputs: the model's outputs on a batch.
        targets: targets of the same batch.

    Returns:
        The shape without the leading dimension, or None where the targets stay as they are.

    Raises:
        UserError: if the loss is one of the user's own and mixes rows up by broadcasting.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return None
    cost = recognised(loss)
    if isinstance(cost, CrossEntropy):
        rows = outputs.shape[:1]
        whole = not targets.is_floating_point() and outputs.dim() == 2 and targets.shape == (*rows, 1)
        return () if whole else None
    if outputs.shape == targets.shape or _squeezed(outputs) != _squeezed(targets):
        return None
    if isinstance(cost, Likelihood | TorchLoss):
        return tuple(outputs.shape[1:])
    _check_rows(loss, outputs, targets)
    return None


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    return (len(tensor), *(length for length in tensor.shape[1:] if length != 1)) if tensor.dim() else ()


def _check_rows(loss: PerSampleCost, outputs: Tensor, targets: Tensor) -> None:
    """Refuses a loss that costs the first row something else beside others than alone, by broadcasting."""
    try:
        with torch.no_grad(), foreign(f"the loss {cost_name(loss)}"), warnings.catch_warnings(action="ignore"):
            whole, alone = loss(outputs, targets), loss(outputs[:1], targets[:1])
    except ForeignError:  # on one row alone perhaps; a loss that fails on all of them is told of when it is used
        return
    if whole.dim() and not torch.allclose(whole.reshape(-1)[:1], alone.reshape(-1)[:1], rtol=1e-3, atol=0.0):
        raise UserError(
            f"the loss {cost_name(loss)} mixes rows: outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)} are broadcast to each other; give the targets the shape of the outputs"
        )


def check_outputs(given: Any, loss: PerSampleCost, outputs: Any, targets: Any) -> tuple[str, ...]:
    """Refuses outputs that are probabilities where the word for the loss means one of logits; else sentences.

    Args:
        given: the loss as the user gave it.
        loss: what it stands for.
        outputs: the model's outputs on a batch.
        targets: targets of the same batch.

    Returns:
        What is worth knowing about them.

    Raises:
        UserError: if they are probabilities, or the targets cannot be those of the loss.
    """
    word = given if isinstance(given, str) and given in LOSSES else ""
    if word and not isinstance(outputs, Tensor):
        kind = f"a mapping of {', '.join(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
        raise UserError(
            f"the model gives {kind}, and --loss {word} needs a tensor: name a function of yours as --loss, which gets "
            "what the model gives"
        )
    if targets is None:
        raise UserError("the data has no targets: give pairs (inputs, targets)")
    cost = recognised(loss)
    if isinstance(cost, CrossEntropy) and isinstance(outputs, Tensor) and outputs.dim() > 1:
        _check_classes(outputs, targets)
        if word and outputs.dim() > 2 and targets.shape == outputs.shape[:1] + outputs.shape[2:] == outputs.shape[:-1]:
            raise UserError(
                f"outputs of shape {tuple(outputs.shape)} may have the classes on axis 1 or on the last one: give "
                "--loss torch.nn:CrossEntropyLoss for axis 1, as torch has it, or a function of yours for the last"
            )
        return () if cost.normalised else _softmax_notes(word, cost, outputs, targets)
    if getattr(cost, "name", "").startswith(LOSSES["bce"]) and _between(outputs):
        if word:
            raise UserError(
                "all outputs of the model lie between 0 and 1, as after a sigmoid, and --loss bce takes logits: leave "
                "the sigmoid out of the model, give --loss torch.nn:BCELoss for probabilities, or --loss "
                "torch.nn:BCEWithLogitsLoss if these are the logits that it was trained with"
            )
        return ("all outputs of the model lie between 0 and 1, and the loss takes logits",)
    return ()


def _softmax_notes(word: str, cost: CrossEntropy, outputs: Tensor, targets: Any) -> tuple[str, ...]:
    last = cost.settled(outputs, targets).laid_out(outputs, targets).double()
    if _between(last) and bool(((last.sum(-1) - 1.0).abs() < _SUM).all()):
        if word:
            raise UserError(
                "the outputs of the model are probabilities (each row sums to 1), and --loss cross-entropy takes "
                "logits: leave the softmax out of the model, or give --loss torch.nn:CrossEntropyLoss if it was "
                "trained with the softmax twice"
            )
        return ("the outputs of the model are probabilities, and the loss takes their softmax once more",)
    if bool((last.logsumexp(-1).abs() < _LOG_SUM).all()):
        return ("the outputs of the model are log-probabilities, of which the cross-entropy is that of the logits",)
    return ()


def _check_classes(outputs: Tensor, targets: Any) -> None:
    """Refuses classes that are stored as real numbers, which would be asked to be probabilities."""
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.shape != outputs.shape:
        whole = bool((targets == targets.round()).all())
        advice = "save them as integers" if whole else "for real targets give --loss mse"
        raise UserError(
            f"the targets of --loss cross-entropy are {dtype_title(targets.dtype)} of shape {tuple(targets.shape)}, "
            f"and classes are whole numbers: {advice}"
        )


def _between(outputs: Tensor) -> bool:
    return bool(((outputs >= 0.0) & (outputs <= 1.0)).all())
