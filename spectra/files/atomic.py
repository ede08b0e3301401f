"""Files that are whole at every moment: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from pathlib import Path

from filelock import lock_descriptor

from spectra.errors import UserError
from spectra.files.lock import hidden_name, writing_rights

# Seconds that a write waits for another write of the same file.
_PATIENCE = 30.0


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
    temporary = hidden_name(target, f"{secrets.token_hex(6)}.tmp")
    try:
        # Whoever reads the file is never held up: what is locked is another file beside it.
        with writing_rights(path, patience=_PATIENCE):
            remove_leftovers(target)
            try:
                with open(temporary, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        state = "the file that was there is intact" if target.exists() else "no file was left behind"
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}; {state}") from error
    _flush_folder(target.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of a file left behind; for who has the right to write it, so that none is alive."""
    for leftover in path.parent.glob(f"{glob.escape(hidden_name(path, '').name)}*.tmp"):
        # Where a file system has no locks the right says nothing, and nothing is removed.
        with contextlib.suppress(OSError), open(leftover, "rb") as file:
            if lock_descriptor(file.fileno(), blocking=False):
                leftover.unlink()


def _flush_folder(folder: Path) -> None:
    # Some network file systems refuse to flush a folder; the file is in place all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
