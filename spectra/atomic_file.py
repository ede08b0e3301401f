"""Files that are whole at every moment: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from pathlib import Path

from spectra.errors import UserError


def replace_file(path: str | Path, content: bytes) -> None:
    """Put ``content`` in the place of a file, so that a kill at any moment leaves the old or the new one.

    A temporary file in the same folder is written, flushed to the disk and renamed, and the folder flushed.
    Temporary files that killed writers of this file left behind are removed first.

    Args:
        path: the file; a symbolic link is followed, so the file it points to is replaced.
        content: all of its bytes.

    Raises:
        OSError: if it cannot be written (a full disk, no permission, no such folder); what was there before
            is untouched then, and the temporary file is gone.
        UserError: if something that is not a regular file, such as a folder or a device, is in its place.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "greeting"
    >>> replace_file(file, b"hello")
    >>> file.read_bytes(), len(list(file.parent.iterdir()))
    (b'hello', 1)
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is not a regular file, so it cannot be written")
    remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            # Held until the file is in place or this process dies: it tells leftovers from work in progress.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            state = "the file that was there is intact" if target.exists() else "no file was left behind"
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}; {state}") from error
        raise
    _flush_folder(target.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of a file left behind; files that a living writer holds are kept.

    Args:
        path: the file whose temporary files are meant.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), open(leftover, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            leftover.unlink()


def _flush_folder(folder: Path) -> None:
    # Some network file systems refuse to flush a folder; the file is in place all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
