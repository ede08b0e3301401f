"""HDF5 files of basinscope: made in memory, and opened unless truncated, damaged, foreign or newer."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from spectra.errors import UserError
from spectra.files.regular import about, open_regular
from spectra.files.safe_hdf5 import HDF5_ERRORS, SIGNATURE, TRAILER, plain_hdf5

# The HDF5 1.8 file format: unlike the oldest one it takes attributes beyond 64 KB (parameter names of large
# models), and any reader of the last fifteen years opens it.
LIBRARY_VERSIONS = ("v108", "v108")


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
    """Whether a file is an HDF5 file that says it holds this kind of result.

    Args:
        path: the file.
        kind: what its attribute ``format`` is then.

    Returns:
        False for a file that is no HDF5, and where there is none.

    Raises:
        UserError: if it is HDF5 and cannot be read: truncated, damaged, held by a program that writes to it, or not
            holding its data itself.
    """
    if not Path(path).is_file():
        return False
    with open_regular(path) as file, about(path):
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return False
        file.seek(0)
        with plain_hdf5(file) as found:
            return str(_attribute(found, "format")) == kind


def _attribute(file: h5py.File, name: str) -> Any:
    try:
        return file.attrs.get(name)
    except HDF5_ERRORS as error:
        raise UserError(f"is damaged: its attributes cannot be read ({str(error)[:80]})") from error


@contextmanager
def opened(path: str | Path, kind: str, version: int) -> Iterator[h5py.File]:
    """Open an HDF5 file of basinscope for reading.

    Args:
        path: the file.
        kind: what its attribute ``format`` must be.
        version: the newest ``format_version`` that the caller reads.

    Yields:
        The open file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is truncated, no HDF5, of another kind, of a newer version, damaged inside, held by a program
            that writes to it, or does not hold its data itself.
    """
    with open_regular(path) as file, about(path), plain_hdf5(file, f"a {kind}") as found:
        try:
            _check_format(found, kind, version)
            yield found
        except UserError:
            raise
        except HDF5_ERRORS as error:
            words = str(error.args[0] if error.args else type(error).__name__)[:200]
            raise UserError(f"is damaged and cannot be read as a {kind}: {words}") from error


def _check_format(file: h5py.File, kind: str, version: int) -> None:
    found, number = _attribute(file, "format"), _attribute(file, "format_version")
    if not isinstance(found, str) or found != kind:
        holds = ", ".join(name[:40] for name in list(file)[:4]) or "nothing"
        what = f"a {found[:80]}" if isinstance(found, str) else f"a file without our format mark, holding {holds}"
        raise UserError(f"is not a {kind} file: found {what}")
    if not isinstance(number, np.integer | int):
        raise UserError(f"is damaged: its format_version is {str(number)[:80]}")
    if number > version:
        raise UserError(
            f"has {kind} format version {number}, newer than version {version}, the newest that "
            "this basinscope reads; update basinscope"
        )
