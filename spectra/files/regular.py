"""Files that somebody else made: opened only where they are regular files, and read up to a bound."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from spectra.errors import UserError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; a named pipe or a device, which may never end, is refused at once.

    Args:
        path: the file; a symbolic link is followed.

    Returns:
        The open file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no regular file.
        OSError: if it cannot be opened.
    """
    try:
        _check(path, os.stat(path).st_mode)
        # Without O_NONBLOCK a pipe that takes the file's place just now would be waited for; Windows has no such pipes,
        # but texts, which have other ends of lines.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    file = os.fdopen(descriptor, "rb")
    try:
        _check(path, os.fstat(descriptor).st_mode)
    except UserError:
        file.close()
        raise
    return file


def check_regular(path: str | Path) -> None:
    """Refuse what ``open_regular`` refuses, before a library opens the file by its name.

    Args:
        path: the file.
    """
    open_regular(path).close()


def read_whole(path: str | Path, most: int, what: str) -> bytes:
    """All bytes of a regular file, unless there are too many.

    Args:
        path: the file.
        most: number of bytes that are read at most.
        what: the kind of file, for the message.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is no regular file, or larger.
        OSError: if it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # A file may grow while it is read.
        content = b"" if size > most else file.read(most + 1)
    if max(size, len(content)) > most:
        raise UserError(f"{path} has {size:,} bytes, more than {what} may have ({most:,})")
    return content


@contextmanager
def about(path: str | Path) -> Iterator[None]:
    """Puts a file's name before what is said of it.

    Args:
        path: the file.

    Yields:
        Nothing.

    Raises:
        UserError: of the same kind, its sentence begun with the name.

    >>> with about("model.pt"):
    ...     raise UserError("is empty")
    Traceback (most recent call last):
        ...
    spectra.errors.UserError: model.pt is empty
    """
    try:
        yield
    except UserError as refusal:
        raise type(refusal)(f"{path} {refusal}") from refusal


def _check(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in _KINDS if test(mode)), "something else")
        raise UserError(f"{path} is {kind}, not a regular file: name a file, or write the content to one first")
