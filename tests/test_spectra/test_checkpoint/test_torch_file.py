"""What torch.save writes is read as torch reads it, and what it did not write is refused."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectra.checkpoint import UNCHECKED, read_checkpoint
from spectra.checkpoint.file import read_tensors
from spectra.errors import UserError

BASE = torch.arange(24, dtype=torch.float32)
TENSORS: dict[str, Any] = {
    "matrix": BASE.reshape(4, 6),
    "transposed": BASE.reshape(4, 6).T,
    "strided": BASE[1::3],
    "part": BASE[5:9],
    "expanded": torch.ones(1).expand(5),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 3),
    "parameter": nn.Parameter(torch.ones(2)),
    "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
    "buffer": nn.Buffer(torch.ones(2)),
    **{
        str(dtype): torch.tensor([0, 1, 2, 7]).to(dtype)
        for dtype in (
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
            *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
            *(torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn),
        )
    },
}


def with_attribute() -> Tensor:
    found = nn.Parameter(torch.ones(3))
    found.kept = "something"  # type: ignore[attr-defined]
    return found


TENSORS["with an attribute"] = with_attribute()


def same(found: Tensor, expected: Tensor) -> bool:
    alike = found.dtype == expected.dtype and found.shape == expected.shape
    return alike and bytes(found.contiguous().view(-1).view(torch.uint8).numpy()) == bytes(
        expected.detach().contiguous().view(-1).view(torch.uint8).numpy()
    )


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_those_of_torch(tmp_path: Path, zipped: bool, protocol: int, mapped: bool) -> None:
    path = tmp_path / "all.pt"
    torch.save(TENSORS, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_tensors(path, mapped=mapped)
    assert found.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert same(found[name], expected), name


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: torch.empty(3, device="meta"), "a meta tensor, which has no numbers"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), "a sparse tensor"),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "stored conjugated or negated"),
    "negated": (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "stored conjugated or negated"),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("inside", [True, False])
def test_tensors_of_other_kinds_are_named(tmp_path: Path, name: str, inside: bool) -> None:
    make, words = OTHERS[name]
    state = {"0.weight": make(), "0.bias": torch.ones(2)}
    torch.save({"model": state} if inside else state, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=rf"odd\.pt has .*{words} as 0\.weight: save its plain, dense numbers instead"):
        read_checkpoint(tmp_path / "odd.pt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantised_weights_are_named(tmp_path: Path) -> None:
    weight = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    torch.save({"weight": weight}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="has a quantised tensor as weight"):
        read_checkpoint(tmp_path / "odd.pt")


def saved() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(600.0), "bias": torch.ones(7)}, file)
    return file.getvalue()


def repacked(change: Callable[[str, bytes], list[tuple[str, bytes]]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with each part put through a function, which may give none, one or several."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            for part, content in change(name, old.read(name)):
                new.writestr(part, content)
    return file.getvalue()


def only(ending: str, new: Callable[[bytes], list[bytes]]) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
    return lambda name, content: [(name, one) for one in (new(content) if name.endswith(ending) else [content])]


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (lambda: repacked(lambda *part: [part], zipfile.ZIP_DEFLATED), "does not compress its parts"),
    "a part shorter": (lambda: repacked(only("data/0", lambda old: [old[:-4]])), "not as long as its tensors say"),
    "a part longer": (lambda: repacked(only("data/0", lambda old: [old + old])), ""),
    "a part missing": (lambda: repacked(only("data/1", lambda _: [])), "lacks its part data/1"),
    "other byte order": (lambda: repacked(only("byteorder", lambda _: [b"big"])), "of another byte order"),
    "TorchScript": (
        lambda: repacked(lambda *part: [part, *[("constants.pkl", b"")] * part[0].endswith("/version")]),
        "TorchScript",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_torch_did_not_write_so(tmp_path: Path, name: str) -> None:
    make, words = ARCHIVES[name]
    (tmp_path / "odd.pt").write_bytes(make())
    if not words:
        assert torch.equal(read_checkpoint(tmp_path / "odd.pt").parameters["weight"], torch.arange(600.0))
        return
    with pytest.raises(UserError, match=words):
        read_checkpoint(tmp_path / "odd.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("part", ["data.pkl", "data/0", "version"])
def test_a_part_that_is_there_twice(tmp_path: Path, part: str) -> None:
    (tmp_path / "odd.pt").write_bytes(repacked(only(part, lambda old: [old, old])))
    with pytest.raises(UserError, match="has a part twice"):
        read_checkpoint(tmp_path / "odd.pt")


def shaped(offset: int, size: int, stride: int) -> bytes:
    """The archive with another offset, length and stride of the tensor of 7 numbers."""
    old = b"K\x00K\x07\x85q"
    assert saved().count(old) == 1
    new = b"".join(b"J" + struct.pack("<i", number) for number in (offset, size)) + b"\x85q"
    content = repacked(only("data.pkl", lambda part: [part.replace(old, new)]))
    return content.replace(b"q\x11K\x01\x85", b"q\x11K" + bytes([stride]) + b"\x85") if stride != 1 else content


@pytest.mark.parametrize("offset, size", [(0, 8), (1, 7), (7, 1), (2**31 - 1, 1), (0, 2**31 - 1), (-1, 7), (0, -7)])
def test_a_tensor_that_reaches_beyond_its_numbers(tmp_path: Path, offset: int, size: int) -> None:
    (tmp_path / "odd.pt").write_bytes(shaped(offset, size, 1))
    with pytest.raises(UserError, match=r"reaches beyond its 7 numbers|the shape of a tensor cannot be read"):
        read_checkpoint(tmp_path / "odd.pt")


def test_every_flipped_bit_of_the_numbers_is_noticed(tmp_path: Path) -> None:
    whole, path = saved(), tmp_path / "odd.pt"
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = [(entry.header_offset, entry.file_size) for entry in archive.infolist() if "data" in entry.filename]
    known = read_all(whole, path)
    held = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        try:
            found = read_all(bytes(damaged), path)
        except UserError:
            held += 1
            continue
        # What is not refused lies beside the numbers: in padding, names or times.
        assert all(torch.equal(found[name], value) for name, value in known.items()), place
        held += 1
    assert held > 400
    assert parts


def read_all(content: bytes, path: Path) -> Any:
    path.write_bytes(content)
    return read_checkpoint(path).parameters


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_refused(tmp_path: Path, zipped: bool) -> None:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(6.0)}, file, _use_new_zipfile_serialization=zipped)
    whole = file.getvalue()
    for length in range(0, len(whole), 3):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pt (is|has|holds) "):
            read_checkpoint(tmp_path / "cut.pt")


def test_how_far_damage_would_be_noticed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved())
    assert read_checkpoint(path).integrity == "the CRC-32 of every part was verified"
    torch.save({"weight": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path).integrity == f"torch's old format {UNCHECKED}"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(2)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(path).integrity == f"its archive {UNCHECKED}"
    assert torch.equal(read_checkpoint(path).parameters["weight"], torch.ones(2))
