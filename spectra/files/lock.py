"""The right to write a file: one run at a time has it, and what a killed run had of it is free again at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from filelock import lock_descriptor

from spectra.errors import UserError

# Bytes of a file's name that go into the names of the files beside it, which are longer; file systems take 255.
_LONGEST = 100
_POLL = 0.01


class _Right:
    """What this process knows of a file's right: the system's locks do not tell one thread from another."""

    def __init__(self) -> None:
        self.thread, self.depth = threading.RLock(), 0


_RIGHTS: dict[Path, _Right] = {}
_GUARD = threading.Lock()
_HELD: set[int] = set()


def _close_held() -> None:
    """A child that was forked has its parent's descriptors, and would keep the locks of a parent that is killed."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):  # where processes are forked at all
    os.register_at_fork(after_in_child=_close_held)


def hidden_name(path: Path, ending: str) -> Path:
    """A hidden file beside a file, for what belongs to it; a long name is represented by its digest.

    >>> hidden_name(Path("out/s.h5"), "lock")
    PosixPath('out/.s.h5.lock')
    """
    name = os.fsencode(path.name)
    short = path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()[:32]
    return path.with_name(f".{short}.{ending}")


@contextmanager
def writing_rights(path: str | Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the right to write a file, so that no other run writes it meanwhile; readers are not held up.

    A thread that holds it may ask for it again.

    Args:
        path: the file; it need not exist, but its folder must. A symbolic link stands for the file it points to.
        patience: seconds to wait for another writer.

    Yields:
        Nothing.

    Raises:
        UserError: if another run holds it.
        OSError: if nothing can be written beside the file.
    """
    target = Path(os.path.realpath(path))
    with _GUARD:
        right = _RIGHTS.setdefault(target, _Right())
    if not right.thread.acquire(timeout=patience):
        _refuse(path, "another thread of this program")
    try:
        with contextlib.nullcontext() if right.depth else _file_lock(path, hidden_name(target, "lock"), patience):
            right.depth += 1
            try:
                yield
            finally:
                right.depth -= 1
    finally:
        right.thread.release()


@contextmanager
def _file_lock(path: str | Path, lock: Path, patience: float) -> Iterator[None]:
    """The lock between processes: a hidden file, which the system unlocks when its holder dies."""
    until = time.monotonic() + patience
    while (descriptor := _locked(lock)) is None:
        if time.monotonic() >= until:
            with contextlib.suppress(OSError):
                _refuse(path, f"another run (process {lock.read_text(encoding='ascii')[:20] or 'unknown'})")
            _refuse(path, "another run")
        time.sleep(_POLL)
    _HELD.add(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        _HELD.discard(descriptor)
        os.close(descriptor)


def _locked(lock: Path) -> int | None:
    """A descriptor of the locked file; None if another process has it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Whoever had it may have removed the file between the opening and the lock.
        if lock_descriptor(descriptor, blocking=False) and os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            os.ftruncate(descriptor, 0)  # the number of a killed run may be longer
            os.write(descriptor, str(os.getpid()).encode("ascii"))
            return descriptor
    except FileNotFoundError:
        pass
    except OSError:
        return descriptor  # a file system without locks, or without room for a few bytes
    os.close(descriptor)
    return None


def _refuse(path: str | Path, by: str) -> NoReturn:
    raise UserError(f"{path} is being written by {by}: wait until that has ended, or choose another file")
