"""How a command ends when it fails: one red sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

import errno
import io
import itertools
import re
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata

from basinscope.terminal import say, shortened, streams
from spectra.errors import UserError, out_of_memory

if sys.platform != "win32":
    import resource
try:
    from typer.exceptions import TyperException
except ImportError:  # older releases of typer raise those of click
    from click import ClickException as TyperException  # type: ignore[assignment]

USER_ERROR = 2
INTERRUPTED = 130
BUG = 1
# As a shell says that a program ended by SIGPIPE: who read its output wanted no more of it.
UNREAD = 128 + 13

# Bytes of address space that torch and the libraries beside it take when they are loaded, with a little to compute in.
LEAST_MEMORY = 1_500_000_000
# The disk is full, or the file, or the share of it that the user has.
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

# What a command can do with less memory.
_LESS = {
    "spectrum": "a smaller --block or --memory",
    "volume": "a smaller --memory",
    "bridge": "fewer --chains or --draws",
    "audit": "fewer --directions",
}

# Mistakes of the user, or of the machine: anything else is a mistake of ours.
_EXPECTED = (UserError, OSError, MemoryError, TyperException)


class Interrupted(Exception):  # noqa: N818 - no error: the user asked for it
    """The user interrupted a run; the message says what is kept and how to go on."""


def exit_code_of(
    command: Callable[[], int | None],
    *,
    words: Sequence[str] = (),
    tell: Callable[[str], None] = say,
) -> int:
    """Run a command, tell what goes wrong in a sentence, and return the exit code.

    It is 0 or what the command returned, 1 after a bug, 2 after a user's error, 130 after an interruption, and 141
    where stdout was a pipe that nobody reads any more. With ``--debug`` among the words the traceback of an error is
    shown too, with ``--json`` stdout is kept for one JSON object, and empty after an error.
    """
    said: list[str] = []
    with streams(as_json="--json" in words):
        code = _ended(command, said.append, words)
        for text in said:
            tell(shortened(text, list(words)))
    return code


def _ended(command: Callable[[], int | None], tell: Callable[[str], None], words: Sequence[str]) -> int:
    try:
        _heed_limits()
        code = command() or 0
        _flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Interrupted as interruption:
        tell(str(interruption))
        return INTERRUPTED
    except (Exception, SystemExit) as error:  # the end of the program: what nobody foresaw is a bug, said to be one
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            # What is left in it would be tried once more when Python ends.
            sys.stdout = io.StringIO()
            return UNREAD
        if "--debug" in words:
            traceback.print_exc()
        if sys.stdout is not None and sys.stdout.closed:
            sys.stdout = io.StringIO()
            tell("standard output was closed during the run, by the task or its model, so nothing can be printed")
            return USER_ERROR
        if isinstance(error, _EXPECTED) or out_of_memory(error):
            tell(_of_option(sentence(error, *(less for name, less in _LESS.items() if name in words[:1])), words))
            return USER_ERROR
        tell(bug_report(error))
        return BUG
    if code == INTERRUPTED:
        tell("interrupted; nothing was written")
    return code


def _of_option(text: str, words: Sequence[str]) -> str:
    """A sentence of typer on an option's value, in our words and with what was typed."""
    found = re.match(r"Invalid value for '([^' ]+)[^']*': Input should be a valid (integer|number)", text)
    if not found:
        return text
    option, kind = found[1], {"integer": "a whole number", "number": "a number"}[found[2]]
    typed = [after for word, after in itertools.pairwise(words) if word == option]
    typed += [word.removeprefix(f"{option}=") for word in words if word.startswith(f"{option}=")]
    return f"{option} must be {kind}{f', got {typed[-1]!r}' if typed else ''}"


def _heed_limits() -> None:
    """Sees to it that a file that grows too far, and too little memory to load torch, end in a sentence."""
    if sys.platform == "win32":
        return  # it has no such limits
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Libraries of torch that cannot be loaded end the process without a word.
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    least = min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=LEAST_MEMORY)
    if least < LEAST_MEMORY:
        raise MemoryError(
            f"the process is limited to {least / 1e9:.2g} GB (ulimit -v or -d), and loading torch takes up to "
            f"{LEAST_MEMORY / 1e9:g} GB; raise the limit"
        )


def _flush() -> None:
    """Says at once, not when Python ends, that standard output takes no more."""
    try:
        if sys.stdout is not None:  # as it is where it was closed
            sys.stdout.flush()
    except OSError:
        # What is left in it would be tried once more.
        sys.stdout = io.StringIO()
        raise


def bug_report(error: BaseException) -> str:
    """Write the traceback of a bug to a file, and say so in a sentence that names the file."""
    lines = [f"command: {shlex.join(sys.argv)}", f"python: {sys.version}", *_versions(), ""]
    text = "\n".join(lines) + "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="basinscope-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
        advice = f"please report it with the file {file.name}"
    except OSError:
        advice = "please report it with what --debug prints"
    reason = " ".join(str(error).split())[:200]
    return f"this is a bug of basinscope, not a fault of your input: {type(error).__name__}: {reason}; {advice}"


def _versions() -> list[str]:
    names = ("basinscope", "torch", "numpy", "scipy", "h5py", "transformers")
    found = {one.metadata["Name"]: one.version for one in metadata.distributions() if one.metadata["Name"] in names}
    return [f"{name}: {found[name]}" for name in names if name in found]


def sentence(error: BaseException, less: str = "smaller batches of data") -> str:
    """What an error says, on one line, with the file of an error of the system, or ``less`` to use if memory ran out.

    >>> sentence(FileNotFoundError(2, "No such file or directory", "model.pt"))
    'model.pt: No such file or directory'
    """
    if isinstance(error, TyperException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        # Files of basinscope's own are written in one place, which names them.
        place = "standard output" if error.errno in _FULL and not error.strerror.startswith("cannot") else ""
        place = str(error.filename or place)
        text = f"{place}: {error.strerror}" if place else error.strerror
    elif out_of_memory(error):
        found = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        wanted = f" for a tensor of {found[1]}" if found else ""
        text = f"not enough memory{wanted}: use {less}"
    elif isinstance(error, MemoryError):
        text = f"not enough memory: {error}" if str(error) else "not enough memory"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
