"""The dtype and the device that a landscape is computed in, as asked for on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spectra.errors import UserError, foreign
from spectra.landscape import Landscape


def placed(landscape: Landscape, dtype: str | None, device: str | None, task: str) -> Landscape:
    """The landscape in the dtype and on the device asked for.

    Args:
        landscape: as the task made it.
        dtype: name of a dtype, or None for the model's own.
        device: where to compute, or None for where the task put the model.
        task: name of the task, for messages.

    Returns:
        The landscape itself where nothing changes, else a copy.

    Raises:
        UserError: if the device cannot be used, or model or data do not bear the change.
    """
    kind = None if dtype is None else getattr(torch, dtype)
    place = None if device is None else usable_device(device)
    if kind in (None, landscape.dtype) and place in (None, landscape.device):
        return landscape
    with guarded(f"--dtype {landscape.dtype if kind is None else kind} --device {place or landscape.device}", task):
        return landscape.to(dtype=kind, device=place)


@contextmanager
def guarded(asked: str, task: str) -> Iterator[None]:
    """Turn what the user's model and data raise under a change into a sentence, as for the task itself.

    Args:
        asked: the options that asked for the change.
        task: name of the task.

    Yields:
        Nothing.

    Raises:
        ForeignError: in place of what they raise.
    """
    with foreign(f"{asked} does not fit the task {task!r}: it"):
        yield


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Args:
        name: such as cpu or cuda.

    Returns:
        The device.

    Raises:
        UserError: if it cannot be used here.

    >>> usable_device("cpu")
    device(type='cpu')
    """
    try:
        # A device may be named well and not be there: only using it tells.
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name!r} cannot be used here: {reason}") from error
    if device.type == "meta":
        raise UserError(f"--device {name!r} cannot be used here: its tensors hold no numbers")
    return device
