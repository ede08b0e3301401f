"""HDF5 files that show other files, declare what they do not have, are damaged or held open: one sentence, no hang."""

import contextlib
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

from spectra.density import SpectralDensity
from spectra.errors import UserError
from spectra.files import TRAILER, Provenance, format_of
from spectra.spectrum import Spectrum, SpectrumSettings
from spectra.store import read_spectrum, write_spectrum

SECRET = b"what lies in another file"
Change = Callable[[h5py.File, Path], None]


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A small spectrum's file, and beside it two files that it must not show."""
    path = tmp_path / "s.h5"
    density = SpectralDensity.from_eigenvalues(np.array([1.0, 3.0]), size=5)
    spectrum = Spectrum(
        density=density,
        settings=SpectrumSettings(probes=1),
        route="dense",
        strategy="",
        notes=("a note",),
        cost=1.0,
        gradient_norm=0.0,
        samples=3.0,
        parameters=(("a.weight", (5,)),),
        data_sha256="cd" * 32,
        products=5,
    )
    write_spectrum(path, spectrum, Provenance("last.pt", "ab" * 32))
    (tmp_path / "secret.bin").write_bytes(SECRET * 10)
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["numbers"] = np.frombuffer(SECRET, np.uint8)
        other["texts"] = SECRET
    return path


def changed(path: Path, change: Change, *, signed: bool) -> None:
    """The file with something put into it, its digest made anew or left out."""
    with h5py.File(path, "r+") as file:
        change(file, path.parent)
    if signed:
        content = path.read_bytes()
        path.write_bytes(content + TRAILER + hashlib.sha256(content).digest())


def external(where: str) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        file.pop(where, None)
        file[where] = h5py.ExternalLink(str(folder / "secret.h5"), "numbers")

    return change


def soft(where: str, target: str) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        file.pop(where, None)
        file[where] = h5py.SoftLink(target)

    return change


def stored_elsewhere(where: str) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        file.pop(where, None)
        parts = [(str(folder / "secret.bin"), 0, 16)]
        file.create_dataset(where, shape=(2,), dtype="f8", external=parts)

    return change


def virtual(where: str) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        file.pop(where, None)
        layout = h5py.VirtualLayout(shape=(5,), dtype="u1")
        layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "numbers", shape=(len(SECRET),))[:5]
        file.create_virtual_dataset(where, layout)

    return change


def declared(where: str, shape: tuple[int, ...], **options: object) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        file.pop(where, None)
        file.create_dataset(where, shape=shape, dtype="f8", **options)

    return change


def many_texts(count: int, length: int) -> Change:
    """One long text that many entries share: as HDF5 has it, an entry is its address."""

    def change(file: h5py.File, folder: Path) -> None:
        texts = file.create_dataset("texts", shape=(count,), dtype=h5py.string_dtype())
        texts[0] = "x" * length
        chunk = np.zeros(count, np.dtype([("length", "<u4"), ("where", "<u8"), ("number", "<u4")]))
        raw = Path(file.filename)
        file.flush()
        place = texts.id.get_offset()
        with raw.open("rb") as plain:
            plain.seek(place)
            first = plain.read(16)
        chunk[:] = np.frombuffer(first, chunk.dtype)[0]
        file.attrs["place"] = place
        file.flush()
        SHARED[raw] = (place, chunk.tobytes())

    return change


SHARED: dict[Path, tuple[int, bytes]] = {}


def opaque_type(file: h5py.File, folder: Path) -> None:
    file.create_dataset("odd", data=np.zeros(2, "V7"))


def compound_type(file: h5py.File, folder: Path) -> None:
    file.create_dataset("odd", data=np.zeros(2, [("a", "i4"), ("b", "f8")]))


def named_type(file: h5py.File, folder: Path) -> None:
    file["odd"] = np.dtype("f8")


def references(file: h5py.File, folder: Path) -> None:
    file.create_dataset("odd", data=file.ref, dtype=h5py.ref_dtype)


def ragged(file: h5py.File, folder: Path) -> None:
    file.create_dataset("odd", shape=(3,), dtype=h5py.vlen_dtype("f8"))


def packed(file: h5py.File, folder: Path) -> None:
    file.create_dataset("odd", data=np.zeros(100), compression="lzf")


ELSEWHERE, LINK = "has an array whose data lie in other files", "has a link to another place"
MANY, ODD = "declares more than", "that does not consist of numbers or texts"
GIGABYTES = (2**28,)
FILES: dict[str, tuple[Change, str]] = {
    **{f"external link as {where}": (external(where), LINK) for where in ("diagonal", "residuals", "new", "layers/a")},
    "external link as group": (external("layers"), LINK),
    "external link deep inside": (external("layers/a/b/c/nodes"), LINK),
    "soft link": (soft("diagonal", "/eigenvalues"), LINK),
    "soft link to nothing": (soft("new", "/nowhere"), LINK),
    "soft link to itself": (soft("new", "/new"), LINK),
    "soft link as group": (soft("layers", "/"), LINK),
    **{f"external storage as {where}": (stored_elsewhere(where), ELSEWHERE) for where in ("eigenvalues", "new", "a/b")},
    **{f"virtual dataset as {where}": (virtual(where), ELSEWHERE) for where in ("eigenvalues", "new", "a/b")},
    "gigabytes in one piece": (declared("new", GIGABYTES), MANY),
    "gigabytes as eigenvalues": (declared("eigenvalues", GIGABYTES), MANY),
    "gigabytes in chunks": (declared("new", GIGABYTES, chunks=(1000,)), MANY),
    "gigabytes in packed chunks": (declared("new", GIGABYTES, chunks=(1000,), compression="gzip"), MANY),
    "gigabytes of one value": (declared("new", GIGABYTES, fillvalue=1.0), MANY),
    "exabytes": (declared("new", (2**30, 2**30)), MANY),
    "gigabytes in many": (
        lambda file, folder: [declared(f"new{n}", (2**20,))(file, folder) for n in range(40)] and None,
        MANY,
    ),
    "opaque type": (opaque_type, ODD),
    "compound type": (compound_type, ODD),
    "references": (references, ODD),
    "ragged": (ragged, ODD),
    "named type": (named_type, "holds something that is neither a group nor an array"),
    "a filter of another library": (packed, "packed by a filter that is not read"),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_files_that_do_not_hold_their_data_are_refused_before_any_is_read(
    result: Path, name: str, signed: bool
) -> None:
    change, words = FILES[name]
    changed(result, change, signed=signed)
    with pytest.raises(UserError, match=rf"s\.h5 {words}|s\.h5 has an array \('.*'\) ?{words}") as caught:
        read_spectrum(result)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=words):
        format_of(result)


@pytest.mark.parametrize("signed", [True, False])
def test_one_text_that_many_entries_share(result: Path, signed: bool) -> None:
    changed(result, many_texts(20_000, 60_000), signed=False)
    place, chunk = SHARED[result]
    content = bytearray(result.read_bytes())
    content[place : place + len(chunk)] = chunk
    result.write_bytes(content + TRAILER + hashlib.sha256(content).digest() if signed else content)
    with pytest.raises(UserError, match=MANY):
        read_spectrum(result)


def test_groups_that_hold_one_another_are_followed_once(result: Path) -> None:
    changed(result, lambda file, _: file["layers"].__setitem__("all", file["/"]), signed=True)
    with pytest.raises(UserError, match=r"s\.h5 is damaged and cannot be read"):
        read_spectrum(result)


def damaged(whole: bytes, place: int) -> bytes:
    content = bytearray(whole)
    content[place] ^= 0x55
    return bytes(content)


class Whole(NamedTuple):
    """A result file: its HDF5 part, and what follows it."""

    body: bytes
    tail: bytes


NO_HDF5 = "is not a basinscope spectrum file: expected HDF5, but it"
ENDS: dict[str, tuple[Callable[[Whole], bytes], str]] = {
    "another line": (lambda file: file.body + b"\nsomething else" * 6, "is damaged"),
    "the line changed": (lambda file: file.body + damaged(file.tail, 3), "is damaged"),
    "the digest changed": (lambda file: file.body + damaged(file.tail, -1), "is damaged"),
    "the digest cut": (lambda file: file.body + file.tail[:-5], "is damaged"),
    "the line alone": (lambda file: file.body + TRAILER, "is damaged"),
    "a byte more": (lambda file: file.body + file.tail + b"\n", "is damaged"),
    "twice": (lambda file: file.body + file.tail + file.tail, "is damaged"),
    "the line and the content changed": (lambda file: damaged(file.body, 700) + damaged(file.tail, 3), "is damaged"),
    "half": (lambda file: file.body[: len(file.body) // 2], "is a truncated"),
    "a byte less": (lambda file: file.body[:-1], "is a truncated"),
    "the first block": (lambda file: file.body[:512], "is a truncated"),
    "another version": (
        lambda file: file.body[:8] + b"\x09" + file.body[9:],
        "is damaged, or of a version of HDF5 that is not read",
    ),
    "nothing": (lambda file: file.body[:0], f"{NO_HDF5} is empty"),
    "another beginning": (lambda file: file.body[1:], f"{NO_HDF5} starts with b'HDF"),
}


@pytest.mark.parametrize("name", ENDS)
def test_files_whose_end_is_wrong(result: Path, name: str) -> None:
    change, words = ENDS[name]
    whole = result.read_bytes()
    end = whole.rindex(TRAILER)
    result.write_bytes(change(Whole(whole[:end], whole[end:])))
    with pytest.raises(UserError, match=rf"s\.h5 {words}"):
        read_spectrum(result)


def test_every_flipped_bit_is_noticed_at_once(result: Path) -> None:
    whole = result.read_bytes()
    places = range(8, len(whole), 41)
    began = time.monotonic()
    for place in places:
        result.write_bytes(damaged(whole, place))
        for read in (read_spectrum, format_of):
            with pytest.raises(UserError, match=r"s\.h5 is (damaged|a truncated)"):
                read(result)
    assert len(places) > 300
    assert time.monotonic() - began < 60.0


@pytest.mark.slow
def test_a_flipped_bit_in_a_file_without_a_digest_ends_too(result: Path) -> None:
    whole = result.read_bytes()
    whole = whole[: whole.rindex(TRAILER)]
    known = read_spectrum(result).spectrum
    for place in np.linspace(9, len(whole) - 1, 25).astype(int):
        result.write_bytes(damaged(whole, int(place)))
        with contextlib.suppress(UserError):
            assert read_spectrum(result).spectrum.density.size == known.density.size


@pytest.mark.parametrize("does", ["f.attrs['x'] = 1", "f.attrs['x'] = 1; f.flush()", "pass", "f['x'] = [1]; f.flush()"])
def test_a_file_that_another_program_writes_is_not_called_damaged(result: Path, does: str) -> None:
    code = (
        f"import h5py, sys; f = h5py.File({str(result)!r}, 'r+'); {does}; print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(UserError, match=r"s\.h5 is open for writing in another program: close it there and"):
                read_spectrum(result)
        finally:
            assert other.stdin is not None
            other.stdin.close()
    assert read_spectrum(result).spectrum.notes == ("a note",)


def test_a_file_that_another_program_reads_is_read(result: Path) -> None:
    with h5py.File(result, "r"):
        assert read_spectrum(result).spectrum.notes == ("a note",)


def test_a_file_that_this_program_has_open_for_writing(result: Path) -> None:
    with h5py.File(result, "r+"), pytest.raises(UserError, match="is open for writing in another program"):
        read_spectrum(result)
