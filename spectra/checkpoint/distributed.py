"""Folders of torch.distributed.checkpoint: pieces of tensors in the files of ranks, put together without any code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectra.checkpoint.inert import read_pickle, read_torch
from spectra.errors import UserError
from spectra.files import Opaque, about, open_regular, read_whole

METADATA = ".metadata"
_STAND_INS: dict[str, Callable[..., Any]] = {
    "torch.Size": lambda entries=(): tuple(entries),
    "torch.serialization._get_layout": lambda *_: Opaque("torch.layout"),
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING": lambda *_: Opaque("torch.memory_format"),
}
_MOST_METADATA = 2**31


class _Piece(NamedTuple):
    """Where a part of a tensor, or an object, lies."""

    file: str
    start: int
    length: int
    offsets: tuple[int, ...] | None


def is_distributed_folder(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of torch.distributed.checkpoint."""
    return (folder / METADATA).is_file()


def read_distributed(folder: Path) -> tuple[Any, str]:
    """The content as it was given to ``torch.distributed.checkpoint.save``, and in words how far damage was looked for.

    Raises:
        UserError: if a file is missing, truncated, damaged or compressed, or a tensor lacks a piece.
    """
    whole: dict[Any, Any] = {}
    found, reader = _Contents(folder), _Reader(folder)
    for name, shape in found.shapes.items():
        pieces = found.pieces.get(name, [])
        value = reader.tensor(name, shape, pieces) if shape is not None else reader.object(found.pieces[name])
        _put(whole, found.paths.get(name, (name,)), value)
    checked = "the CRC-32 of every part was verified" if reader.checked else "its parts have no checksums"
    return _as_saved(whole), f"torch.distributed.checkpoint: {checked}"


def tensors_of_distributed(folder: Path) -> tuple[tuple[str, ...], Callable[[str], Tensor]]:
    """The names of a folder's tensors, as torch flattens them, and what reads one of them, whole, when it is called.

    Raises:
        UserError: as of ``read_distributed``.
    """
    found, reader = _Contents(folder), _Reader(folder)
    held = {name: shape for name, shape in found.shapes.items() if shape is not None}
    return tuple(held), lambda name: reader.tensor(name, held[name], found.pieces.get(name, []))


class _Contents:
    """What the metadata of a folder say: shapes (None for what is no tensor), pieces and paths, by name."""

    def __init__(self, folder: Path) -> None:
        path = folder / METADATA
        content = read_whole(path, _MOST_METADATA, "the metadata of a checkpoint")
        with about(path):
            found = _attributes(read_pickle(BytesIO(content), len(content), stand_ins=_STAND_INS), "Metadata")
            try:
                self.pieces, self.paths = _pieces(found["storage_data"]), found["planner_data"] or {}
                self.shapes = {name: _shape(entry) for name, entry in found["state_dict_metadata"].items()}
            except UserError:
                raise
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"is damaged, or of a version of torch that is not known ({error})") from error


def distributed_parts(folder: Path) -> list[Path]:
    """The files of such a folder."""
    return [folder / METADATA, *sorted(folder.glob("*.distcp"))]


def _attributes(value: Any, kind: str) -> Mapping[str, Any]:
    if not isinstance(value, Opaque) or value.name.rpartition(".")[2] != kind or not isinstance(value.state, dict):
        raise UserError(f"is damaged, or of a version of torch that is not known: it holds no {kind}")
    return value.state


def _shape(entry: Any) -> tuple[int, ...] | None:
    """The shape of a tensor; None for what is no tensor."""
    if not isinstance(entry, Opaque) or entry.name.endswith(".BytesStorageMetadata"):
        return None
    size = tuple(_attributes(entry, "TensorStorageMetadata")["size"])
    if not all(type(length) is int and length >= 0 for length in size):
        raise ValueError("a tensor's shape")
    return size


def _pieces(stored: Mapping[Any, Any]) -> dict[str, list[_Piece]]:
    found: dict[str, list[_Piece]] = {}
    for index, place in stored.items():
        at, where = _attributes(index, "MetadataIndex"), _attributes(place, "_StorageInfo")
        if where.get("transform_descriptors"):
            raise UserError("is of a compressed checkpoint, which is not read: save it without compression")
        file, start, length, offsets = where["relative_path"], where["offset"], where["length"], at.get("offset")
        # A folder of unknown origin must not point anywhere else.
        if Path(file).name != file or not (type(start) is type(length) is int and start >= 0 and length >= 0):
            raise UserError(f"is damaged: it names the part {str(file)[:80]!r}")
        piece = _Piece(file, start, length, None if offsets is None else tuple(offsets))
        found.setdefault(at["fqn"], []).append(piece)
    return found


def _put(whole: dict[Any, Any], path: Any, value: Any) -> None:
    """Put a value where its path says."""
    *parents, last = path
    for part in parents:
        whole = whole.setdefault(part, {})
    whole[last] = value


def _as_saved(value: Any) -> Any:
    """With lists where paths had positions; keys of dictionaries are always texts there, and were not in optimizers."""
    if type(value) is not dict:
        return value
    found = {key: _as_saved(one) for key, one in value.items()}
    if found and all(type(key) is int for key in found):
        return [found[key] for key in sorted(found)]
    if "param_groups" in found and type(found.get("state")) is dict:
        found["state"] = {int(key) if key.isdecimal() else key: one for key, one in found["state"].items()}
    return found


class _Reader:
    """Reads pieces, each a file of torch's within another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checked = folder, True

    def object(self, pieces: list[_Piece]) -> Any:
        (piece,) = pieces
        return self._content(piece)

    def tensor(self, name: str, shape: tuple[int, ...], pieces: list[_Piece]) -> Tensor:
        """All of a tensor; refused where its pieces are not exactly all of it."""
        parts = []
        for piece in pieces:
            part = self._content(piece)
            if not isinstance(part, Tensor):
                words = getattr(part, "words", f"a {type(part).__name__}")
                raise UserError(f"{self.folder} has {words} as {name}: save its plain, dense numbers instead")
            parts.append((piece.offsets or (0,) * len(shape), part))
        if len(parts) == 1 and parts[0][1].shape == shape and not any(parts[0][0]):
            return parts[0][1]
        fits = all(
            len(at) == part.ndim == len(shape)
            and all(
                first >= 0 and first + width <= length
                for first, width, length in zip(at, part.shape, shape, strict=True)
            )
            for at, part in parts
        )
        kinds = {part.dtype for _, part in parts}
        boxes = [(at, part.shape) for at, part in parts]
        if not fits or len(kinds) != 1 or math.prod(shape) != sum(part.numel() for _, part in parts) or _meet(boxes):
            raise UserError(f"{self.folder} is damaged: the pieces of {name} are not all of it, {shape}")
        found = torch.empty(shape, dtype=kinds.pop())
        for at, part in parts:
            found[tuple(slice(first, first + width) for first, width in zip(at, part.shape, strict=True))] = part
        return found

    def _content(self, piece: _Piece) -> Any:
        path = self.folder / piece.file
        with open_regular(path) as file, about(path):
            file.seek(piece.start)
            content = file.read(piece.length)
            if len(content) < piece.length:
                raise UserError("is truncated: a part of it ends too soon")
            found, integrity = read_torch(BytesIO(content))
        self.checked &= integrity.startswith("the CRC")
        return found


def _meet(boxes: list[tuple[tuple[int, ...], torch.Size]]) -> bool:
    """Whether two pieces have a number in common."""
    return any(_common(one, other) for place, one in enumerate(boxes) for other in boxes[:place])


def _common(one: tuple[tuple[int, ...], torch.Size], other: tuple[tuple[int, ...], torch.Size]) -> bool:
    sides: Iterator[tuple[int, int, int, int]] = zip(one[0], one[1], other[0], other[1], strict=True)
    return all(a < b + wide and b < a + width for a, width, b, wide in sides)
