"""Every place that takes a file, given what is none, hangs, lies elsewhere, is damaged or held: a sentence at once."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from basinscope.cli import main
from spectra.files import TRAILER

SECRET = "what lies in another file"
Words = list[str | Path]


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What hangs is ended after a minute."""

    def late(*_: object) -> None:
        raise TimeoutError("a command hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def task(desk: Path) -> Words:
    return ["--task", f"{desk / 'task.py'}:tiny"]


def spectrum(desk: Path, *words: str | Path) -> Words:
    return ["spectrum", desk / "model.pt", *task(desk), "--engine", "dense", *words]


def volume(desk: Path, *words: str | Path) -> Words:
    return ["volume", desk / "model.pt", *task(desk), "--method", "ellipsoid-slice", "--directions", "2", *words]


def compare(desk: Path, *words: str | Path) -> Words:
    return ["compare", desk / "model.pt", *task(desk), "--measures", "parameter-norm", *words]


# Every place that takes a file of the user's, or of an earlier run.
PLACES: dict[str, Callable[[Path, Path], Words]] = {
    "spectrum CHECKPOINT": lambda desk, odd: ["spectrum", odd, *task(desk)],
    "spectrum --task": lambda desk, odd: ["spectrum", desk / "model.pt", "--task", f"{odd}:tiny"],
    "spectrum --task text": lambda desk, odd: ["spectrum", desk / "model.pt", "--task", f"causal-lm:text={odd}"],
    "spectrum --task images": lambda desk, odd: [
        *("spectrum", desk / "model.pt", "--task", f"image-classifier:images={odd},model={desk}")
    ],
    "spectrum --task model": lambda desk, odd: [
        *("spectrum", desk / "model.pt", "--task", f"image-classifier:images={desk / 'plot.png'},model={odd}")
    ],
    "volume CHECKPOINT": lambda desk, odd: ["volume", odd, *task(desk)],
    "volume --against": lambda desk, odd: volume(desk, "--against", odd),
    "volume --validation-task": lambda desk, odd: volume(desk, "--validation-task", f"{odd}:tiny"),
    "volume --trajectory": lambda desk, odd: ["volume", "--trajectory", odd, *task(desk)],
    "bridge CHECKPOINT": lambda desk, odd: ["bridge", odd, *task(desk), "--output", desk / "new.h5"],
    "compare CHECKPOINT": lambda desk, odd: ["compare", odd, *task(desk), "--measures", "parameter-norm"],
    "compare --initial": lambda desk, odd: compare(desk, "--initial", odd),
    "compare --reuse": lambda desk, odd: compare(desk, "--reuse", odd),
    "compare --held-out-task": lambda desk, odd: compare(desk, "--held-out-task", f"{odd}:tiny"),
    "audit CHECKPOINT": lambda desk, odd: ["audit", odd, *task(desk)],
    "audit --spectrum": lambda _, odd: ["audit", "--known", "--spectrum", odd],
    "audit --truth": lambda desk, odd: ["audit", desk / "model.pt", *task(desk), "--truth", odd],
    "show FILE": lambda _, odd: ["show", odd],
    "show --against": lambda desk, odd: ["show", desk / "spectrum.h5", "--against", odd],
    "plot FILE": lambda desk, odd: ["plot", odd, "--output", desk / "new.png"],
    "spectrum --output": lambda desk, odd: spectrum(desk, "--output", odd, "--overwrite"),
    "spectrum --output --resume": lambda desk, odd: spectrum(desk, "--output", odd, "--resume"),
    "compare --output": lambda desk, odd: compare(desk, "--output", odd, "--overwrite"),
    "compare --output --resume": lambda desk, odd: compare(desk, "--output", odd, "--resume"),
}
ENDS_IN_H5 = ("audit --truth",)


def make_socket(path: Path) -> None:
    # The name of a socket may have about 100 bytes only.
    here = Path.cwd()
    os.chdir(path.parent)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)
    os.chdir(here)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("real.pipe"))
    path.symlink_to(path.with_name("real.pipe"))


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link to a pipe": link_to_a_pipe,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "socket": make_socket,
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda _: None,
    "link to nothing": lambda path: path.symlink_to("nowhere.h5"),
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("dear diary\n") and None,
    "zeros": lambda path: path.write_bytes(bytes(5000)) and None,
}
# An output that is not there yet, or empty, is made.
WRITTEN = {"nothing", "link to nothing", "link to itself", "empty"}


def refused(capsys: pytest.CaptureFixture[str], words: Words) -> str:
    capsys.readouterr()
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith("plan: ")]
    assert len(lines) == 1, printed.err
    assert "bug of basinscope" not in lines[0]
    return lines[0]


ODD = [
    (place, kind)
    for place in PLACES
    for kind in KINDS
    if "--output" not in place or kind not in WRITTEN or ("--resume" in place and kind == "empty")
]


@pytest.mark.parametrize("place, kind", ODD)
def test_what_is_no_file_of_its_kind(desk: Path, place: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if (place, kind) == ("spectrum --task images", "folder"):
        (desk / "config.json").write_text("{}")
    odd = desk / "odd.h5"
    KINDS[kind](odd)
    before = {path.name for path in desk.iterdir()}
    said = refused(capsys, PLACES[place](desk, odd))
    if kind in ("pipe", "link to a pipe", "endless device", "empty device", "socket") and "trajectory" not in place:
        assert f"{odd} is " in said
        assert "not a regular file" in said
    assert {path.name for path in desk.iterdir()} == before


# Every place that reads a result, and the result that it reads.
RESULTS: dict[str, tuple[str, Callable[[Path, Path], Words]]] = {
    **{f"show {name}": (name, PLACES["show FILE"]) for name in ("spectrum", "volume", "bridge", "comparison", "audit")},
    **{f"plot {name}": (name, PLACES["plot FILE"]) for name in ("spectrum", "volume", "bridge", "comparison", "audit")},
    "show --against": ("spectrum", PLACES["show --against"]),
    "show volume --against": ("volume", lambda desk, odd: ["show", desk / "volume.h5", "--against", odd]),
    "show bridge --against": ("bridge", lambda desk, odd: ["show", desk / "bridge.h5", "--against", odd]),
    "compare --reuse spectrum": ("spectrum", PLACES["compare --reuse"]),
    "compare --reuse volume": ("volume", PLACES["compare --reuse"]),
    "compare --reuse audit": ("audit", lambda desk, odd: compare(desk, "--reuse", odd, "--report", desk / "new.html")),
    "volume --against": ("volume", PLACES["volume --against"]),
    "audit --truth": ("bridge", PLACES["audit --truth"]),
    "audit --spectrum": ("spectrum", PLACES["audit --spectrum"]),
    "spectrum --resume": ("spectrum", PLACES["spectrum --output --resume"]),
    "volume --resume": ("volume", lambda desk, odd: volume(desk, "--output", odd, "--resume")),
    "compare --resume": ("comparison", PLACES["compare --output --resume"]),
    "audit --resume": ("audit", lambda _, odd: ["audit", "--known", "--no-facts", "--output", odd, "--resume"]),
    "bridge --resume": (
        "bridge",
        lambda desk, odd: [
            *("bridge", desk / "model.pt", *task(desk), "--cutoff", "0.001", "--chains", "4", "--draws", "8"),
            *("--warm-up", "1", "--budget", "1", "--output", odd, "--resume"),
        ],
    ),
}


def first_array(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names[0]


def external_link(file: h5py.File, desk: Path) -> None:
    name = first_array(file)
    del file[name]
    file[name] = h5py.ExternalLink(str(desk / "secret.h5"), "texts")


def external_storage(file: h5py.File, desk: Path) -> None:
    name = first_array(file)
    del file[name]
    file.create_dataset(name, shape=(8,), dtype="S3", external=[(str(desk / "secret.bin"), 0, 24)])


def virtual(file: h5py.File, desk: Path) -> None:
    layout = h5py.VirtualLayout(shape=(1,), dtype="S25")
    layout[:] = h5py.VirtualSource(str(desk / "secret.h5"), "texts", shape=(1,))
    file.create_virtual_dataset("added", layout)


def soft_link(file: h5py.File, desk: Path) -> None:
    file["added"] = h5py.SoftLink("/")


def gigabytes(file: h5py.File, desk: Path) -> None:
    file.create_dataset("added", shape=(2**28,), dtype="f8", chunks=(1000,), compression="gzip")


INSIDE = {
    "external link": (external_link, "has a link to another place"),
    "external storage": (external_storage, "has an array whose data lie in other files"),
    "virtual dataset": (virtual, "has an array whose data lie in other files"),
    "soft link": (soft_link, "has a link to another place"),
    "gigabytes declared": (gigabytes, "declares more than"),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("place", RESULTS)
def test_results_that_do_not_hold_their_data(
    desk: Path, place: str, kind: str, signed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (name, words), (change, expected), odd = RESULTS[place], INSIDE[kind], desk / "odd.h5"
    with h5py.File(desk / "secret.h5", "w") as file:
        file["texts"] = np.array([SECRET], "S25")
    (desk / "secret.bin").write_bytes(SECRET.encode())
    (desk / f"{name}.h5").rename(odd) if "against" not in place else odd.write_bytes((desk / f"{name}.h5").read_bytes())
    with h5py.File(odd, "r+") as file:
        change(file, desk)
    if signed:
        content = odd.read_bytes()
        odd.write_bytes(content + TRAILER + hashlib.sha256(content).digest())
    before = odd.read_bytes()
    said = refused(capsys, words(desk, odd))
    assert f"odd.h5 {expected}" in said
    assert SECRET not in said
    assert odd.read_bytes() == before


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"a bit at {share:.0%}": lambda whole, share=share: flipped(whole, int(share * (len(whole) - 90)) + 9)
        for share in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    },
    "the digest": lambda whole: flipped(whole, len(whole) - 1),
    "the line before it": lambda whole: flipped(whole, len(whole) - 40),
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut at the digest": lambda whole: whole[:-10],
    "more after it": lambda whole: whole + b"more",
}


def flipped(whole: bytes, place: int) -> bytes:
    content = bytearray(whole)
    content[place] ^= 0x10
    return bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("place", RESULTS)
def test_damaged_results_are_noticed_before_they_are_opened(
    desk: Path, place: str, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, words), odd = RESULTS[place], desk / "odd.h5"
    odd.write_bytes(DAMAGE[kind]((desk / f"{name}.h5").read_bytes()))
    opened, open_file = [], h5py.File

    def watched(where: object, *rest: object, **options: object) -> h5py.File:
        opened.append(getattr(where, "name", where))
        return open_file(where, *rest, **options)

    monkeypatch.setattr("h5py.File", watched)
    said = refused(capsys, words(desk, odd))
    assert "odd.h5 is damaged" in said or "odd.h5 is a truncated or damaged" in said or "odd.h5 is not " in said
    assert odd not in opened
    assert str(odd) not in opened


@pytest.mark.sampled(5)
@pytest.mark.parametrize("place", RESULTS)
def test_results_that_another_program_writes(desk: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    (name, words), odd = RESULTS[place], desk / "odd.h5"
    odd.write_bytes((desk / f"{name}.h5").read_bytes())
    code = (
        f"import h5py, sys; f = h5py.File({str(odd)!r}, 'r+'); f.attrs['x'] = 1; print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        said = refused(capsys, words(desk, odd))
        other.stdin.close()
    assert "odd.h5 is open for writing in another program: close it there and try again" in said
