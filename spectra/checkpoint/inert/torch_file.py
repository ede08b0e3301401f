"""What torch.save wrote, as a zip archive or in the old format, read without torch's unpickler: nothing in it runs."""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
import zlib
from functools import cache
from io import SEEK_END, BufferedReader, BytesIO
from typing import Any

import torch
from torch import Tensor

from spectra.checkpoint.inert.pickles import read_pickle
from spectra.checkpoint.inert.tensors import TORCH, Storage
from spectra.errors import UserError

# What the old format begins with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_DAMAGE = (zipfile.BadZipFile, struct.error, ArithmeticError, LookupError, NotImplementedError, ValueError, TypeError)
UNCHECKED = "has no checksum, so damage to its numbers would not be noticed"


def read_torch(
    file: BufferedReader | BytesIO, *, mapped: bool = False, named: set[str] | None = None
) -> tuple[Any, str]:
    """The content of a file that torch.save wrote, and in words how far damage would have been noticed.

    Tensors are on the CPU; those of a kind that is not read (quantised, sparse, without numbers) and instances of
    classes are ``Opaque``.

    Args:
        file: the open file.
        mapped: whether tensors stay in the file until they are used, where that can be.
        named: as of ``read_pickle``: no call is refused, and the names of foreign code go in here.

    Returns:
        Both.

    Raises:
        UserError: if the file is truncated, damaged, TorchScript, of another program, or calls pickled code.
    """
    try:
        if file.read(2) == b"PK":
            return _read_archive(file, mapped=mapped, named=named)
        file.seek(0)
        return _read_old(file, named), f"torch's old format {UNCHECKED}"
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(f"is truncated or damaged: torch's format cannot be followed ({error})") from error


def _read_archive(file: BufferedReader | BytesIO, *, mapped: bool, named: set[str] | None) -> tuple[Any, str]:
    if not zipfile.is_zipfile(file):
        raise UserError("is truncated: its archive has no end")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    lasts = [name.rpartition("/")[2] for name in names]
    if "constants.pkl" in lasts:
        raise UserError("is a TorchScript archive, which holds code: save a state_dict instead")
    if "data.pkl" not in lasts:
        raise UserError("is not a checkpoint: a zip archive that torch.save did not write")
    if lasts.count("data.pkl") > 1 or len(set(names)) < len(names):
        raise UserError("is damaged: its archive has a part twice, so it cannot be told which one counts")
    root = names[lasts.index("data.pkl")].removesuffix("data.pkl")
    parts = _Parts(file, {entry.filename.removeprefix(root): entry for entry in entries}, mapped=mapped)
    if "byteorder" in parts.entries and bytes(parts.read("byteorder")) != b"little":
        raise UserError("is of a machine of another byte order: save it there as safetensors")

    @cache
    def numbers(key: str) -> Tensor:
        found = parts.read(f"data/{key}")
        return torch.frombuffer(found, dtype=torch.uint8) if len(found) else torch.empty(0, dtype=torch.uint8)

    def outside(identifier: Any) -> Any:
        _, kind, key, _, count = identifier
        return Storage(kind, count, lambda: numbers(_name(key)))

    content = bytes(parts.read("data.pkl"))
    found = read_pickle(BytesIO(content), len(content), stand_ins=TORCH, outside=outside, named=named)
    return found, "the CRC-32 of every part was verified" if parts.checked else f"its archive {UNCHECKED}"


def _size(file: BufferedReader | BytesIO) -> int:
    here = file.tell()
    size = file.seek(0, SEEK_END)
    file.seek(here)
    return size


class _Parts:
    """The parts of an archive, as they lie in the file; each is held against its checksum."""

    def __init__(self, file: BufferedReader | BytesIO, entries: dict[str, zipfile.ZipInfo], *, mapped: bool) -> None:
        self.file, self.entries = file, entries
        # torch can be told to leave checksums out, and then all of them are zero.
        self.checked = any(entry.CRC for entry in entries.values())
        self.left = _size(file)
        self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if mapped else None

    def read(self, name: str) -> Any:
        """The bytes of a part."""
        entry = self.entries.get(name)
        if entry is None:
            raise UserError(f"is damaged: it lacks its part {name[:80]}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise UserError(
                "is an archive that was packed anew: torch.save does not compress its parts, so save it again"
            )
        self.left -= entry.file_size
        if self.left < 0:
            raise UserError("is truncated or damaged: its parts have more bytes than the file")
        found = self._bytes(entry)
        if self.checked and zlib.crc32(found) != entry.CRC:
            raise UserError(f"is damaged: the checksum of its part {name[:80]} is not that of its bytes")
        return found

    def _bytes(self, entry: zipfile.ZipInfo) -> Any:
        self.file.seek(max(entry.header_offset, 0))
        signature, *_, name, extra = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04" or entry.header_offset < 0:
            raise UserError("is damaged: a part of its archive is not where it should be")
        start, size = entry.header_offset + _LOCAL_HEADER.size + name + extra, entry.file_size
        if self.map is not None:
            mapped = memoryview(self.map)[start : start + size]
            if len(mapped) == size:
                return mapped
        else:
            found = bytearray(size)
            self.file.seek(start)
            if self.file.readinto(found) == size:
                return found
        raise UserError("is truncated: a part of its archive ends too soon")


class _Clamped:
    """A file of which no more is asked for than it has, whatever length a damaged pickle states."""

    def __init__(self, file: BufferedReader | BytesIO) -> None:
        self.file, self.size = file, _size(file)
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int, /) -> bytes:
        return self.file.read(min(count, max(0, self.size - self.file.tell())))

    def pickle(self, **options: Any) -> Any:
        return read_pickle(self, self.size, **options)


def _name(key: Any) -> Any:
    if not isinstance(key, str | bytes):
        raise UserError("is damaged: the name of a storage is no text")
    return key


def _read_old(file: BufferedReader | BytesIO, named: set[str] | None) -> Any:
    """Pickles one after the other, the fourth of which holds the content, and then the numbers of all storages."""
    source = _Clamped(file)
    if source.pickle() != _MAGIC:
        raise UserError("is not a checkpoint: a pickle that torch.save did not write")
    version, system = source.pickle(), source.pickle()
    if version != _PROTOCOL or not isinstance(system, dict) or not system.get("little_endian"):
        raise UserError("is in a format of torch's that is not read: load it with torch and save it anew")
    begin = file.tell()
    # Tensors need their numbers, which come last: the content is followed twice, first for the storages alone.
    storages: dict[Any, Storage] = {}

    def note(identifier: Any) -> Any:
        word, kind, key, *rest = identifier
        if word in ("storage", b"storage"):
            storages.setdefault(_name(key), Storage(kind, rest[1], None))

    source.pickle(stand_ins=dict.fromkeys(TORCH, lambda *_: None), outside=note, named=named)
    places = {}
    for key in map(_name, source.pickle()):
        (count,) = struct.unpack("<q", source.read(8))
        if key not in storages or key in places or count * storages[key].width != storages[key].bytes:
            raise UserError("is damaged: its storages are not those of its tensors")
        places[key] = file.tell()
        if places[key] + storages[key].bytes > source.size:
            raise UserError("is truncated: its numbers end too soon")
        file.seek(storages[key].bytes, os.SEEK_CUR)

    @cache
    def numbers(key: Any) -> Tensor:
        found, here = bytearray(storages[key].bytes), file.tell()
        file.seek(places[key])
        file.readinto(found)
        file.seek(here)
        return torch.frombuffer(found, dtype=torch.uint8) if len(found) else torch.empty(0, dtype=torch.uint8)

    def outside(identifier: Any) -> Any:
        word, kind, key, *rest = identifier
        if word not in ("storage", b"storage"):
            return kind  # a module with its source code, which is left alone
        # The last entry, if any, says that a part of the storage is meant.
        first, count = (0, rest[1]) if rest[2] is None else rest[2][1:]
        return Storage(kind, count, lambda: numbers(_name(key)), first=first)

    file.seek(begin)
    return source.pickle(stand_ins=TORCH, outside=outside, named=named)
