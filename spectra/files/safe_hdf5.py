"""HDF5 files that hold their data themselves: checked before anything is read, for HDF5 trusts what a file says.

A flipped bit may send HDF5 round in circles for ever, a link or a virtual dataset shows what lies in other files, and a
few bytes may declare gigabytes. So the digest that basinscope puts at the end is looked at first, a file without one is
tried in another process, and links, foreign storage and what declares too much are refused.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import h5py
import numpy as np

from spectra.errors import UserError

if sys.platform != "win32":
    import fcntl

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Follows the HDF5 part, which knows its own length, so that other readers do not mind: 32 bytes of SHA-256 come after.
TRAILER = b"\nbasinscope SHA-256 of all before this line: "
DIGEST_BYTES = hashlib.sha256().digest_size
# Where the superblock has the end of the HDF5 part, by its version; 8 bytes, least one first.
_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}
_SUPERBLOCK = 52
# Declared bytes that are read at most: so many, and so many a byte of the file.
_SPARE, _RATIO = 2**26, 100
# Deflate, shuffle and a checksum: any other filter is a library of its own.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_DATA = {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM}
_TEXTS_AT_ONCE = 256
# Seconds for a file without a digest, and bytes that are followed in another one.
_PATIENCE, _BYTES_A_SECOND = 60.0, 5e6
_TRIAL = "import sys; from spectra.files.safe_hdf5 import try_all; try_all(sys.stdin.buffer)"
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, ArithmeticError)


@contextmanager
def plain_hdf5(file: BufferedReader, what: str = "an HDF5", *, trial: bool = True) -> Iterator[h5py.File]:
    """The HDF5 file that an open file holds, after all checks.

    Args:
        file: open, at its beginning.
        what: the kind of file that is wanted, for the message on one that is no HDF5 at all.
        trial: whether a file without a digest is tried in another process first.

    Yields:
        The file, for reading.

    Raises:
        UserError: if it is no HDF5, truncated, damaged, held by a program that writes to it, or not plain.
    """
    held = UserError("is open for writing in another program: close it there and try again")
    try:
        digested = _check_end(file, what)
    except UserError as refusal:
        raise held if _is_written(file) else refusal from None
    if not digested:
        if _is_written(file):
            raise held
        if trial:
            _try_elsewhere(file)
    try:
        opened = h5py.File(file, "r")
    except HDF5_ERRORS as error:
        raise UserError(f"is truncated or damaged: HDF5 cannot open it ({_first_words(error)})") from error
    with opened:
        check_plain(opened, os.fstat(file.fileno()).st_size)
        yield opened


def _check_end(file: BufferedReader, what: str) -> bool:
    """Whether a digest follows the HDF5 part; refuses one that differs, and a file that ends too soon."""
    size, start = os.fstat(file.fileno()).st_size, file.read(_SUPERBLOCK)
    if not start.startswith(SIGNATURE):
        found = f"starts with {start[:8]!r}" if start else "is empty"
        raise UserError(f"is not {what} file: expected HDF5, but it {found}")
    if len(start) < _SUPERBLOCK:
        raise UserError(f"is a truncated or damaged HDF5 file: {size} bytes are there")
    place = _END_AT.get(start[8])
    if place is None:
        raise UserError(f"is damaged, or of a version of HDF5 that is not read (its superblock says {start[8]})")
    end = int.from_bytes(start[place : place + 8], "little")
    if size < end:
        whole = end + len(TRAILER) + DIGEST_BYTES
        raise UserError(f"is a truncated or damaged HDF5 file: {size} of its {whole} bytes are there")
    file.seek(end)
    rest = file.read(len(TRAILER) + DIGEST_BYTES + 1)
    file.seek(0)
    if not rest:
        return False
    digest, left = hashlib.sha256(), end
    while left > 0 and (part := file.read(min(left, 2**20))):
        digest.update(part)
        left -= len(part)
    file.seek(0)
    if rest != TRAILER + digest.digest():
        raise UserError("is damaged: its content is not what was written (the digest at its end differs)")
    return True


def _is_written(file: BufferedReader) -> bool:
    """Whether a program has the file open for writing, and has locked it as HDF5 does: readers share a lock there."""
    if sys.platform == "win32":
        return False  # such a file cannot be opened there at all
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _try_elsewhere(file: BufferedReader) -> None:
    """Reads all of a file in another process, which may be ended where HDF5 does not."""
    patience = _PATIENCE + os.fstat(file.fileno()).st_size / _BYTES_A_SECOND
    path = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=patience,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"is damaged: reading it had not ended after {patience:.0f} seconds") from None
    finally:
        file.seek(0)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise UserError(said[0].partition("UserError: ")[2] if said and "UserError: " in said[0] else "is damaged")


def try_all(file: BufferedReader) -> None:
    """Read everything of an HDF5 file that is plain, and keep nothing of it; one that is damaged is refused."""
    try:
        with h5py.File(file, "r") as opened:
            check_plain(opened, os.fstat(file.fileno()).st_size)
            for item in _objects(opened):
                dict(item.attrs)
                if isinstance(item, h5py.Dataset):
                    item[()]
    except HDF5_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"is damaged: its parts cannot be read ({_first_words(error)})") from error


def check_plain(opened: h5py.File, size: int) -> None:
    """Refuse a file of ``size`` bytes that does not hold all of its data itself, or declares far more than it has."""
    left = most = _SPARE + _RATIO * size
    try:
        for item in _objects(opened):
            if isinstance(item, h5py.Dataset):
                _check_storage(item)
                left -= (item.size or 0) * item.dtype.itemsize + _text_bytes(item, left)
            if left < 0:
                raise UserError(f"declares more than {most:,} bytes of data in a file of {size:,}: it is damaged")
    except HDF5_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"is damaged: its structure cannot be followed ({_first_words(error)})") from error


def _objects(opened: h5py.File) -> Iterator[Any]:
    """Every group and dataset once, in spite of groups that hold one another; links are refused."""
    waiting, met = [opened["/"]], set()
    while waiting:
        item = waiting.pop()
        place = h5py.h5o.get_info(item.id).addr
        if place in met:
            continue
        met.add(place)
        yield item
        if isinstance(item, h5py.Group):
            for name in item:
                if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                    raise UserError(f"has a link to another place ({name[:80]!r}), which is never followed")
                waiting.append(item[name])
        elif not isinstance(item, h5py.Dataset):
            raise UserError("holds something that is neither a group nor an array")


def _check_storage(item: h5py.Dataset) -> None:
    plan, name = item.id.get_create_plist(), item.name[:80]
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise UserError(f"has an array whose data lie in other files ({name!r}), which are never opened")
    if any(plan.get_filter(number)[0] not in _FILTERS for number in range(plan.get_nfilters())):
        raise UserError(f"has an array ({name!r}) packed by a filter that is not read: use gzip")
    if item.id.get_type().get_class() not in _DATA:
        raise UserError(f"has an array ({name!r}) that does not consist of numbers or texts")


def _text_bytes(item: h5py.Dataset, most: int) -> int:
    """Bytes of texts of any length, of which many may be one and the same in the file; not counted far beyond most."""
    if item.dtype.kind != "O" or not item.size:
        return 0
    if not item.shape:
        return len(item[()])
    count = 0
    for row in np.ndindex(*item.shape[:-1]):
        for start in range(0, item.shape[-1], _TEXTS_AT_ONCE):
            count += sum(map(len, item[(*row, slice(start, start + _TEXTS_AT_ONCE))]))
            if count > most:
                return count
    return count


def _first_words(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:120]
