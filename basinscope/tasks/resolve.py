"""Tasks by name: a built-in one, ``package.module:function`` or ``path/to/file.py:function``, options after it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from basinscope.choices import nearest
from basinscope.packages import claim
from basinscope.tasks.options import read_options, split_options
from spectra.errors import UserError, UserTypeError, foreign
from spectra.files import check_regular
from spectra.members import member, stated

if TYPE_CHECKING:
    from spectra.checkpoint import Checkpoint
    from spectra.landscape import Landscape

Task = Callable[..., "Landscape"]


@dataclass(frozen=True)
class TaskRow:
    """A built-in task.

    Attributes:
        name: words joined by hyphens.
        run: a checkpoint, and options as keywords -> its landscape.
        held_out: name of the same task on data that its networks were not trained on; empty if there is none.
        architectures: what the architectures that model folders name, and that it is for, end with.
        formats: formats of checkpoint files that it is for.
    """

    name: str
    run: Task
    held_out: str = ""
    architectures: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()


class GivenTask(str):
    """A task that is given as a function of Python: the name that results record, and the function.

    Attributes:
        function: a checkpoint -> its landscape.

    >>> GivenTask("mine", abs).function(-2)
    2
    """

    function: Task

    def __new__(cls, name: str, function: Task) -> GivenTask:
        """The name, which is a text like any other, and the function."""
        made = super().__new__(cls, name)
        made.function = function
        return made


BUILT_IN = stated("basinscope.tasks")
FORMS = f"a built-in name ({', '.join(sorted(BUILT_IN))}), package.module:function or path/to/file.py:function"


def task_name(asked: str | None, checkpoint: Checkpoint) -> str:
    """The task to use: the one asked for, else the one that the checkpoint's metadata names or its architecture needs.

    A checkpoint may come from anywhere, so only built-in tasks are taken from it: a name that would run code
    has to be given by the user.

    Args:
        asked: what the user gave, or None; options without a name are for the checkpoint's own task.
        checkpoint: its ``metadata["task"]`` is the default, and then that of its ``metadata["architectures"]``.

    Returns:
        The name, with the options that the user gave.

    Raises:
        UserError: if neither names one, or the checkpoint names one that is not built in.
    """
    if isinstance(asked, GivenTask):
        return asked
    name, options = split_options(asked or "")
    name = name or _own_task(checkpoint)
    return f"{name}:{options}" if options else name


def _own_task(checkpoint: Checkpoint) -> str:
    named = checkpoint.metadata.get("task") or _by_architecture(checkpoint)
    if not isinstance(named, str):
        raise UserError(f"{checkpoint.path} names no task: give --task, {FORMS}; or --model, --data and --loss")
    if named not in BUILT_IN:
        raise UserError(
            f"{checkpoint.path} names the task {named!r}, which is not built in ({', '.join(sorted(BUILT_IN))}): "
            f"give --task {named} if you want that code to run"
        )
    return named


def _by_architecture(checkpoint: Checkpoint) -> str | None:
    named = checkpoint.metadata.get("architectures")
    architectures = [str(one) for one in named] if isinstance(named, list) else []
    for name, task in BUILT_IN.items():
        endings = task.constants.get("architectures", ())
        for_format = checkpoint.metadata.get("format") in task.constants.get("formats", ())
        if for_format or any(one.endswith(endings) for one in architectures):
            return name
    return None


def held_out_name(name: str) -> str | None:
    """The same task on data that its networks were not trained on.

    Args:
        name: name of a task.

    Returns:
        The name, None if the task is not built in or has no such data.

    >>> held_out_name("digits"), held_out_name("digits-heldout")
    ('digits-heldout', None)
    """
    return BUILT_IN[name].constants.get("held_out") if name in BUILT_IN else None


def resolve_task(name: str) -> Task:
    """The function from a checkpoint to a landscape that a task's name stands for, its options bound.

    The name is a built-in one, ``package.module:function`` or ``path/to/file.py:function``; after it, where the task
    takes options, a colon and ``key=value`` with commas between.

    Raises:
        UserError: if the name has none of the allowed forms, or there is no such module or function, with
            close names; or the module fails when it is imported; or an option is wrong.
        FileNotFoundError: if there is no such file.
        UserTypeError: if what is named cannot be called.

    >>> resolve_task("operator:neg")(3)
    -3
    """
    name, options = split_options(name)
    found = member("basinscope.tasks", name, TaskRow).run if name in BUILT_IN else _users_task(name)
    keywords = read_options(name, found, options)
    task: Task = partial(found, **keywords) if keywords else found
    return task


def _users_task(name: str) -> Task:
    found = named_object(name)
    if not callable(found):
        raise UserTypeError(f"task {name!r} must be a function, got {type(found).__name__}")
    users: Task = found
    return users


def named_object(name: str, what: str = "task", forms: str = FORMS) -> Any:
    """What the user's ``package.module:name`` or ``path/to/file.py:name`` stands for; the code is imported.

    Args:
        name: as it was typed.
        what: what it is for, for messages.
        forms: forms that it may have, for messages.

    Returns:
        The object.

    Raises:
        UserError: if the name has another form, or there is no such module or name in it, with close names; or the
            module fails when it is imported.
        FileNotFoundError: if there is no such file.

    >>> named_object("math:tau") > 6.28
    True
    """
    place, colon, member_name = name.rpartition(":")
    if not (colon and place and member_name):
        raise UserError(
            f"{what} {name!r} is not known: give {forms}{nearest(name, BUILT_IN) if what == 'task' else ''}"
        )
    is_file = place.endswith(".py") or "/" in place
    module = _module_from_file(Path(place), what) if is_file else _module_by_name(place, name, what, forms)
    found = getattr(module, member_name, None)
    if found is None:
        offer = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{what} {name!r} is not known: {place} has no {member_name!r}{nearest(member_name, offer)}")
    return found


def make_landscape(name: str, checkpoint: Checkpoint) -> Landscape:
    """Call a task.

    Args:
        name: its name, as :func:`resolve_task` takes it.
        checkpoint: what it is called with.

    Returns:
        The landscape.

    Raises:
        UserError: if the name stands for nothing, or the task fails; what it raised is named.
        MemoryError: if the task runs out of memory.
        UserTypeError: if it returns anything but a landscape.
    """
    from spectra.landscape import Landscape

    task = name.function if isinstance(name, GivenTask) else resolve_task(name)
    with foreign(f"task {name!r}"):
        made: Any = task(checkpoint)
    if not isinstance(made, Landscape):
        raise UserTypeError(f"task {name!r} must return a Landscape, got {type(made).__name__}")
    return made


def _module_by_name(place: str, name: str, what: str = "task", forms: str = FORMS) -> ModuleType:
    # As `python -m` does, so that a module beside the user is found by the installed command too.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
        claim()
    with foreign(f"{place} cannot be imported: it"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise UserError(f"{what} {name!r} is not known: there is no module {error.name!r}; give {forms}") from error


def _module_from_file(path: Path, what: str = "task") -> ModuleType:
    if not path.exists():
        raise FileNotFoundError(f"{what} file {path} does not exist")
    check_regular(path)
    whole = path.resolve()
    name = f"task_{whole.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    specification = importlib.util.spec_from_file_location(name, whole)
    if specification is None or specification.loader is None:
        raise UserError(f"{what} file {path} must be a Python file that ends in .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    # As for a script, so that the file can import what lies beside it.
    sys.path.insert(0, str(whole.parent))
    claim(whole)
    try:
        with foreign(f"{path} cannot be imported: it"):
            specification.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(whole.parent))
    return module
