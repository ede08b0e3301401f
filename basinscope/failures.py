"""How a command ends when it fails: one red sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable

from rich.console import Console
from rich.text import Text
from typer.exceptions import TyperException

USER_ERROR = 2
INTERRUPTED = 130

# Mistakes of the user, or of the machine: anything else is a mistake of ours and keeps its traceback.
_EXPECTED = (ValueError, TypeError, OSError, MemoryError, TyperException)

# Words by which torch's allocators, of the processor and of devices, say in a RuntimeError that memory ran out.
_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")


class Interrupted(Exception):  # noqa: N818 - no error: the user asked for it
    """The user interrupted a run; the message says what is kept and how to go on."""


def say(text: str) -> None:
    """Print a sentence in red on stderr, unbroken, so that it can be searched for."""
    Console(file=sys.stderr).print(Text(text, style="red"), soft_wrap=True)


def exit_code_of(command: Callable[[], int | None], *, debug: bool = False, tell: Callable[[str], None] = say) -> int:
    """Run a command and turn what goes wrong into a sentence.

    Args:
        command: does the work; may return an exit code.
        debug: show the traceback of an error too.
        tell: takes the sentence.

    Returns:
        0, or what the command returned; 2 after a user's error, 130 after an interruption.

    Raises:
        RuntimeError: if the command raises it for any reason but memory that ran out.
    """
    try:
        code = command() or 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Interrupted as interruption:
        tell(str(interruption))
        return INTERRUPTED
    except (*_EXPECTED, RuntimeError) as error:
        if not isinstance(error, _EXPECTED) and not out_of_memory(error):
            raise
        if debug:
            traceback.print_exc()
        tell(sentence(error))
        return USER_ERROR
    if code == INTERRUPTED:
        tell("interrupted; nothing was written")
    return code


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory ran out; it has no one exception for that.

    Args:
        error: the error.

    Returns:
        True for its allocators' errors.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)


def sentence(error: BaseException) -> str:
    """What an error says, on one line.

    Args:
        error: the error.

    Returns:
        Its message; the system's words and the file for an error of the system.

    >>> sentence(FileNotFoundError(2, "No such file or directory", "model.pt"))
    'model.pt: No such file or directory'
    """
    if isinstance(error, TyperException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        text = f"not enough memory: {error}" if str(error) else "not enough memory"
    elif out_of_memory(error):
        found = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        wanted = f" for a tensor of {found[1]}" if found else ""
        text = f"not enough memory{wanted}: use a smaller --block or --memory"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
