"""What a command or a call is told of the user's model, data and loss, as one task; torch is not needed for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinscope.tasks import GivenTask, TaskRow
from spectra.errors import UserError
from spectra.members import member
from spectra.words import LOSSES

if TYPE_CHECKING:
    from spectra.checkpoint import Checkpoint
    from spectra.landscape import Landscape

MODEL_FORMS = "package.module:factory or path/to/file.py:factory, options after it as in 'net.py:make?width=8'"
DATA_FORMS = (
    "a file (.npz, .pt, .safetensors or .csv), a folder of images or of a saved data set, package.module:function or "
    "path/to/file.py:function"
)
LOSS_FORMS = f"{', '.join(LOSSES)}, package.module:function or path/to/file.py:function"
_NEEDED = {
    "model": f"what makes it, {MODEL_FORMS}",
    "data": f"what the cost is measured on, {DATA_FORMS}",
    "loss": f"what it was trained on, {LOSS_FORMS}",
}


def chosen_task(task: str | None, *, model: Any = None, data: Any = None, loss: Any = None) -> str | None:
    r"""The task that a user means who gives either a task, or a model, data and a loss.

    Args:
        task: name of a task, or None.
        model: ``package.module:factory`` or ``path/to/file.py:factory``; from Python a module or a factory too.
        data: a file, a folder or ``module:function``; from Python arrays, tensors, a data set or a loader too.
        loss: a word, or ``module:function``; from Python a loss of torch or a function too.

    Returns:
        The task; None for the checkpoint's own.

    Raises:
        UserError: if both are given, or some of the three are missing.

    >>> chosen_task(None, model="net.py:make", data="train.npz?inputs=a,b", loss="mse")
    'own:model=net.py:make,data=train.npz?inputs=a\\,b,loss=mse'
    >>> chosen_task("digits")
    'digits'
    """
    parts = {"model": model, "data": data, "loss": loss}
    given = [f"--{name}" for name, value in parts.items() if value is not None]
    if not given:
        return task
    if task is not None:
        raise UserError(f"--task says model, data and loss itself: leave it out, or {' and '.join(given)}")
    for name, value in parts.items():
        if value is None:
            verb = "need" if len(given) > 1 else "needs"
            raise UserError(f"{' and '.join(given)} {verb} --{name} beside: {_NEEDED[name]}")
    parts = {name: str(value) if isinstance(value, Path) else value for name, value in parts.items()}
    name = f"own:{','.join(f'{key}={_words(value)}' for key, value in parts.items())}"
    return name if all(isinstance(value, str) for value in parts.values()) else GivenTask(name, _Objects(parts))


def task_on(task: str | None, *, model: Any = None, data: Any = None, loss: Any = None, option: str) -> str | None:
    """The task of the same model and loss on other data.

    Args:
        task: name of a task for the other data, or None.
        model: as ``chosen_task`` takes it.
        data: the other data, as ``chosen_task`` takes it; None for none.
        loss: as ``chosen_task`` takes it.
        option: name of the option of the other data, for messages; that of the task ends in ``task`` instead.

    Returns:
        The task, or None.

    Raises:
        UserError: if both are given, or the model or the loss is missing.

    >>> task_on(None, model="a:b", data="test.npz", loss="mse", option="--held-out-data")
    'own:model=a:b,data=test.npz,loss=mse'
    """
    if data is None:
        return task
    if task is not None:
        raise UserError(f"{option} and {option.replace('data', 'task')} exclude each other: give one of them")
    if model is None or loss is None:
        raise UserError(f"{option} needs --model and --loss, which are the same on it")
    return chosen_task(None, model=model, data=data, loss=loss)


class _Objects:
    """A task of objects of Python."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = parts

    def __call__(self, checkpoint: Checkpoint) -> Landscape:
        made: Landscape = member("basinscope.tasks", "own", TaskRow).run(checkpoint, **self.parts)
        return made


def _words(value: Any) -> str:
    """A value as the name of a task has it: what was typed, or what kind of object it is."""
    named = value if isinstance(value, str) else getattr(value, "__qualname__", type(value).__qualname__)
    return str(named).replace(",", r"\,")
