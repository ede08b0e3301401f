"""Comparisons that go on with a file, and tables for other programs: nothing stale is kept, no failure hidden."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from basinscope.cli import main

TASK_FILE = Path(__file__).parents[1] / "tiny_task.py"
TRAINING, OTHER = (["--task", f"{TASK_FILE}:{name}"] for name in ("tiny", "other_data"))


@pytest.fixture
def checkpoint(tmp_path: Path, tiny: ModuleType) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.pt"
    torch.save({"model": tiny.network().state_dict()}, path)
    return path


def row(capsys: pytest.CaptureFixture) -> dict:
    (found,) = json.loads(capsys.readouterr().out)["checkpoints"]
    return found


def test_other_data_is_not_resumed(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["compare", str(checkpoint), "--measures", "gradient-norm", "--output", str(tmp_path / "c.h5"), "--json"]
    assert main([*words, *TRAINING]) == 0
    first = row(capsys)
    assert main([*words, *TRAINING, "--resume"]) == 0
    again = row(capsys)
    assert again["provenance"]["created"] == first["provenance"]["created"]
    assert main([*words, *OTHER, "--resume"]) == 0
    other = row(capsys)
    assert other["provenance"]["task"].endswith("other_data")
    assert other["data_sha256"] != first["data_sha256"]
    assert other["measures"]["gradient-norm"]["value"] != first["measures"]["gradient-norm"]["value"]
    # Held-out rows where there were none.
    assert other["held_out_cost"] is None
    assert main([*words, *OTHER, "--held-out-task", f"{TASK_FILE}:tiny", "--resume"]) == 0
    assert row(capsys)["held_out_cost"] == pytest.approx(first["cost"], rel=1e-6)


def test_another_initialisation_is_not_resumed(
    checkpoint: Path, tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    words = ["compare", str(checkpoint), *TRAINING, "--measures", "distance-from-initialisation,parameter-norm"]
    words += ["--output", str(tmp_path / "c.h5"), "--json"]
    assert main(words) == 0
    assert "not known" in row(capsys)["measures"]["distance-from-initialisation"]["failure"]
    start = tmp_path / "start.pt"
    torch.save({"model": {name: 0.0 * part for name, part in tiny.network().state_dict().items()}}, start)
    assert main([*words, "--initial", str(start), "--resume"]) == 0
    measures = row(capsys)["measures"]
    distance, norm = (measures[name]["value"] for name in ("distance-from-initialisation", "parameter-norm"))
    assert distance == pytest.approx(norm)


@pytest.mark.parametrize("kind", ["md", "csv", "latex"])
def test_tables_for_programs_leave_what_failed_to_stderr(
    checkpoint: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    wrong = tmp_path / "wrong.pt"
    torch.save({"0.weight": torch.zeros(2, 2)}, wrong)
    measures = "parameter-norm,distance-from-initialisation"
    words = ["compare", str(wrong), str(checkpoint), *TRAINING, "--measures", measures, "--table", kind]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "wrong.pt failed: " in err
    assert "failed" not in out
    # Only CSV has a column for remarks.
    told = any(line.startswith("! distance") and "no step-0 checkpoint" in line for line in err.splitlines())
    assert ("no step-0 checkpoint" in out, told) == (kind == "csv", kind != "csv")


def test_rankings_that_cannot_be_are_refused_before_anything_is_computed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "c.h5"
    assert main(["compare", str(checkpoint), *TRAINING, "--against", "gap", "--output", str(output)]) == 2
    assert "need at least 4 checkpoints with a value of gap, got 1" in capsys.readouterr().err
    assert not output.exists()


def test_a_word_like_no_measure_is_told_the_families(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(checkpoint), *TRAINING, "--measures", "frobnicate"]) == 2
    assert "no measure or family 'frobnicate'; families are curvature, sharpness," in capsys.readouterr().err
