"""HDF5 files of basinscope: made in memory, and opened unless truncated, damaged, foreign or newer."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py
import numpy as np

from spectra.errors import UserError
from spectra.files.atomic import replace_file
from spectra.files.regular import about, open_regular
from spectra.files.safe_hdf5 import HDF5_ERRORS, SIGNATURE, TRAILER, plain_hdf5
from spectra.timing import WRITING, phase

T = TypeVar("T")
# The HDF5 1.8 file format: unlike the oldest one it takes attributes beyond 64 KB (parameter names of large
# models), and any reader of the last fifteen years opens it.
LIBRARY_VERSIONS = ("v108", "v108")


def hdf5_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file made in memory.

    HDF5 writes its parts in an order of its own and fails badly on a full disk, so no file is ever written by it: the
    image is complete before the first byte goes to the disk.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver=LIBRARY_VERSIONS) as file:
        fill(file)
    content = image.getvalue()
    return content + TRAILER + hashlib.sha256(content).digest()


@dataclass(frozen=True)
class ResultFile(Generic[T]):
    """One kind of result file: how it is written, and how it is read once it has passed all checks.

    Attributes:
        kind: what its attribute ``format`` says.
        version: the newest ``format_version`` that is read, and the one that is written.
        fill: puts a result into an empty file.
        build: makes a result of an open file; what it does not find there makes the file damaged.
    """

    kind: str
    version: int
    fill: Callable[[h5py.File, T], None]
    build: Callable[[h5py.File], T]

    @phase(WRITING)
    def write(self, path: str | Path, result: T) -> None:
        """Write a result to an HDF5 file, replacing what is there in one step; arrays go in bit for bit.

        Args:
            path: the file.
            result: what is done so far.

        Raises:
            OSError: if the file cannot be written; what was there before is intact.
        """

        def fill(file: h5py.File) -> None:
            file.attrs["format"], file.attrs["format_version"] = self.kind, self.version
            self.fill(file, result)

        replace_file(path, hdf5_image(fill))

    def read(self, path: str | Path) -> T:
        """Read a result from an HDF5 file.

        Args:
            path: the file.

        Returns:
            The result, with what it was made from.

        Raises:
            FileNotFoundError: if there is no such file.
            UserError: if it is truncated, no HDF5, of another kind, newer than this code, damaged inside, held by a
                program that writes to it, or does not hold its data itself; the sentence says which.
        """
        with open_regular(path) as file, about(path), plain_hdf5(file, f"a {self.kind}") as found:
            try:
                self._check_format(found)
                return self.build(found)
            except UserError:
                raise
            except HDF5_ERRORS as error:
                words = str(error.args[0] if error.args else type(error).__name__)[:200]
                raise UserError(f"is damaged and cannot be read as a {self.kind}: {words}") from error

    def holds(self, path: str | Path) -> bool:
        """Whether a file says that it holds this kind of result; one that is there and cannot be read is refused."""
        return format_of(path) == self.kind

    def _check_format(self, file: h5py.File) -> None:
        found, number = _attribute(file, "format"), _attribute(file, "format_version")
        if not isinstance(found, str) or found != self.kind:
            holds = ", ".join(name[:40] for name in list(file)[:4]) or "nothing"
            what = f"a {found[:80]}" if isinstance(found, str) else f"a file without our format mark, holding {holds}"
            raise UserError(f"is not a {self.kind} file: found {what}")
        if not isinstance(number, np.integer | int):
            raise UserError(f"is damaged: its format_version is {str(number)[:80]}")
        if number > self.version:
            raise UserError(
                f"has {self.kind} format version {number}, newer than version {self.version}, the newest that "
                "this basinscope reads; update basinscope"
            )


def format_of(path: str | Path) -> str:
    """What a file says that it holds, such as ``basinscope spectrum``.

    Args:
        path: the file.

    Returns:
        Its attribute ``format``; nothing of a file that is no HDF5, and where there is none.

    Raises:
        UserError: if it is HDF5 and cannot be read: truncated, damaged, held by a program that writes to it, or not
            holding its data itself.
    """
    if not Path(path).is_file():
        return ""
    with open_regular(path) as file, about(path):
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return ""
        file.seek(0)
        with plain_hdf5(file) as found:
            return str(_attribute(found, "format"))


def _attribute(file: h5py.File, name: str) -> Any:
    try:
        return file.attrs.get(name)
    except HDF5_ERRORS as error:
        raise UserError(f"is damaged: its attributes cannot be read ({str(error)[:80]})") from error
