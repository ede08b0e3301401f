"""What a GGUF file says of itself, held against the bytes that it has: readers believe any length that it states."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from spectra.errors import UserError
from spectra.files import about, open_regular

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TEXT, _LIST = 8, 9
# Bytes and reading of each kind of number, by the number that the format has for it.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DEEPEST, _MOST_AXES = 4, 8


@dataclass(frozen=True)
class GgufHeader:
    """The numbers and the tensors that a GGUF file names.

    Attributes:
        numbers: the numbers by name, texts and lists left out.
        tensors: names of the tensors.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()


def read_gguf_header(path: Path) -> GgufHeader | None:
    """The header of a GGUF file.

    Args:
        path: the file.

    Returns:
        The header; None for a version of the format that is not known here.

    Raises:
        UserError: if it states more than the file has, or names something twice.
    """
    with open_regular(path) as file, about(path):
        walk = _Walk(file)
        if walk.take(4) != MAGIC or walk.number("I") not in _VERSIONS:
            return None
        tensors, entries = walk.count(8 + 4 + 4 + 8), walk.count(8 + 4)
        numbers: dict[str, float] = {}
        for _ in range(entries):
            walk.entry(numbers)
        return GgufHeader(numbers, tuple(walk.tensor() for _ in range(tensors)))


class _Walk:
    """Goes through a file, and never beyond what it has."""

    def __init__(self, file: BufferedReader) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.names: set[str] = set()

    def take(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise UserError(f"is a truncated or damaged GGUF file: it states {count:,} bytes more than it has")
        return self.file.read(count)

    def number(self, kind: str) -> int:
        found: int
        (found,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return found

    def count(self, least: int) -> int:
        """A number of things that have at least so many bytes each."""
        found = self.number("Q")
        if found * least > self.size:
            raise UserError(f"is a truncated or damaged GGUF file: it states {found:,} entries, more than it has")
        return found

    def text(self) -> bytes:
        return self.take(self.count(1))

    def name(self) -> str:
        found = self.text().decode("utf-8", errors="replace")
        if found in self.names:
            raise UserError(f"names {found[:80]!r} twice, so it cannot be told which one counts")
        self.names.add(found)
        return found

    def entry(self, numbers: dict[str, float]) -> None:
        name, kind = self.name(), self.number("I")
        if kind in _NUMBERS:
            numbers[name] = self.number(_NUMBERS[kind])
        else:
            self.skip(kind)

    def skip(self, kind: int, depth: int = 0) -> None:
        if kind in _NUMBERS:
            self.take(struct.calcsize(f"<{_NUMBERS[kind]}"))
        elif kind == _TEXT:
            self.text()
        elif kind == _LIST and depth < _DEEPEST:
            of, least = self.number("I"), 8
            if of in _NUMBERS:
                least = struct.calcsize(f"<{_NUMBERS[of]}")
                self.take(self.count(least) * least)
                return
            for _ in range(self.count(least)):
                self.skip(of, depth + 1)
        else:
            raise UserError(f"is a damaged GGUF file: it has an entry of the unknown kind {kind}")

    def tensor(self) -> str:
        name, axes = self.name(), self.number("I")
        if axes > _MOST_AXES:
            raise UserError(f"is a damaged GGUF file: {name[:80]} has {axes} axes")
        self.take(8 * axes + 4 + 8)
        return name
