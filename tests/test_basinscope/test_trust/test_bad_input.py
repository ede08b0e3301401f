import errno
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import pytest
import torch

from basinscope.cli import main
from basinscope.failures import exit_code_of
from spectra.files import atomic as atomic_file
from spectra.store import read_spectrum

Run = Callable[..., int]
TASK_FILE = Path(__file__).parents[1] / "tiny_task.py"


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a refused command leaves, with nothing on stdout and no traceback."""
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.endswith("\n")
    # What fails after the computing has begun has announced its plan.
    lines = [line for line in captured.err.splitlines() if not line.startswith("plan: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_a_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(main(["spectrum", str(tmp_path / "none.pt")]), capsys)
    assert said == f"{tmp_path / 'none.pt'} does not exist"


def test_a_file_that_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.pt"
    path.write_text("dear diary")
    assert "notes.pt" in refused(main(["spectrum", str(path), "--task", "digits"]), capsys)


def test_a_checkpoint_with_code_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "evil.pt"
    with open(path, "wb") as file:
        pickle.dump({"model": Evil()}, file)
    assert "evil.pt" in refused(main(["spectrum", str(path), "--task", "digits"]), capsys)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "task, words",
    [
        (
            "digts",
            "task 'digts' is not known: give a built-in name (causal-lm, digits, digits-heldout, "
            "image-classifier, own, tabular), "
            "package.module",
        ),
        ("digts", "did you mean digits?"),
        (f"{TASK_FILE}:tinny", "has no 'tinny'; did you mean tiny?"),
        (f"{TASK_FILE}:not_callable", "must be a function, got int"),
        (f"{TASK_FILE}:returns_nothing", "must return a Landscape, got NoneType"),
        ("nowhere/task.py:tiny", "task file nowhere/task.py does not exist"),
        ("no.such.module:tiny", "there is no module 'no'"),
        ("json:", "is not known"),
    ],
)
def test_a_wrong_task(checkpoint: Path, capsys: pytest.CaptureFixture[str], task: str, words: str) -> None:
    assert words in refused(main(["spectrum", str(checkpoint), "--task", task]), capsys)


def test_a_checkpoint_that_names_no_task(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "names no task: give --task" in refused(main(["spectrum", str(checkpoint)]), capsys)


def test_a_checkpoint_cannot_name_code_to_run(
    tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = tmp_path / "model.pt"
    torch.save({"model": tiny.network().state_dict(), "metadata": {"task": f"{code}:task"}}, path)
    said = refused(main(["spectrum", str(path)]), capsys)
    assert (
        "which is not built in (causal-lm, digits, digits-heldout, image-classifier, own, tabular): give --task" in said
    )
    assert not (tmp_path / "ran").exists()


def test_a_task_file_that_fails(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_package\n")
    said = refused(main(["spectrum", str(checkpoint), "--task", f"{broken}:task"]), capsys)
    assert "broken.py cannot be imported: it raised ModuleNotFoundError: No module named 'no_such_package'" in said
    assert said.endswith("(broken.py, line 1)")


def test_wrong_shapes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(main(["spectrum", str(checkpoint), "--task", "digits"]), capsys)
    assert "model.pt" in said
    torch.save({"hidden.weight": torch.zeros(9, 63), "hidden.bias": torch.zeros(9)}, checkpoint)
    said = refused(main(["spectrum", str(checkpoint), "--task", "digits"]), capsys)
    assert "hidden.weight has shape (9, 63)" in said
    assert "(9, 64) in the model" in said


@pytest.mark.parametrize(
    "task, words",
    [
        ("not_a_number", "the cost at the anchor is not finite"),
        ("infinite_cost", "the cost at the anchor is not finite"),
        ("misfit", "raised RuntimeError"),
    ],
)
def test_data_that_gives_no_cost(spectrum: Run, capsys: pytest.CaptureFixture[str], task: str, words: str) -> None:
    assert words in refused(spectrum(task=task), capsys)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--probes", "0"], "probes must be at least 1, got 0"),
        (["--probes", "many"], "--probes"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--operator", "hesian"], "got 'hesian'; did you mean hessian?"),
        (["--engine", "slk"], "--engine must be one of auto, slq"),
        (["--cost", "cross-entropie"], "did you mean cross-entropy"),
        (["--negative", "ignore"], "--negative must be one of raise, clip, abs; got 'ignore'"),
        (["--dtype", "float63"], "did you mean float64"),
        (["--seed", str(2**63)], f"seed must be at most {2**63 - 1}, got {2**63}"),
        (["--device", "toaster"], "--device 'toaster' cannot be used here"),
        (["--device", "meta"], "--device 'meta' cannot be used here: its tensors hold no numbers"),
        (["--memory", "lots"], "--memory must be a number of bytes such as 4GB"),
        (["--memory", f"{'9' * 400}GB"], "--memory must be a number of bytes such as 4GB"),
        (["--memory", "1B"], "--memory must be at least 1 MB; got '1B'"),
        (["--memory", "4"], "--memory must be at least 1 MB; got '4'"),
        (["--probes", "1000000000", "--block", "1000000000"], "a block of 1000000000 probes takes"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--threads", "100000"], "--threads must be at most 1024, got 100000"),
        (["--engine", "pyhessian"], "--engine pyhessian computes in its own way and knows no --strategy: leave it out"),
        (
            ["--engine", "pyhessian", "--deflate", "0", "--reorthogonalise", "none"],
            "knows no --deflate or --strategy or",
        ),
        (["--shift", "-1"], "--shift must be positive and finite, got -1.0"),
        (["--shift", "nan"], "--shift must be positive and finite, got nan"),
        (["--strategy", "magic"], "magic"),
        (["--layers", "absent"], "absent"),
        (["--prob", "3"], "--prob"),
        (["--resume"], "--resume needs --output"),
        (["--plot", "figure.jpeg2000"], "a plot must end in .png, .pdf, .svg"),
    ],
)
def test_wrong_options(spectrum: Run, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert words in refused(spectrum(*options), capsys)


@pytest.mark.parametrize("cost", ["cross-entropy", "mean-squared-error"])
def test_a_cost_for_data_without_targets(spectrum: Run, capsys: pytest.CaptureFixture[str], cost: str) -> None:
    assert f"cost {cost} " in refused(spectrum("--cost", cost, task="no_targets"), capsys)


def test_memory_that_runs_out_is_a_sentence(spectrum: Run, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(spectrum(task="out_of_memory"), capsys)
    assert "memory" in said


@pytest.mark.parametrize(
    "words, said",
    [
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)",
            "not enough memory for a tensor of 4000000000000000 bytes: use smaller batches of data",
        ),
        (
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB",
            "not enough memory for a tensor of 20.00 GiB: use smaller batches of data",
        ),
    ],
)
def test_an_allocator_s_error_is_a_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise RuntimeError(words)

    assert refused(exit_code_of(fail), capsys) == said


@pytest.mark.parametrize("error", [RuntimeError("of ours"), KeyError("of ours"), ValueError("of ours")])
def test_a_bug_is_said_to_be_one_and_kept_for_a_report(
    error: Exception, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail() -> None:
        raise error

    assert exit_code_of(fail) == 1
    said = capsys.readouterr().err.strip()
    (report,) = tmp_path.iterdir()
    assert "\n" not in said
    assert said.startswith(f"this is a bug of basinscope, not a fault of your input: {type(error).__name__}")
    assert said.endswith(f"please report it with the file {report}")
    assert "in fail" in report.read_text()


def test_an_output_that_exists(
    spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "s.h5"
    output.write_bytes(b"precious")
    monkeypatch.setattr("basinscope.runs.session.read_checkpoint", None)  # nothing may be computed before
    said = refused(spectrum("--output", output), capsys)
    assert said == f"{output} exists: use --overwrite to replace it or --resume to continue it"
    assert "exclude each other" in refused(spectrum("--output", output, "--overwrite", "--resume"), capsys)
    assert "not a basinscope spectrum file" in refused(spectrum("--output", output, "--resume"), capsys)
    assert "exists: use --overwrite" in refused(
        spectrum("--plot", tmp_path / "model.pt.png", "--output", output), capsys
    )
    assert output.read_bytes() == b"precious"


def test_a_plot_that_exists(spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.png").write_bytes(b"precious")
    assert "s.png exists: use --overwrite" in refused(spectrum("--plot", tmp_path / "s.png"), capsys)


def test_folders_that_cannot_be_written(
    spectrum: Run, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no folder" in refused(spectrum("--output", tmp_path / "none" / "s.h5"), capsys)
    assert "there is no folder" in refused(spectrum("--output", checkpoint / "s.h5"), capsys)
    assert "is not a regular file" in refused(spectrum("--output", tmp_path), capsys)
    assert "is not a regular file" in refused(spectrum("--output", "/dev/full"), capsys)
    # A test run as root may write anywhere, so the system's answer is replaced.
    access = os.access

    def not_writable(path: str, mode: int, **rest: bool) -> bool:
        return not mode & os.W_OK and access(path, mode, **rest)

    monkeypatch.setattr("basinscope.outputs.os.access", not_writable)
    assert f"the folder {tmp_path} is not writable" in refused(spectrum("--output", tmp_path / "s.h5"), capsys)


@pytest.mark.parametrize("command", [["show"], ["plot"], ["spectrum", "--resume"]])
def test_damaged_and_foreign_stores(
    spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    whole, cut, foreign = (tmp_path / f"{name}.h5" for name in ("whole", "cut", "foreign"))
    assert spectrum("--output", whole) == 0
    capsys.readouterr()
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with h5py.File(foreign, "w") as file:
        file["temperature"] = [1.0]

    def run(path: Path) -> int:
        return spectrum("--output", path, *command[1:]) if command[0] == "spectrum" else main([*command, str(path)])

    found = f"{len(content) // 2} of its {len(content)} bytes are there"
    assert refused(run(cut), capsys) == f"{cut} is a truncated or damaged HDF5 file: {found}"
    assert "holding temperature" in refused(run(foreign), capsys)
    assert cut.stat().st_size == len(content) // 2


def test_show_of_what_cannot_be_compared(spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spectrum("--output", tmp_path / "a.h5") == 0
    assert spectrum("--output", tmp_path / "b.h5", "--layers", "2") == 0
    capsys.readouterr()
    said = refused(main(["show", str(tmp_path / "a.h5"), "--against", str(tmp_path / "b.h5")]), capsys)
    assert said == "spectra of different size cannot be compared: got 50 and 18"


def test_a_disk_that_fills_up_loses_nothing(
    spectrum: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "s.h5"
    assert spectrum("--output", output, "--probes", "2", "--deflate", "0") == 0
    capsys.readouterr()
    before = output.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(atomic_file.os, "fsync", full)
        said = refused(spectrum("--output", output, "--probes", "4", "--deflate", "0", "--resume"), capsys)
    assert said == f"cannot write {output}: No space left on device; the file that was there is intact"
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "s.h5"]
    assert spectrum("--output", output, "--probes", "4", "--deflate", "0", "--resume") == 0
    assert read_spectrum(output).spectrum.density.runs.probes == 4


@pytest.mark.slow
def test_a_file_size_limit_in_a_process_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.h5"
    words = [sys.executable, "-m", "basinscope", "spectrum", str(checkpoint), "--task", f"{TASK_FILE}:tiny"]
    words += ["--engine", "dense", "--output", str(output), "--json"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    plan, said = done.stderr.splitlines()
    assert plan.startswith("plan: dense route, 50 products")
    assert said == f"cannot write {output}: File too large; no file was left behind"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


def test_debug_shows_where(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spectrum", str(checkpoint), "--task", f"{TASK_FILE}:misfit", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "tiny_task.py" in said


def test_an_unknown_command_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'spectrum'?" in refused(main(["spectrm"]), capsys)
    assert main([]) == 0
    assert "Usage: basinscope" in capsys.readouterr().out


@pytest.mark.slow
def test_json_is_alone_on_stdout(checkpoint: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "basinscope", "spectrum", str(checkpoint), "--task", f"{TASK_FILE}:tiny", "--json"]
    done = subprocess.run([*words, "--plot", str(tmp_path / "s.png")], capture_output=True, text=True, check=True)
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == ["plan"]
    assert json.loads(done.stdout)["files"] == {"figure": str(tmp_path / "s.png")}
