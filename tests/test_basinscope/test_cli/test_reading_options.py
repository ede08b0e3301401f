"""``--key``, ``--strip-prefix``, ``--trust-pickle`` on the commands that read a checkpoint; what is kept of them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import basinscope
from basinscope import ReadingOptions
from basinscope.cli import main
from spectra.store import read_spectrum

TASK = f"{Path(__file__).parents[1] / 'tiny_task.py'}:tiny"
QUICK: dict[str, list[str]] = {
    "spectrum": ["--engine", "slq", "--steps", "12", "--probes", "2", "--strategy", "double-backward"],
    "volume": ["--method", "star-domain", "--directions", "2", "--preconditioner", "identity"],
    "bridge": ["--chains", "4", "--draws", "8", "--warm-up", "1", "--cutoff", "0.05"],
    "compare": ["--measures", "gradient-norm", "--no-traces"],
    "audit": ["--estimators", "trace/hutchinson", "--repeats", "2", "--products", "6"],
}
each_command = pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.slow) if name == "bridge" else name for name in QUICK]
)


@pytest.fixture
def averaged(tmp_path: Path, tiny: ModuleType) -> Path:
    """A checkpoint with two sets of weights."""
    torch.manual_seed(0)
    first, second = (tiny.network().state_dict() for _ in range(2))
    path = tmp_path / "averaged.pt"
    torch.save({"state_dict": first, "ema_state_dict": {f"net.{name}": one for name, one in second.items()}}, path)
    return path


def run(command: str, path: Path, *options: str | Path) -> int:
    return main([command, str(path), "--task", TASK, *QUICK[command], *map(str, options)])


@each_command
def test_a_key_is_asked_for_and_kept(
    averaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    output, key = tmp_path / "result.h5", ("--key", "ema_state_dict")
    assert run(command, averaged, "--output", tmp_path / "none.h5") == 2
    assert "found state_dict, ema_state_dict: --key takes one of them" in " ".join(capsys.readouterr().err.split())
    assert run(command, averaged, *key, "--output", output) == 0
    capsys.readouterr()
    assert run(command, averaged, "--key", "state_dict", "--output", output, "--resume") == 2
    said = " ".join(capsys.readouterr().err.split())
    words = "checkpoint_weights is ema_state_dict there and state_dict now"
    assert words in said or (command == "audit" and "made otherwise" in said)
    assert run(command, averaged, *key, "--output", output, "--resume") == 0


def test_the_numbers_are_those_of_the_weights_that_were_named(averaged: Path, tmp_path: Path, tiny: ModuleType) -> None:
    content = torch.load(averaged, weights_only=True)
    costs = []
    for key, prefix in (("state_dict", ""), ("ema_state_dict", "net.")):
        plain = {name.removeprefix(prefix): value for name, value in content[key].items()}
        torch.save(plain, tmp_path / "plain.pt")
        reading = ReadingOptions(key=key, strip_prefix=prefix or None)
        found = basinscope.spectrum(averaged, reading=reading, task=TASK, engine="dense")
        plainly = basinscope.spectrum(tmp_path / "plain.pt", task=TASK, engine="dense")
        assert found.spectrum.cost == pytest.approx(plainly.spectrum.cost, rel=1e-6)
        assert found.provenance.checkpoint_weights == key + (f" without {prefix}" if prefix else "")
        costs.append(found.spectrum.cost)
    assert abs(costs[0] - costs[1]) > 1e-3


def test_a_result_of_other_weights_is_not_reused(
    averaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "spectrum.h5"
    assert run("spectrum", averaged, "--key", "ema_state_dict", "--output", stored) == 0
    assert read_spectrum(stored).provenance.checkpoint_weights == "ema_state_dict"
    capsys.readouterr()
    found = basinscope.compare(
        averaged, measures="hessian-trace", task=TASK, reading=ReadingOptions(key="state_dict"), reuse=stored
    )
    assert "spectrum.h5 was not reused: it is of other weights of the file (ema_state_dict)" in found.done[0].notes


def test_what_is_trusted_is_said_on_stderr(
    tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "whole.pt"
    torch.save(tiny.network(), path)
    assert run("spectrum", path) == 2
    assert "a whole model; basinscope never runs it" in " ".join(capsys.readouterr().err.split())
    assert run("spectrum", path, "--trust-pickle", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("--trust-pickle: running the pickled code of")
    assert captured.out.startswith("{")


@pytest.mark.parametrize("options", [("--key", "a"), ("--strip-prefix", "a."), ("--trust-pickle",)])
def test_known_cases_are_read_from_no_file(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--known", *options]) == 2
    assert f"{options[0]} is of the audit of a checkpoint" in capsys.readouterr().err


def test_a_landscape_is_read_from_no_file(tiny: ModuleType, checkpoint: Path) -> None:
    landscape = tiny.tiny(basinscope.read_checkpoint(checkpoint))
    with pytest.raises(TypeError, match="a landscape is read from no file: leave the reading out"):
        basinscope.spectrum(landscape, reading=ReadingOptions(key="model"))


def test_a_name_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["spectrum", "owner/name", "--task", TASK]) == 2
    assert "fetch it first, with hf download owner/name" in " ".join(capsys.readouterr().err.split())


def test_a_trajectory_of_averages(averaged: Path, spectrum: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    del spectrum
    (averaged.parent / "model.pt").unlink()
    words = ["volume", "--trajectory", str(averaged.parent), "--task", TASK, *QUICK["volume"], "--key", "state_dict"]
    assert main(words) == 0
    assert "averaged.pt" in capsys.readouterr().out


def test_an_initialisation_without_the_key_is_left_out(averaged: Path, tmp_path: Path, tiny: ModuleType) -> None:
    averaged.rename(tmp_path / "run_step10.pt")
    torch.save(tiny.network().state_dict(), tmp_path / "run_step00.pt")
    reading = ReadingOptions(key="ema_state_dict")
    found = basinscope.compare(tmp_path / "run_step10.pt", measures="gradient-norm", task=TASK, reading=reading)
    assert any("run_step00.pt is not taken for the initialisation: " in note for note in found.done[0].notes)
