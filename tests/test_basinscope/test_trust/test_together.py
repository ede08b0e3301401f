"""Several runs at one file, readers beside a writer, and kills between the parts of a run: nothing is lost."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from basinscope.cli import main
from comparisons.store import read_comparison
from spectra.compute import compute_spectrum
from spectra.errors import UserError
from spectra.files import Provenance, replace_file, writing_rights
from spectra.files.lock import hidden_name
from spectra.files.result_file import hdf5_image
from spectra.landscape import Landscape
from spectra.model import select_parameters
from spectra.spectrum import Spectrum, SpectrumSettings, layer_of
from spectra.store import read_spectrum, write_spectrum

TASK = Path(__file__).parents[1] / "tiny_task.py"
SPECTRUM = ("spectrum", "--engine", "slq", "--steps", "6", "--strategy", "double-backward")


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    code = (
        "import sys; from spectra.files.lock import writing_rights\n"
        f"with writing_rights({str(path)!r}): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield process
        process.stdin.close()


def words_of(command: str, checkpoint: Path) -> list[str]:
    task = ["--task", f"{TASK}:tiny"]
    return {
        "spectrum": [*SPECTRUM, str(checkpoint), *task],
        "volume": ["volume", str(checkpoint), *task, "--method", "ellipsoid-slice", "--directions", "2"],
        "bridge": ["bridge", str(checkpoint), *task],
        "compare": ["compare", str(checkpoint), *task, "--measures", "parameter-norm"],
        "audit": ["audit", str(checkpoint), *task],
        "audit known": ["audit", "--known"],
    }[command]


ENDINGS = {"--output": "h5", "--plot": "png", "--agreement-plot": "png", "--report": "html"}
PLACES = [
    *((name, option) for name in ("spectrum", "volume", "bridge", "audit", "audit known") for option in ENDINGS),
    *(("compare", option) for option in ENDINGS),
]
PLACES = [row for row in PLACES if row[0] == "compare" or row[1] in ("--output", "--plot")]


@pytest.mark.parametrize("flag", ["", "--resume", "--overwrite"])
@pytest.mark.parametrize("command, option", PLACES)
def test_a_second_run_to_one_file_is_refused(
    checkpoint: Path, tmp_path: Path, command: str, option: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"out.{ENDINGS[option]}"
    words = [*words_of(command, checkpoint), option, str(target), *([flag] if flag else [])]
    if option != "--output" and (command == "bridge" or flag == "--resume"):
        words += ["--output", str(tmp_path / "other.h5")]
    with held_by_another_process(target) as process:
        assert main(words) == 2
        said = capsys.readouterr().err.strip()
    assert said == (
        f"{target} is being written by another run (process {process.pid}): "
        "wait until that has ended, or choose another file"
    )
    assert not [path.name for path in tmp_path.iterdir() if path != checkpoint]


def test_a_run_in_another_thread_is_refused_too(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with writing_rights(tmp_path / "s.h5"):
            begun.set()
            ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    with pytest.raises(UserError, match="being written by another thread"), writing_rights(tmp_path / "s.h5"):
        pass
    ended.set()
    thread.join()
    with writing_rights(tmp_path / "s.h5"), writing_rights(tmp_path / "s.h5"):
        replace_file(tmp_path / "s.h5", b"whole")


def test_links_to_a_file_are_that_file(tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(tmp_path / "s.h5")
    hidden_name(tmp_path / "s.h5", "lock").write_text("1234567890")  # left behind by a killed run
    with held_by_another_process(tmp_path / "s.h5") as process:
        words = rf"link\.h5 is being written by another run \(process {process.pid}\)"
        with pytest.raises(UserError, match=words), writing_rights(tmp_path / "link.h5"):
            pass


def test_what_a_killed_run_held_is_free_at_once(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.h5"
    with held_by_another_process(output) as process:
        process.kill()
        process.wait()
    assert hidden_name(output, "lock").exists()
    assert main([*words_of("spectrum", checkpoint), "--output", str(output)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "s.h5"]


def test_what_a_killed_run_held_is_free_though_a_child_of_it_lives(tmp_path: Path) -> None:
    output = tmp_path / "s.h5"
    code = (
        "import os, sys; from spectra.files.lock import writing_rights\n"
        f"with writing_rights({str(output)!r}):\n"
        "    if os.fork():\n"
        "        print('held', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        with writing_rights(output, patience=30.0):  # the child may not have begun to run
            pass
        process.stdin.close()


# Processes that import neither torch nor this file: their start is no part of what is tested.
WRITER = """
import sys
from pathlib import Path
from spectra.files import replace_file
for number in range(int(sys.argv[3])):
    replace_file(Path(sys.argv[1]), sys.argv[2].encode() * (1000 + number))
"""
# As any program does, with HDF5's own locks.
READER = """
import sys
import h5py
for _ in range(500):
    with h5py.File(sys.argv[1], "r") as file:
        assert file["x"][()].sum() == 4950
"""


def started(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)


def assert_no_complaint(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        complaint = process.communicate(timeout=300)[1]
        assert process.returncode == 0, complaint


@pytest.mark.parametrize("name", [pytest.param("s.h5", marks=pytest.mark.slow), "x" * 255])
def test_many_writers_of_one_file_never_fail(tmp_path: Path, name: str) -> None:
    path, failures = tmp_path / name, []

    def write_often(letter: str) -> None:
        try:
            for number in range(100):
                replace_file(path, letter.encode() * (1000 + number))
        except Exception as error:  # whatever it is, it is one too many
            failures.append(repr(error))

    writers = [started(WRITER, str(path), letter, "200") for letter in "abcdefgh"]
    threads = [threading.Thread(target=write_often, args=(letter,)) for letter in "ij"]
    for thread in threads:
        thread.start()
    whole = 0
    while any(one.poll() is None for one in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(set(content)) == 1
            assert len(content) >= 1000
            whole += 1
        time.sleep(2e-3)  # else this loop takes more of the machine than the writers
    for thread in threads:
        thread.join()
    assert_no_complaint(writers)
    assert not failures
    assert whole > 10
    assert list(tmp_path.iterdir()) == [path]


def test_readers_with_locks_of_their_own_are_never_held_up(tmp_path: Path) -> None:
    path, content = tmp_path / "s.h5", hdf5_image(lambda file: file.__setitem__("x", np.arange(100)))
    replace_file(path, content)
    readers = [started(READER, str(path)) for _ in range(2)]
    while any(reader.poll() is None for reader in readers):
        replace_file(path, content)
    assert_no_complaint(readers)


@pytest.mark.slow
def test_two_comparisons_that_go_on_with_one_file(tmp_path: Path, tiny: ModuleType) -> None:
    paths = []
    for seed in range(4):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"model{seed}.pt")
        torch.save({"model": tiny.network().state_dict()}, paths[-1])
    output = tmp_path / "all.h5"
    words = [sys.executable, "-m", "basinscope", "compare", "--task", f"{TASK}:tiny", "--measures", "parameter-norm"]
    words += ["--output", str(output), "--resume"]
    assert subprocess.run([*words, str(paths[0])], capture_output=True).returncode == 0
    both = [subprocess.Popen([*words, *map(str, paths[s])], stderr=-1, stdout=-1) for s in (slice(0, 3), slice(2, 4))]
    said = [process.communicate(timeout=300)[1].decode() for process in both]
    done = [process.returncode for process in both]
    assert 0 in done
    for code, words_said in zip(done, said, strict=True):
        assert code in (0, 2)
        assert code == 0 or "is being written by another run" in words_said
    kept = {Path(one.provenance.checkpoint).name for one in read_comparison(output).done}
    wanted = [{"model0.pt", "model1.pt", "model2.pt"}, {"model2.pt", "model3.pt"}]
    assert kept >= set.union(*(names for code, names in zip(done, wanted, strict=True) if code == 0))


def landscape(tiny: ModuleType) -> Landscape:
    torch.manual_seed(0)
    return Landscape(tiny.network(), tiny.cross_entropy, tiny.rows())


SETTINGS = SpectrumSettings(engine="slq", probes=4, steps=6, block=2, per_layer=True, strategy="double-backward")
ORDER = ("0", "2")


class StoppedError(Exception):
    pass


def stopped_after(tiny: ModuleType, blocks: int, **changes: Any) -> Spectrum | None:
    """What is kept of a run that ends after so many blocks; None if it was done before."""
    kept: list[Spectrum] = []

    def keep(spectrum: Spectrum) -> None:
        kept.append(spectrum)
        if len(kept) == blocks:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        compute_spectrum(landscape(tiny), SpectrumSettings(**{**SETTINGS.as_dict(), **changes}), on_block=keep)
        return None
    return kept[-1]


@pytest.mark.parametrize("engine", ["slq", "dense"])
def test_a_spectrum_by_layers_is_complete_when_all_layers_are(tiny: ModuleType, tmp_path: Path, engine: str) -> None:
    whole = compute_spectrum(landscape(tiny), SpectrumSettings(**{**SETTINGS.as_dict(), "engine": engine}))
    assert whole.complete
    assert tuple(whole.layers) == ORDER
    path, stops = tmp_path / "s.h5", 0
    for blocks in range(1, 20):
        part = stopped_after(tiny, blocks, engine=engine)
        if part is None:
            break
        write_spectrum(path, part, Provenance("model.pt", "ab"))
        stored = read_spectrum(path).spectrum
        done = set(stored.layers) == set(ORDER) and all(
            density.exact or density.runs.probes == 4 for density in (stored.density, *stored.layers.values())
        )
        assert stored.complete == done
        again = compute_spectrum(landscape(tiny), stored.settings, resume=stored)
        assert again.complete
        assert tuple(again.layers) == ORDER
        for name in ORDER:
            np.testing.assert_array_equal(again.layers[name].runs.diagonal, whole.layers[name].runs.diagonal)
            np.testing.assert_array_equal(again.layers[name].deflation.nodes, whole.layers[name].deflation.nodes)
        stops += 1
    assert stops >= 3


@pytest.mark.sampled(5)
@pytest.mark.parametrize("blocks", [4, 1, 2, 3, 5])
def test_a_run_killed_between_layers_goes_on(
    checkpoint: Path, tiny: ModuleType, tmp_path: Path, blocks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of("spectrum", checkpoint), "--probes", "4", "--block", "2", "--per-layer", "--json"]
    assert main([*words, "--output", str(tmp_path / "whole.h5")]) == 0
    whole = json.loads(capsys.readouterr().out)
    output = tmp_path / "parts.h5"
    code = (
        "import os, sys\n"
        "from basinscope.runs import spectrum\n"
        "from basinscope.cli.app import main\n"
        "write, done = spectrum.write_spectrum, []\n"
        "def counted(*parts):\n"
        "    write(*parts)\n"
        "    done.append(1)\n"
        f"    if len(done) == {blocks}: os._exit(9)\n"
        "spectrum.write_spectrum = counted\n"
        f"main({[*words, '--output', str(output)]!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 9
    assert not read_spectrum(output).spectrum.complete
    assert main([*words, "--output", str(output), "--resume"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"]
    assert found["layers"] == whole["layers"]
    assert len(found["layers"]) == len(ORDER)


def test_layers_are_named_alike(tiny: ModuleType) -> None:
    layout = select_parameters(tiny.network())
    assert list(layout.layers()) == list(dict.fromkeys(map(layer_of, layout.names)))
