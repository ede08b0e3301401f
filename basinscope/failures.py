"""How a command ends when it fails: one red sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

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


class Interrupted(Exception):  # noqa: N818 - no error: the user asked for it
    """The user interrupted a run; the message says what is kept and how to go on."""


def exit_code_of(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a command and turn what goes wrong into a sentence.

    Args:
        command: does the work; may return an exit code.
        debug: show the traceback of an error too.

    Returns:
        0, or what the command returned; 2 after a user's error, 130 after an interruption.
    """
    try:
        code = command() or 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Interrupted as interruption:
        say(str(interruption))
        return INTERRUPTED
    except _EXPECTED as error:
        if debug:
            traceback.print_exc()
        say(sentence(error))
        return USER_ERROR
    if code == INTERRUPTED:
        say("interrupted; nothing was written")
    return code


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
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def say(text: str) -> None:
    """Print a sentence in red on stderr, unbroken, so that it can be searched for."""
    Console(file=sys.stderr).print(Text(text, style="red"), soft_wrap=True)
