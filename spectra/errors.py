"""Mistakes of the user, and errors of the user's code, told apart from mistakes of this program."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Words by which torch's allocators, of the processor and of devices, say in a RuntimeError that memory ran out, and the
# system in an ImportError that a library found no room.
_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
    "bad_alloc",
    "failed to map segment",
    "annot allocate memory",
)
# What torch raises where a model cannot take a fast path (vmap, recording, linearize), and where the model itself
# fails under one; a slower path is then taken.
FAST_PATH_FAILURES = (RuntimeError, ValueError, TypeError)
_MOST_WORDS = 300
# Of signed integers of 64 bits, as generators and files hold them.
LARGEST = 2**63 - 1


class UserError(ValueError):
    """What was asked for is not possible; the message names what was given, what is allowed and the way out.

    The command line shows the message as one sentence. Any other exception is a bug and shown as one.
    """


def require_counts(named: object, least: Mapping[str, int]) -> None:
    """Refuse attributes that are below their least count, or above what any generator or store can take (2^63 - 1)."""
    for name, low in least.items():
        value = getattr(named, name)
        if value < low:
            raise UserError(f"{name} must be at least {low}, got {value}")
        if value > LARGEST:
            raise UserError(f"{name} must be at most {LARGEST}, got {value}")


class UserTypeError(UserError, TypeError):
    """An argument has the wrong type; the message names the type that is needed."""


class ForeignError(UserError):
    """Code of the user (a model, a cost, a task, a data set) raised an error; the message says what and where."""


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Turn whatever the user's own code raises into a sentence that names the code, the error and the place.

    This is the one place that catches every exception: what a user's code raises cannot be known.

    Raises:
        ForeignError: in place of what the code raised, ``SystemExit`` and exceptions of its own kind too.
        UserError: as it came.
        MemoryError: as it came, and for torch's lack of memory.
        KeyboardInterrupt: as it came.

    >>> with foreign("the model"):
    ...     {}["weight"]
    Traceback (most recent call last):
        ...
    spectra.errors.ForeignError: the model raised KeyError: 'weight'
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        message = " ".join(str(error).split())[:_MOST_WORDS]
        place = _place(error)
        raise ForeignError(
            f"{what} raised {type(error).__name__}{f': {message}' if message else ''}{f' ({place})' if place else ''}"
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory ran out; it has no one exception for that.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    return isinstance(error, RuntimeError | MemoryError | ImportError) and any(words in str(error) for words in _MEMORY)


def _place(error: BaseException) -> str:
    """File and line of the last call in code that is neither ours nor a library's; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.suffix == ".py" and not is_library(path):
            return f"{path.name}, line {frame.lineno}"
    return ""


def is_library(path: Path) -> bool:
    """Whether a file is of this program, of Python or of an installed library, and so not the user's own."""
    here = Path(__file__).resolve().parent
    libraries = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = {here.parent / name for name in ("spectra", "volume", "comparisons", "basinscope")}
    real = path.resolve()
    return any(folder in real.parents for folder in libraries | ours | {Path(sys.prefix).resolve() / "lib"})
