import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
import pytest

from basinscope.cli import main
from spectra.store import read_spectrum

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINT = ROOT / "data" / "digits_mlp" / "clean_seed0_step00640.pt"
# The strategy is named, so that timing does not choose it anew in each run.
OPTIONS = ("--engine", "slq", "--probes", "24", "--block", "4", "--steps", "24", "--strategy", "double-backward")
TASK_FILE = Path(__file__).parents[1] / "tiny_task.py"
KILLS = 5
DEADLINE = 300.0


class Running(Protocol):
    """A run of the command in a process of its own."""

    def kill(self) -> None:
        """SIGKILL."""

    def wait(self, timeout: float) -> int:
        """Exit status; negative after a signal."""


class Forked:
    """A run forked from a server that has imported torch already, so that a kill lands in the work."""

    def __init__(self, process: ForkServerProcess) -> None:
        self.process = process
        process.start()

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout: float) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None
        return self.process.exitcode


def forking(checkpoint: Path, probes: int) -> Callable[[Path], Running]:
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["basinscope.runs.spectrum", "basinscope.views.spectrum"])
    words = ["spectrum", str(checkpoint), "--task", f"{TASK_FILE}:tiny", *OPTIONS, "--probes", str(probes), "--resume"]
    # The server imports what it preloads when it is first used, which is no part of any run.
    Forked(context.Process(target=main, args=(["--version"],))).wait(DEADLINE)
    return lambda output: Forked(context.Process(target=main, args=([*words, "--output", str(output)],)))


def check_kills_at_random_moments(launch: Callable[[Path], Running], folder: Path, kills: int) -> None:
    """Kill runs at moments uniform over what is left of them, resume, and compare with an uninterrupted run."""
    whole, parts = folder / "whole.h5", folder / "parts.h5"
    begin = time.monotonic()
    assert launch(whole).wait(DEADLINE) == 0
    lasted = time.monotonic() - begin

    generator = np.random.default_rng(0)
    killed, done = 0, 0
    for _ in range(10 * kills):
        spectrum = read_spectrum(parts).spectrum if parts.exists() else None
        if spectrum is not None:
            assert done <= spectrum.density.runs.probes
            assert spectrum.density.runs.probes % 4 == 0
            done = spectrum.density.runs.probes
            if spectrum.complete:
                parts.unlink()
                done = 0
        process = launch(parts)
        left = 1.0 if spectrum is None else 1.0 - done / spectrum.settings.probes
        time.sleep(generator.uniform(0.0, lasted * left))
        process.kill()
        killed += process.wait(DEADLINE) == -signal.SIGKILL
        if killed == kills:
            break
    assert killed == kills
    assert launch(parts).wait(DEADLINE) == 0
    assert contents(parts) == contents(whole)
    # Whatever a kill in the middle of writing left behind is gone.
    assert not [path.name for path in folder.iterdir() if "parts" in path.name and path != parts]


def start(output: Path, *options: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "basinscope", "spectrum", str(CHECKPOINT), "--output", str(output)]
    return subprocess.Popen([*words, *OPTIONS, *options], cwd=ROOT, stdout=subprocess.DEVNULL)


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_after_a_block(output: Path, wait: float) -> bool:
    """Resume, wait for a block to be written and then ``wait`` seconds, and kill; whether it was still running."""
    before, deadline = stamp(output), time.monotonic() + DEADLINE
    process = start(output, "--resume")
    while stamp(output) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(wait)
    running = process.poll() is None
    if running:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return running


def contents(path: Path) -> dict[str, bytes]:
    found = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        for key, value in item.attrs.items():
            if not isinstance(value, h5py.Reference) and key not in ("DIMENSION_LIST", "REFERENCE_LIST"):
                found[f"{name}@{key}"] = np.asarray(value).astype(str).tobytes()
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        keep("", file)
        file.visititems(keep)
    for key in ("@created", "@command"):
        del found[key]
    return found


def test_runs_killed_at_random_moments_resume_to_the_same_numbers(checkpoint: Path, tmp_path: Path) -> None:
    check_kills_at_random_moments(forking(checkpoint, 48), tmp_path, 3)


@pytest.mark.slow
def test_many_kills_at_random_moments(checkpoint: Path, tmp_path: Path) -> None:
    check_kills_at_random_moments(forking(checkpoint, 96), tmp_path, 12)


@pytest.mark.slow
def test_whole_commands_killed_at_random_moments(tmp_path: Path) -> None:
    check_kills_at_random_moments(lambda output: start(output, "--resume"), tmp_path, 4)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_numbers_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    begin = time.monotonic()
    assert start(whole).wait(DEADLINE) == 0
    lasted = time.monotonic() - begin

    generator = np.random.default_rng(0)
    first = start(parts, "--resume")
    time.sleep(generator.uniform(0.2, 0.6) * lasted)
    first.kill()
    first.wait()
    kills, done = 1, 0
    while kills < KILLS:
        if parts.exists():
            spectrum = read_spectrum(parts).spectrum
            assert spectrum.density.runs.probes >= done
            assert spectrum.density.runs.probes % 4 == 0
            done = spectrum.density.runs.probes
        if not kill_after_a_block(parts, generator.uniform(0.0, 0.03)):
            break
        kills += 1
    assert kills >= 3
    assert start(parts, "--resume").wait(DEADLINE) == 0
    assert read_spectrum(parts).spectrum.complete
    assert contents(parts) == contents(whole)
    # Whatever a kill in the middle of writing left behind is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.h5", "whole.h5"]


def heed_interrupts() -> None:
    """A shell that starts the tests in the background has its children ignore Control-C; ours are to heed it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_control_c_says_what_is_saved(tmp_path: Path) -> None:
    output = tmp_path / "s.h5"
    words = [sys.executable, "-m", "basinscope", "spectrum", str(CHECKPOINT), "--output", str(output), *OPTIONS]
    process = subprocess.Popen(
        [*words, "--probes", "4000", "--deflate", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    try:
        deadline = time.monotonic() + DEADLINE
        while not output.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert printed == b""
    done = read_spectrum(output).spectrum.density.runs.probes
    expected = f"interrupted: {done} of 4000 probes are saved in {output}; go on with the same command and --resume"
    assert said.decode().splitlines()[-1] == expected
