"""Commands under torchrun: the numbers of one process, one sentence when a rank fails, and no hang."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from basinscope import ranks
from basinscope.cli import main
from comparisons.store import read_comparison
from spectra.spectrum import Spectrum
from spectra.store import read_spectrum
from volume.bridge import read_bridge
from volume.store import read_study

ROOT = Path(__file__).resolve().parents[3]
CHECKPOINT = ROOT / "data" / "digits_mlp" / "clean_seed0_step00640.pt"
TASKS = Path(__file__).parents[1] / "failing_rank_task.py"
OPTIONS = (
    "--engine",
    "slq",
    "--steps",
    "20",
    "--block",
    "4",
    "--strategy",
    "double-backward",
    "--dtype",
    "float64",
    "--deflate",
    "8",
)
# Seconds: torchrun leaves 30 to a rank that does not end by itself.
BOUNDED = 30.0
DEADLINE = 300.0


def torchrun(*words: str, count: int = 2) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*launcher, "-m", "basinscope", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pid_of_rank(rank: int, launcher: int) -> int | None:
    """The process that torchrun started as a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        try:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables:
            return int(child)
    return None


def sentences(said: str) -> list[str]:
    """What stderr holds apart from the plan and torchrun's own report, which begins with E, W or a traceback."""
    lines = said.splitlines()
    end = next((i for i, line in enumerate(lines) if line.startswith(("Traceback", "====="))), len(lines))
    return [line for line in lines[:end] if not line.startswith(("plan:", "E1", "W1", "E0", "W0", "  "))]


def said_when_killed(run: subprocess.Popen[str], pid: int | None) -> str:
    """The one sentence that a run ends with, in time, when one of its ranks is killed."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    dead = time.monotonic()
    _, said = run.communicate(timeout=DEADLINE)
    assert time.monotonic() - dead < BOUNDED
    assert run.returncode != 0
    (sentence,) = sentences(said)
    return sentence


def alone(*words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "basinscope", *words], cwd=ROOT, env=environment, check=True, timeout=DEADLINE
    )


def check_same(one: Spectrum, other: Spectrum) -> None:
    scale = np.abs(one.density.nodes).max()
    np.testing.assert_allclose(one.density.nodes, other.density.nodes, rtol=1e-6, atol=1e-10 * scale)
    np.testing.assert_allclose(one.density.weights, other.density.weights, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(one.density.trace().value, other.density.trace().value, rtol=1e-9)
    assert (one.notes, one.settings.probes) == (other.notes, other.settings.probes)


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_one_process_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    words = ("spectrum", str(CHECKPOINT), *OPTIONS, "--probes", "96")
    begin = time.monotonic()
    alone(*words, "--output", str(whole))
    lasted = time.monotonic() - begin
    generator = np.random.default_rng(0)
    killed, done = 0, 0
    for attempt in range(12):
        run = torchrun(*words, "--output", str(parts), "--resume")
        while (pid := pid_of_rank(attempt % 2, run.pid)) is None and run.poll() is None:
            time.sleep(0.01)
        # The first is killed once something is stored, the others at moments of their own.
        while killed == 0 and not parts.exists() and run.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.uniform(0.0, 0.5 * lasted))
        if run.poll() is None:
            sentence = said_when_killed(run, pid)
            assert sentence.startswith(("another rank died or cannot be reached; ", "stopped by SIGTERM, as torchrun "))
            assert "--resume" in sentence or killed > 0
            killed += 1
        stored = read_spectrum(parts).spectrum.density.runs.probes if parts.exists() else 0
        assert stored >= done
        assert stored % 4 == 0
        done = stored
        if killed == 3 or done == 96:
            break
    assert killed >= 2
    assert 0 < done < 96
    alone(*words, "--output", str(parts), "--resume")
    check_same(read_spectrum(parts).spectrum, read_spectrum(whole).spectrum)


@pytest.mark.slow
def test_one_process_begins_and_two_and_three_ranks_go_on(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    words = ("spectrum", str(CHECKPOINT), *OPTIONS)
    alone(*words, "--probes", "12", "--output", str(whole))
    alone(*words, "--probes", "4", "--output", str(parts))
    for count, probes in ((2, 8), (3, 12)):
        run = torchrun(*words, "--probes", str(probes), "--output", str(parts), "--resume", count=count)
        printed, said = run.communicate(timeout=DEADLINE)
        assert run.returncode == 0, said
        # One rank prints.
        assert printed.count("Hessian spectrum of") == 1
        assert said.count("plan:") == 1
    check_same(read_spectrum(parts).spectrum, read_spectrum(whole).spectrum)


@pytest.mark.slow
def test_directions_of_a_killed_rank_are_found_by_one_process(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    words = ("volume", str(CHECKPOINT), "--method", "star-domain", "--preconditioner", "identity")
    words = (*words, "--directions", "3000", "--dtype", "float64")
    begin = time.monotonic()
    alone(*words, "--output", str(whole))
    lasted = time.monotonic() - begin
    run = torchrun(*words, "--output", str(parts))
    while not parts.exists() and run.poll() is None:
        time.sleep(0.01)
    pid = pid_of_rank(1, run.pid)
    time.sleep(np.random.default_rng(1).uniform(0.0, 0.2 * lasted))
    sentence = said_when_killed(run, pid)
    assert "; interrupted: what was done is saved in " in sentence
    done = terms(parts)
    assert 0 < len(done) < 3000
    alone(*words, "--output", str(parts), "--resume")
    np.testing.assert_array_equal(terms(parts)[: len(done)], done)
    np.testing.assert_allclose(terms(parts), terms(whole), rtol=1e-9)


def terms(path: Path) -> NDArray[np.float64]:
    sampled = read_study(path).results["star-domain"].sampled
    assert sampled is not None
    return sampled.log_terms


@pytest.mark.slow
def test_directions_of_two_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    files = [tmp_path / "one.h5", tmp_path / "two.h5"]
    words = ("volume", str(CHECKPOINT), "--method", "star-domain", "--preconditioner", "identity")
    words = (*words, "--directions", "9", "--sweep-cutoff", "1e-3:1e-2:2", "--dtype", "float64")
    alone(*words, "--output", str(files[0]))
    run = torchrun(*words, "--output", str(files[1]), "--plot", str(tmp_path / "two.png"))
    printed, said = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0, said
    assert printed.count("star-domain") >= 1
    one, two = (read_study(file) for file in files)
    assert one.sweep is not None
    assert two.sweep is not None
    pairs = [(one.results["star-domain"], two.results["star-domain"])]
    pairs += zip(one.sweep.results["star-domain"], two.sweep.results["star-domain"], strict=True)
    for first, second in pairs:
        assert first.sampled is not None
        assert second.sampled is not None
        np.testing.assert_allclose(second.sampled.log_terms, first.sampled.log_terms, rtol=1e-9)
        np.testing.assert_array_equal(second.sampled.evaluations, first.sampled.evaluations)


# One of each kind of evidence: products, gradients, costs along rays, searches, samples one by one, and chains.
MEASURES = "hessian-trace,quadratic-mass,gradient-norm,star-domain,sam,fisher-rao,learning-coefficient"
QUICK = ("--measures", MEASURES, "--probes", "2", "--steps", "16", "--directions", "5")


@pytest.mark.slow
def test_measures_of_two_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    files = [tmp_path / "one.h5", tmp_path / "two.h5"]
    words = ("compare", str(CHECKPOINT), *QUICK)
    alone(*words, "--output", str(files[0]))
    shown = ("--plot", str(tmp_path / "two.png"), "--report", str(tmp_path / "two.html"))
    run = torchrun(*words, "--output", str(files[1]), *shown)
    printed, said = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0, said
    assert printed.count("comparison written to") == 1
    assert (tmp_path / "two.png").is_file()
    assert (tmp_path / "two.html").is_file()
    one, two = (read_comparison(file).checkpoints[0].outcomes for file in files)
    for name in MEASURES.split(","):
        first, second = one[name].reading, two[name].reading
        assert first is not None
        assert second is not None
        assert second.value == pytest.approx(first.value, rel=1e-4), name
    # What is stored is enough for one process.
    before = files[1].read_bytes()
    alone(*words, "--output", str(files[1]), "--resume")
    assert read_comparison(files[1]).checkpoints[0].outcomes.keys() == two.keys()
    assert before == files[1].read_bytes()


@pytest.mark.slow
def test_a_rank_that_dies_ends_a_comparison_and_one_process_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "parts.h5"
    paths = sorted(CHECKPOINT.parent.glob("clean_seed*_step00640.pt"))
    words = ("compare", *map(str, paths), *QUICK, "--output", str(output))
    run = torchrun(*words)
    while not output.exists() and run.poll() is None:
        time.sleep(0.01)
    sentence = said_when_killed(run, pid_of_rank(1, run.pid))
    assert "the checkpoints that were done are saved in " in sentence
    done = len(read_comparison(output).done)
    assert 0 < done < len(paths)
    alone(*words, "--resume")
    assert len(read_comparison(output).done) == len(paths)


@pytest.mark.slow
def test_a_bridge_of_two_ranks_loses_one_and_one_process_goes_on_to_the_same_rungs(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    ladder = ("--cutoff", "30", "--chains", "4", "--draws", "12", "--warm-up", "4", "--seed", "2")
    words = ("bridge", str(CHECKPOINT), "--prior", "gaussian:1.3975", "--dtype", "float64", *ladder, "--output")
    alone(*words, str(whole))
    run = torchrun(*words, str(parts))
    while run.poll() is None and not (parts.exists() and read_bridge(parts)[0].rung_count > 1):
        time.sleep(0.01)
    sentence = said_when_killed(run, pid_of_rank(1, run.pid))
    assert f"rungs are saved in {parts}; go on with the same command and --resume" in sentence
    expected, begun = read_bridge(whole)[0], read_bridge(parts)[0]
    assert 1 < begun.rung_count < expected.rung_count
    alone(*words, str(parts), "--resume")
    found = read_bridge(parts)[0]
    for one, other in zip(found.passes[0], expected.passes[0], strict=True):
        np.testing.assert_allclose(one.costs, other.costs, rtol=1e-6)
    assert found.volumes[0].log_volume == pytest.approx(expected.volumes[0].log_volume, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra, said", [(("--jobs", "2"), "--jobs starts processes of its own"), (("--invariance",), "runs in one process")]
)
def test_comparing_in_other_ways_is_for_one_process(extra: tuple[str, ...], said: str) -> None:
    run = torchrun("compare", str(CHECKPOINT), *extra)
    _, words = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0
    assert [said in line for line in sentences(words)] == [True], words


@pytest.mark.slow
@pytest.mark.parametrize("name, said_once", [("alone", "rank 1 of 2: only rank 1"), ("together", "all ranks fail")])
def test_an_error_ends_all_ranks_in_one_sentence(name: str, said_once: str) -> None:
    run = torchrun("spectrum", str(CHECKPOINT), "--task", f"{TASKS}:{name}", *OPTIONS)
    printed, said = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0
    assert printed == ""
    assert [said_once in line for line in sentences(said)] == [True], said


@pytest.mark.slow
def test_ranks_with_different_data_are_refused() -> None:
    run = torchrun("spectrum", str(CHECKPOINT), "--task", f"{TASKS}:different", *OPTIONS)
    _, said = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0
    (line,) = sentences(said)
    assert line.startswith("all ranks need the same data: rank 0 has ")


def test_a_command_for_one_process_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["show", "nothing.h5"]) == 2
    said = "show runs in one process: leave torchrun out (spectrum, volume, compare and bridge run on several)\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("RANK", "1")
    assert main(["show", "nothing.h5"]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "variables", [{}, {"WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "here"}]
)
def test_one_process_is_no_rank(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not ranks.started_on_ranks()
    assert ranks.writes_files()
    ranks.agreed("task", "a name that is no unicode: \udcff")
