"""Options of a task, typed after its name: ``causal-lm:text=book.txt,length=128``."""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from basinscope.choices import nearest
from spectra.errors import UserError

CHECKPOINT_HELP = (
    "A .pt, .pth, .ckpt, .safetensors or .gguf file, a folder as transformers or torch.distributed saves it, "
    "or owner/model in the Hugging Face cache."
)
# Of every command that takes a task; what its options are, a task says where one is wrong or missing.
OPTIONS_HELP = (
    "Options follow its name, as in causal-lm:text=book.txt,length=128,sequences=20; options alone are for the "
    "checkpoint's own task."
)
_OPTION = r"[A-Za-z_]\w*=.*"
# Built-in names have no colon in them; of other tasks the last colon before the options is that of the function.
_TYPED = re.compile(rf"(?P<name>[^:=]+|.+?:[A-Za-z_]\w*):(?P<options>{_OPTION})", re.DOTALL)
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


def split_options(typed: str) -> tuple[str, str]:
    """A task's name and its options, as typed, either of them empty where there is none.

    >>> split_options("causal-lm:text=a.txt,length=8"), split_options("my.py:mine"), split_options("length=8")
    (('causal-lm', 'text=a.txt,length=8'), ('my.py:mine', ''), ('', 'length=8'))
    """
    if re.fullmatch(_OPTION, typed, re.DOTALL):
        return "", typed
    found = _TYPED.fullmatch(typed)
    return (found["name"], found["options"]) if found else (typed, "")


def task_files(typed: str | None) -> list[Path]:
    r"""Files and folders that a task is made of: its own file, and what its options name.

    Args:
        typed: name and options of the task, as ``split_options`` takes them; None for no task.

    Returns:
        Those that exist.

    >>> task_files("mine.py:task:text=nowhere.txt,images=/,length=8"), task_files("own:data=/?rows=8")
    ([PosixPath('/')], [PosixPath('/')])
    """
    name, options = split_options(typed or "")
    values = [part.replace(r"\,", ",").partition("=")[2] for part in re.split(r"(?<!\\),", options)]
    # An option may name a file with options of its own, file.npz?rows=9, or what a file of Python has, net.py:make.
    named = [short for value in values for short in (value, value.partition("?")[0])]
    places = [*named, *(word.rpartition(":")[0] for word in (name, *named))]
    return [Path(word) for word in dict.fromkeys(places) if word and os.path.exists(word)]


def read_options(name: str, function: Callable[..., Any], text: str) -> dict[str, Any]:
    r"""Typed options as keyword arguments of a task's function.

    The function's keyword-only parameters are the options; their annotations say what they take: a whole number, a
    number, yes or no, a path or a word. A comma inside a value is written ``\,``.

    Raises:
        UserError: if an option is not known, given twice, of the wrong kind, or one that is needed is missing.

    >>> def task(checkpoint, *, length: int = 8, text: str): ...
    >>> read_options("mine", task, "text=a\\,b,length=9")
    {'text': 'a,b', 'length': 9}
    """
    known = _known(function)
    values: dict[str, Any] = {}
    for part in filter(None, re.split(r"(?<!\\),", text)):
        key, sign, value = part.replace(r"\,", ",").partition("=")
        key = key.strip()
        if not sign:
            raise UserError(f"task {name} takes options as key=value, separated by commas; got {part!r}")
        if key not in known:
            offer = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UserError(f"task {name} has no option {key!r}: {offer}{nearest(key, known)}")
        if key in values:
            raise UserError(f"task {name}: option {key} is given twice")
        values[key] = _read(name, key, value, known[key][0])
    for key, (_, needed) in known.items():
        if needed and key not in values:
            raise UserError(f"task {name} needs {key}: give --task {name}:{key}=..., further options after commas")
    return values


def described(function: Callable[..., Any]) -> tuple[str, list[str]]:
    """What a task is, by the first sentence of its docstring, and its options, each with its default.

    Args:
        function: the task's function.

    Returns:
        The sentence, and the options as they are typed.

    >>> def task(checkpoint, *, text: str, length: int = 8):
    ...     \"\"\"The task mine: a text.\"\"\"
    >>> described(task)
    ('a text', ['text=...', 'length=8'])
    """
    said = (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
    parameters = inspect.signature(function).parameters.values()
    options = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    words = [
        f"{one.name}={'...' if one.default is one.empty or one.default in (None, '') else one.default}"
        for one in options
    ]
    return said.partition(": ")[2] or said, words


def check_counts(task: str, **options: tuple[int | None, int]) -> None:
    """Refuses counts that are too small.

    Args:
        task: name of the task, for the message.
        options: the value and the least that is allowed, by name; None passes.

    Raises:
        UserError: if a value is below the least.

    >>> check_counts("causal-lm", batch=(0, 1))
    Traceback (most recent call last):
        ...
    spectra.errors.UserError: task causal-lm: option batch must be at least 1, got 0
    """
    for name, (value, least) in options.items():
        if value is not None and value < least:
            raise UserError(f"task {task}: option {name} must be at least {least}, got {value}")


def _known(function: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Kind of each option, and whether it has to be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    options = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    # A task without options may be annotated with names that cannot be resolved here.
    hints = get_type_hints(function) if options else {}
    return {one.name: (hints.get(one.name, str), one.default is inspect.Parameter.empty) for one in options}


def _read(name: str, key: str, value: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if kind is bool:
        if value.lower() not in _YES + _NO:
            raise UserError(f"task {name}: option {key} must be yes or no, got {value!r}")
        return value.lower() in _YES
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise UserError(f"task {name}: option {key} must be {words}, got {value!r}") from None
    if kind is Path and not value:
        raise UserError(f"task {name}: option {key} must be a path, got nothing")
    return Path(value) if kind is Path else value
