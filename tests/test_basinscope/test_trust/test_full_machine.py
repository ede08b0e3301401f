"""Full disks, limits of files and of memory: one sentence, what was there is intact, and what was found is printed."""

import contextlib
import errno
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basinscope.cli import main

Words = list[str]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["basinscope.runs.spectrum", "basinscope.views.spectrum", "spectra.plots"])


def commands(desk: Path) -> dict[str, Words]:
    task = ["--task", f"{desk / 'task.py'}:tiny"]
    model = str(desk / "model.pt")
    bridge = ["--cutoff", "0.001", "--chains", "4", "--draws", "8", "--warm-up", "1", "--budget", "1"]
    known = ["--known", "--cases", "ball-2", "--estimators", "star-domain", "--repeats", "2", "--directions", "2"]
    return {
        "spectrum": ["spectrum", model, *task, "--engine", "dense"],
        "volume": ["volume", model, *task, "--method", "ellipsoid-slice", "--directions", "2"],
        "bridge": ["bridge", model, *task, *bridge],
        "compare": ["compare", model, *task, "--measures", "parameter-norm"],
        "audit": ["audit", *known, "--no-facts"],
        "plot": ["plot", str(desk / "spectrum.h5")],
    }


PLACES = [
    ("spectrum", "--output", "h5"),
    ("spectrum", "--plot", "png"),
    ("spectrum", "--plot", "pdf"),
    ("volume", "--output", "h5"),
    ("volume", "--plot", "png"),
    ("bridge", "--output", "h5"),
    ("compare", "--output", "h5"),
    ("compare", "--plot", "svg"),
    ("compare", "--report", "html"),
    ("audit", "--output", "h5"),
    ("audit", "--plot", "png"),
    ("plot", "--output", "png"),
]
# What is drawn after the numbers are known.
DRAWN = ("--plot", "--report")


def in_a_child(words: Words, limit: Callable[[], None] | None, answers: Any) -> None:
    if limit is not None:
        limit()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    answers.put((code, out.getvalue(), err.getvalue()))


class Limit:
    """Sets a limit; sent to the child that it is for."""

    def __init__(self, kind: int, size: int, reset: bool = False) -> None:
        self.kind, self.size, self.reset = kind, size, reset

    def __call__(self) -> None:
        if self.reset:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(self.kind, (self.size, self.size))


def limited(words: Words, limit: Limit | None) -> tuple[int, str, str]:
    answers = CONTEXT.Queue()
    child = CONTEXT.Process(target=in_a_child, args=(words, limit, answers))
    child.start()
    found: tuple[int, str, str] = answers.get(timeout=120)
    child.join()
    return found


def said(err: str) -> str:
    lines = [line for line in err.splitlines() if not line.startswith("plan: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("size", [0, 4000])
@pytest.mark.parametrize("command, option, ending", PLACES)
def test_a_limit_of_a_file(desk: Path, command: str, option: str, ending: str, size: int, reset: bool) -> None:
    target = desk / f"new.{ending}"
    before = {path.name: path.read_bytes() for path in desk.iterdir()}
    limit = Limit(resource.RLIMIT_FSIZE, size, reset)
    code, out, err = limited([*commands(desk)[command], option, str(target)], limit)
    assert code == 2
    assert said(err) == f"cannot write {target}: File too large; no file was left behind"
    assert bool(out) == (option in DRAWN)
    assert {path.name: path.read_bytes() for path in desk.iterdir()} == before


@pytest.mark.sampled(5)
@pytest.mark.parametrize("size", [2 * 10**8, 5 * 10**8, 14 * 10**8])
@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
@pytest.mark.parametrize("command", ["spectrum", "compare", "plot"])
def test_a_limit_of_memory(desk: Path, command: str, kind: int, size: int) -> None:
    words = [sys.executable, "-m", "basinscope", *commands(desk)[command]]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=Limit(kind, size))
    assert done.returncode == 2
    assert done.stdout == ""
    words_said = f"not enough memory: the process is limited to {size / 1e9:.2g} GB (ulimit -v or -d)"
    assert said(done.stderr).startswith(words_said)


CALLS = {
    "the lock": "spectra.files.lock.os.open",
    "the flush": "spectra.files.atomic.os.fsync",
    "the renaming": "spectra.files.atomic.os.replace",
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("command, option, ending", PLACES)
def test_a_full_disk(
    desk: Path,
    command: str,
    option: str,
    ending: str,
    call: str,
    number: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = desk / f"new.{ending}"
    words = [*commands(desk)[command], option, str(target)]
    if command == "bridge" and option != "--output":
        words += ["--output", str(desk / "other.h5")]
    before = {path.name: path.read_bytes() for path in desk.iterdir()}
    open_file = os.open

    def full(*given: Any, **options: Any) -> int:
        if call == "the lock" and ".lock" not in str(given[0]):
            return open_file(*given, **options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(CALLS[call], full)
        code = main(words)
    printed = capsys.readouterr()
    assert code == 2
    assert said(printed.err).startswith(f"cannot write {target}: {os.strerror(number)}")
    # What fails before anything is computed has nothing to show.
    assert bool(printed.out) == (option in DRAWN and call != "the lock")
    assert {path.name: path.read_bytes() for path in desk.iterdir()} == before


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["--version"], ["--help"]])
def test_a_full_standard_output(
    desk: Path, words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "show":
        words = [*words, str(desk / "spectrum.h5")]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main(words)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert code == 2
    assert said(capsys.readouterr().err) == "standard output: No space left on device"
