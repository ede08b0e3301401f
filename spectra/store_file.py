"""HDF5 files of ours: made in memory, and opened unless truncated, damaged, foreign or newer."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from spectra.errors import UserError

# The HDF5 1.8 file format: unlike the oldest one it takes attributes beyond 64 KB (parameter names of large
# models), and any reader of the last fifteen years opens it.
LIBRARY_VERSIONS = ("v108", "v108")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Follows the HDF5 part, which knows its own length, so that other readers do not mind: 32 bytes of SHA-256 come after.
# HDF5 itself notices few flipped bytes, and some send it round in circles for ever.
TRAILER = b"\nbasinscope SHA-256 of all before this line: "
DIGEST_BYTES = hashlib.sha256().digest_size


def hdf5_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file made in memory.

    HDF5 writes its parts in an order of its own and fails badly on a full disk, so no file is ever written by
    it: the image is complete before the first byte goes to the disk.

    Args:
        fill: puts the content into the open file.

    Returns:
        The whole file, its digest at the end.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver=LIBRARY_VERSIONS) as file:
        fill(file)
    content = image.getvalue()
    return content + TRAILER + hashlib.sha256(content).digest()


def add_dimension(group: h5py.Group, name: str, length: int, long_name: str) -> None:
    """Add a dimension scale that numbers the entries of a dimension from zero."""
    scale = group.create_dataset(name, data=np.arange(length, dtype=np.int64))
    scale.make_scale(name)
    scale.attrs["long_name"] = long_name
    scale.attrs["units"] = "1"


def add_array(
    group: h5py.Group, name: str, data: ArrayLike, dimensions: tuple[str, ...], long_name: str, units: str
) -> None:
    """Add an array whose axes are named by dimension scales of the same group."""
    dataset = group.create_dataset(name, data=data)
    for axis, dimension in enumerate(dimensions):
        dataset.dims[axis].attach_scale(group[dimension])
    dataset.attrs["long_name"] = long_name
    dataset.attrs["units"] = units


def texts(values: tuple[str, ...]) -> object:
    """Texts as an HDF5 attribute: an array of them, or its empty counterpart."""
    return np.array(values, dtype=h5py.string_dtype()) if values else h5py.Empty(h5py.string_dtype())


def read_texts(value: object) -> tuple[str, ...]:
    """The texts of an attribute made by :func:`texts`."""
    if isinstance(value, h5py.Empty):
        return ()
    return tuple(str(entry) for entry in np.atleast_1d(np.asarray(value, dtype=object)))


def plain(value: Any) -> Any:
    """A number of numpy's, as attributes are read, as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def has_format(path: str | Path, kind: str) -> bool:
    """Whether a file is an HDF5 file that says it holds this kind of result; anything unreadable is none.

    Args:
        path: the file.
        kind: what its attribute ``format`` is then.

    Returns:
        False too where there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as plain:
        if plain.read(len(SIGNATURE)) != SIGNATURE:
            return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            return bool(file.attrs.get("format") == kind)
    except (OSError, RuntimeError, KeyError, TypeError):
        return False


@contextmanager
def opened(path: str | Path, kind: str, version: int) -> Iterator[h5py.File]:
    """Open an HDF5 file of ours for reading.

    Args:
        path: the file.
        kind: what its attribute ``format`` must be.
        version: the newest ``format_version`` that the caller reads.

    Yields:
        The open file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, no HDF5, of another kind, of a newer version or damaged inside.
    """
    path = Path(path)
    file = _open(path, kind)
    with file:
        _check_format(file, path, kind, version)
        try:
            yield file
        except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            found = error.args[0] if error.args else type(error).__name__
            raise UserError(f"{path} is damaged and cannot be read as a {kind}: {found}") from error


def _open(path: Path, kind: str) -> h5py.File:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a {kind} file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with path.open("rb") as plain:
        start, size = plain.read(len(SIGNATURE)), path.stat().st_size
    if start != SIGNATURE:
        found = f"starts with {start!r}" if start else "is empty"
        raise UserError(f"{path} is not a {kind} file: expected HDF5, but it {found}")
    _check_digest(path, size)
    try:
        # No lock is needed: files are replaced whole, never changed in place.
        return h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError) as error:
        stored = re.search(r"stored_eof = (\d+)", str(error))
        # HDF5 knows the length of its own part.
        whole = int(stored[1]) + len(TRAILER) + DIGEST_BYTES if stored else 0
        found = f"{size} of its {whole} bytes are there" if stored else f"{size} bytes, {error}"
        raise UserError(f"{path} is a truncated or damaged HDF5 file: {found}") from error


def _check_digest(path: Path, size: int) -> None:
    """Refuses a file whose content is not what was written; one that was cut, or is not ours, has no digest."""
    length = size - len(TRAILER) - DIGEST_BYTES
    with path.open("rb") as plain:
        plain.seek(max(length, 0))
        if plain.read(len(TRAILER)) != TRAILER:
            return
        expected, digest = plain.read(), hashlib.sha256()
        plain.seek(0)
        while length > 0 and (part := plain.read(min(length, 2**20))):
            digest.update(part)
            length -= len(part)
    if digest.digest() != expected:
        raise UserError(f"{path} is damaged: its content is not what was written (the digest at its end differs)")


def _check_format(file: h5py.File, path: Path, kind: str, version: int) -> None:
    try:
        found, number = file.attrs.get("format"), file.attrs.get("format_version")
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: its attributes cannot be read: {error}") from error
    if not isinstance(found, str) or found != kind:
        holds = ", ".join(list(file)[:4]) or "nothing"
        what = f"a {found}" if isinstance(found, str) else f"a file without our format mark, holding {holds}"
        raise UserError(f"{path} is not a {kind} file: found {what}")
    if not isinstance(number, np.integer | int):
        raise UserError(f"{path} is damaged: its format_version is {number!r}")
    if number > version:
        raise UserError(
            f"{path} has {kind} format version {number}, newer than version {version}, the newest that "
            "this basinscope reads; update basinscope"
        )
