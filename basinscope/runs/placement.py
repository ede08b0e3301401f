"""The dtype and the device that a landscape is computed in, as asked for on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spectra.errors import UserError, foreign
from spectra.landscape import Landscape


def placed(landscape: Landscape, dtype: str | None, device: str | None, task: str) -> Landscape:
    """The landscape in the dtype and on the device asked for (None: its own); a copy where anything changes."""
    kind = None if dtype is None else getattr(torch, dtype)
    place = None if device is None else usable_device(device)
    if kind in (None, landscape.dtype) and place in (None, landscape.device):
        return landscape
    with guarded(f"--dtype {landscape.dtype if kind is None else kind} --device {place or landscape.device}", task):
        return landscape.to(dtype=kind, device=place)


@contextmanager
def guarded(asked: str, task: str) -> Iterator[None]:
    """Turn what the user's model and data raise under a change that was asked for into a sentence, as for the task."""
    with foreign(f"{asked} does not fit the task {task!r}: it"):
        yield


def usable_device(name: str) -> torch.device:
    """The device of a name, such as cpu or cuda, if it can be used here."""
    try:
        # A device may be named well and not be there: only using it tells.
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name!r} cannot be used here: {reason}") from error
    if device.type == "meta":
        raise UserError(f"--device {name!r} cannot be used here: its tensors hold no numbers")
    return device
