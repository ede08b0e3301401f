"""Headers of GGUF files that state more than the file has: refused at once, for readers believe any length."""

import struct
import time
from pathlib import Path

import pytest

from spectra.checkpoint import read_gguf_header
from spectra.errors import UserError

TEXT, LIST, NUMBER, LARGE = 8, 9, 4, 10


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, *sizes: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, 0)


def header(
    entries: list[bytes], tensors: list[bytes], *, version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    stated = counts or (len(tensors), len(entries))
    return b"GGUF" + struct.pack("<IQQ", 3, *stated) + b"".join(entries) + b"".join(tensors)


BLOCKS = entry("llama.block_count", NUMBER, struct.pack("<I", 2))
WORDS = entry("words", LIST, struct.pack("<IQ", TEXT, 2) + text("a") + text("b"))
COUNTS = entry("counts", LIST, struct.pack("<IQ3I", NUMBER, 3, 1, 2, 3))
LISTS = entry("lists", LIST, struct.pack("<IQ", LIST, 1) + struct.pack("<IQI", NUMBER, 1, 7))
TENSORS = [tensor("embed", 4, 8), tensor("scale", 8)]


def test_numbers_and_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    large = entry("large", LARGE, struct.pack("<Q", 2**40))
    name = entry("name", TEXT, text("tiny"))
    path.write_bytes(header([BLOCKS, WORDS, COUNTS, LISTS, name, large], TENSORS) + bytes(100))
    found = read_gguf_header(path)
    assert found is not None
    assert found.numbers == {"llama.block_count": 2, "large": 2**40}
    assert found.tensors == ("embed", "scale")


def many(of: int, count: int) -> bytes:
    return entry("many", LIST, struct.pack("<IQ", of, count))


def nested(depth: int) -> bytes:
    return entry("nested", LIST, struct.pack("<IQ", LIST, 1) * depth + struct.pack("<IQI", NUMBER, 1, 7))


MORE = "states"
FILES = {
    "many entries": (header([BLOCKS], TENSORS, counts=(2, 2**60)), MORE),
    "many tensors": (header([BLOCKS], TENSORS, counts=(2**63, 1)), MORE),
    "one entry too many": (header([BLOCKS], [], counts=(0, 2)), MORE),
    "one tensor too many": (header([], TENSORS, counts=(3, 0)), MORE),
    **{f"many of kind {kind}": (header([many(kind, 2**60)], []), MORE) for kind in range(13)},
    **{f"2**31 of kind {kind}": (header([many(kind, 2**31)], []), MORE) for kind in range(13)},
    "a long text": (header([entry("x", TEXT, struct.pack("<Q", 2**62) + b"abc")], []), MORE),
    "a long name": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), MORE),
    "lists 1,000 deep": (header([nested(1000)], []), "unknown kind"),
    "an unknown kind": (header([entry("x", 77, b"")], []), "unknown kind 77"),
    "many axes": (header([], [text("embed") + struct.pack("<I", 2**31) + bytes(100)]), "axes"),
    "a name twice": (header([BLOCKS, BLOCKS], []), "names 'llama.block_count' twice"),
    "a tensor twice": (header([], [TENSORS[0], TENSORS[0]]), "names 'embed' twice"),
    "nothing more": (b"GGUF", MORE),
    "half of the counts": (header([], [])[:12], MORE),
}


@pytest.mark.parametrize("name", FILES)
def test_headers_that_state_more_than_there_is(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    (tmp_path / "model.gguf").write_bytes(content)
    begun = time.monotonic()
    with pytest.raises(UserError, match=rf"model\.gguf .*{words}"):
        read_gguf_header(tmp_path / "model.gguf")
    assert time.monotonic() - begun < 5.0


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = header([BLOCKS, WORDS, COUNTS, LISTS], TENSORS)
    for length in range(4, len(whole)):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.gguf is a truncated or damaged GGUF file"):
            read_gguf_header(tmp_path / "cut.gguf")


def test_every_flipped_bit_ends_at_once(tmp_path: Path) -> None:
    whole = header([BLOCKS, WORDS, COUNTS, LISTS], TENSORS) + bytes(64)
    begun, refused = time.monotonic(), 0
    for place in range(4, 8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        (tmp_path / "odd.gguf").write_bytes(content)
        try:
            read_gguf_header(tmp_path / "odd.gguf")
        except UserError:
            refused += 1
    assert refused > 500
    assert time.monotonic() - begun < 60.0
