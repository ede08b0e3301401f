import json
from pathlib import Path

import pytest

from basinscope import load
from basinscope.cli import main
from volume.bridge import SandwichResult

TINY = Path(__file__).parents[1] / "tiny_task.py"
WORDS = ("--sandwich", "--prior", "gaussian:1", "--chains", "4", "--draws", "8", "--warm-up", "2", "--work-spread", "8")


def bridge(checkpoint: Path, output: Path, *options: str) -> int:
    return main(["bridge", str(checkpoint), "--task", f"{TINY}:tiny", "--output", str(output), *WORDS, *options])


def test_bounds_are_stored_shown_and_resumed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sandwich.h5"
    assert bridge(checkpoint, file, "--temperatures", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inverse_temperature"] == 40.0  # one label a row
    assert found["complete"]
    assert found["gap"]["value"] == pytest.approx(found["upper"]["value"] - found["lower"]["value"])
    # Markov's inequality at half of 5 % a side: log 40 below the one and above the other.
    assert found["proven95"][0] == pytest.approx(found["lower"]["value"] - 3.6889, abs=1e-4)
    assert found["proven95"][1] == pytest.approx(found["upper"]["value"] + 3.6889, abs=1e-4)
    before = file.read_bytes()
    assert bridge(checkpoint, file, "--temperatures", "1", "--resume") == 2
    assert "has 2 temperatures a rung" in capsys.readouterr().err
    assert bridge(checkpoint, file, "--temperatures", "2", "--resume", "--seed", "3") == 2
    assert "seed is 0 there and 3 now" in capsys.readouterr().err
    assert main(["plot", str(file)]) == 2
    assert "there is no figure" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert main(["show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chains"] == found["chains"]
    assert main(["show", str(file)]) == 0
    page = capsys.readouterr().out
    assert "Sandwich for model.pt" in page
    assert "log Z, lower bound" in page
    assert "nothing of the checkpoint's own set" in page
    loaded = load(file)
    assert isinstance(loaded, SandwichResult)
    assert loaded.lower.value == found["lower"]["value"]


def test_what_is_of_a_set_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sandwich.h5"
    for option in (("--cutoff", "0.1"), ("--target", "star"), ("--cost", "kl"), ("--budget", "100")):
        assert bridge(checkpoint, file, *option) == 2
        assert f"leave out {option[0]}" in capsys.readouterr().err
    assert bridge(checkpoint, file, "--temperatures", "0") == 2
    assert "temperatures must be at least 1" in capsys.readouterr().err
    assert not file.exists()
