"""The user's model with the checkpoint's weights: made by a factory, and filled or refused."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from basinscope.choices import nearest
from basinscope.tasks import named_object
from basinscope.tasks.own.call import called, split_query
from basinscope.tasks.own.choice import MODEL_FORMS
from spectra.checkpoint import Checkpoint, load_into
from spectra.errors import UserError, UserTypeError
from spectra.model import Evaluation, preserved_random_state
from spectra.words import dtype_title

_NAMED = 3
_WRAPPERS = ("module.", "_orig_mod.")


def filled_model(model: Any, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
    """The user's model with all of a checkpoint's weights, and sentences on it.

    Args:
        model: a name with options, as it is typed; a module, which is copied; or a factory without arguments.
        checkpoint: the weights.

    Returns:
        The model, in the wider of its own dtype and the checkpoint's.

    Raises:
        UserError: if the model cannot be made, or names or shapes are not those of the checkpoint.
        UserTypeError: if what is made is no module.
    """
    with preserved_random_state():
        made = _made(model)
    Evaluation(made, "eval", {})  # refuses what has no shapes yet, and no names
    _check_names(checkpoint, made)
    kinds = {parameter.dtype for parameter in made.parameters() if parameter.is_floating_point()}
    wider = {one.dtype for one in checkpoint.parameters.values() if one.dtype == torch.float64}
    notes: tuple[str, ...] = ()
    if wider and len(kinds) == 1 and kinds != wider:
        notes = (f"the model is taken to float64, of which the checkpoint is; it was made in {dtype_title(*kinds)}",)
        made = made.to(torch.float64)
    load_into(checkpoint, made)
    return made, notes


def _made(model: Any) -> nn.Module:
    what, options = "model", dict[str, Any]()
    if isinstance(model, str):
        place, options = split_query(model)
        what = f"--model {place}"
        model = named_object(place, "model", MODEL_FORMS)
    if isinstance(model, nn.Module):
        if options:
            raise UserError(f"{what} is a module, which takes no options ({', '.join(options)}): name what makes it")
        return copy.deepcopy(model)
    if not callable(model):
        raise UserTypeError(f"{what} must be a torch.nn.Module or make one, got {type(model).__name__}")
    made = called(model, options, what)
    if not isinstance(made, nn.Module):
        raise UserTypeError(f"{what} must make a torch.nn.Module, got {type(made).__name__}")
    return made


def inputs_of(model: nn.Module) -> tuple[str, ...]:
    """Names of what a model's forward pass takes.

    >>> inputs_of(nn.Bilinear(1, 1, 1))
    ('input1', 'input2')
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))


def _check_names(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Refuses a checkpoint whose names are not the model's, with what would make them so where that can be seen."""
    state = {_plain(name): value for name, value in model.state_dict(keep_vars=True).items()}
    saved = {**checkpoint.extra, **checkpoint.parameters}
    present = {id(state[name]) for name in state if name in saved}
    missing = [name for name, value in state.items() if name not in saved and id(value) not in present]
    unexpected = [name for name in saved if name not in state]
    if not missing and not unexpected:
        return
    parts = [f"it lacks {_listed(missing, state)}"] if missing else []
    parts += [f"it holds {_listed(unexpected, saved)}, which the model lacks"] if unexpected else []
    hint = _hint(list(state), list(saved)) or (nearest(missing[0], unexpected) if missing else "")
    raise UserError(f"{checkpoint.path} is not of this model: {' and '.join(parts)}{hint}")


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _listed(names: list[str], values: Any) -> str:
    shown = [f"{name} {tuple(getattr(values[name], 'shape', ()))}" for name in names[:_NAMED]]
    return ", ".join(shown) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _hint(own: list[str], saved: list[str]) -> str:
    """What to do where all names would fit but for a beginning that they share."""
    if (prefix := _beginning(own, saved)) is not None:
        return f"; its names begin with {prefix}, so give --strip-prefix {prefix}"
    if (prefix := _beginning(saved, own)) is not None:
        inner = prefix.removesuffix(".")
        return f"; the model's names begin with {prefix}, so let the factory give the model that is its .{inner}"
    return ""


def _beginning(short: Iterable[str], long: list[str]) -> str | None:
    """What all of the long names begin with, if without it they have all of the short ones among them."""
    short = set(short)
    places = [number for number, letter in enumerate(long[0] if long else "") if letter == "."]
    for beginning in (long[0][: place + 1] for place in places):
        inner = {name.removeprefix(beginning) for name in long if name.startswith(beginning)}
        if len(inner) == len(long) and short and short <= inner:
            return beginning
    return None
