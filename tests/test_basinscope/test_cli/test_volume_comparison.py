"""Volumes of several checkpoints: differences against closed forms, and trajectories that survive a bad file."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from basinscope.cli import main
from basinscope.trajectory import trajectory_files
from basinscope.views import volume_differences
from spectra.estimate import Estimate
from spectra.files import Provenance
from volume.method_result import MethodResult
from volume.study import VolumeSettings, VolumeStudy

TASK = """
import torch
from spectra.checkpoint import load_into
from spectra.landscape import Landscape
class Bowl(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(3).double())
    def forward(self, x):
        return x * self.w
def bowl(checkpoint):
    model = Bowl()
    load_into(checkpoint, model)
    curvature, anchor = checkpoint.metadata["curvature"], model.w.detach().clone()
    cost = lambda outputs, targets: 0.5 * curvature * (outputs - anchor).square().sum(1)
    return Landscape(model, cost, (torch.ones(1, 3).double(), torch.zeros(1).double()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints whose cost is ``c/2 |x|^2`` in three dimensions, c = 1, 4, 16 at steps 2, 10 and 100."""
    (tmp_path / "bowl.py").write_text(TASK)
    place = tmp_path / "run"
    place.mkdir()
    for step, curvature in ((2, 1.0), (10, 4.0), (100, 16.0)):
        save(place / f"clean_step{step}.pt", curvature)
    return place


def save(path: Path, curvature: float) -> None:
    torch.save({"model": {"w": torch.full((3,), 0.5).double()}, "metadata": {"curvature": curvature}}, path)


def run(folder: Path, *words: str | Path) -> int:
    options = ["--task", f"{folder.parent / 'bowl.py'}:bowl", "--method", "ellipsoid-slice", "--directions", "20"]
    return main(["volume", *options, *map(str, words)])


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    captured = capsys.readouterr()
    assert all(line.startswith("plan: ") for line in captured.err.splitlines())
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_the_difference_of_two_balls_is_that_of_their_radii(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = (folder / f"clean_step{step}.pt" for step in (2, 10, 100))
    words = ["--method", "quadratic-mass", "--prior", "gaussian:3", "--against", two, "--against", three, "--json"]
    assert run(folder, one, *words) == 0
    against = answer(capsys)["against"]
    for found, ratio in zip(against, (2.0, 4.0), strict=True):
        rows = {row["method"]: row for row in found["differences"]}
        # Radii sqrt(2 T / c): three dimensions; the prior is nearly flat over these.
        assert rows["ellipsoid-slice"]["difference"] == pytest.approx(3 * math.log(ratio), abs=0.1)
        assert rows["quadratic-mass"]["difference"] == pytest.approx(3 * math.log(ratio), abs=0.05)
        assert rows["ellipsoid-slice"]["reason"] == "paired by common directions, by bootstrap"
        assert "exact" in rows["quadratic-mass"]["reason"]
    assert [found["second"] for found in against] == ["clean_step10.pt", "clean_step100.pt"]


def test_stored_volumes_are_compared_by_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [folder.parent / f"{name}.h5" for name in "ab"]
    for path, step in zip(paths, (10, 2), strict=True):
        assert run(folder, folder / f"clean_step{step}.pt", "--output", path) == 0
    capsys.readouterr()
    assert main(["show", str(paths[0]), "--against", str(paths[1]), "--json"]) == 0
    (found,) = answer(capsys)["against"]
    (row,) = found["differences"]
    assert row["difference"] == pytest.approx(-3 * math.log(2.0), abs=0.1)
    assert main(["show", str(paths[0]), "--against", str(paths[1])]) == 0
    printed = capsys.readouterr().out
    assert "log-volume of clean_step10.pt minus that of b.h5" in printed
    assert main(["show", str(paths[0]), "--against", str(folder / "clean_step2.pt")]) == 2
    assert "must be a volume file too" in capsys.readouterr().err


def test_a_trajectory_is_each_run_alone_and_outlives_a_bad_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "clean_step30.pt").write_bytes(b"no checkpoint")
    kept, picture = folder.parent / "volumes", folder.parent / "trajectory.png"
    words = ["--trajectory", folder, "--output", kept, "--plot", picture]
    assert run(folder, *words, "--json") == 0
    points = answer(capsys)["trajectory"]
    assert [point["step"] for point in points] == [2, 10, 30, 100]
    assert {point["run"] for point in points} == {"clean"}
    assert "clean_step30.pt" in points[2]["failure"]
    values = [point["methods"]["ellipsoid-slice"]["log_volume"] for point in points if point["methods"]]
    assert np.diff(values) == pytest.approx([-3 * math.log(2.0)] * 2, abs=0.1)
    assert picture.stat().st_size > 5_000
    assert {path.name for path in kept.iterdir()} == {f"clean_step{step}.h5" for step in (2, 10, 100)}
    assert run(folder, folder / "clean_step10.pt", "--json") == 0
    assert answer(capsys)["methods"][0]["log_volume"] == values[1]
    assert run(folder, *words, "--resume") == 0
    assert "! clean_step30.pt failed" in capsys.readouterr().out


def test_files_of_a_trajectory_are_in_the_order_of_their_numbers(folder: Path) -> None:
    save(folder / "poisoned_step1.pt", 1.0)
    save(folder / "last.pt", 1.0)
    (folder / "notes.txt").write_text("none")
    names = [(point.run, point.step) for point in trajectory_files(folder)]
    clean = [("clean", step) for step in (2, 10, 100)]
    assert names == [*clean, ("last", None), ("poisoned", 1)]
    assert len(trajectory_files(folder / "clean_*")) == 3
    with pytest.raises(FileNotFoundError, match="found no checkpoint"):
        trajectory_files(folder / "dirty_*")


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give either CHECKPOINT or --trajectory"),
        (["a.pt", "--trajectory", "b"], "give either CHECKPOINT or --trajectory"),
        (["--trajectory", "b", "--against", "a.pt"], "excludes --trajectory"),
        (["--trajectory", "nowhere"], "found no checkpoint"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(folder, *words) == 2
    assert said in capsys.readouterr().err


def study(value: float, samples: list[float], measure: str = "gaussian:1", **settings: Any) -> VolumeStudy:
    spread = float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
    estimate = Estimate(value, spread, samples=np.array(samples))
    result = MethodResult("quadratic-mass", measure, estimate=estimate)
    provenance = Provenance("a.pt", "", "task", "kl", "nat", "float32", "cpu", "")
    chosen = VolumeSettings(methods=("quadratic-mass",), **settings)
    return VolumeStudy(chosen, provenance, {"quadratic-mass": result}, size=3)


def test_common_probes_cancel_and_other_seeds_add_up() -> None:
    one, two = study(10.0, [8.0, 10.0, 12.0]), study(7.0, [5.0, 7.0, 9.0])
    (paired,) = volume_differences(one, two)
    assert (paired.estimate.value, paired.estimate.standard_error) == (3.0, pytest.approx(0.0, abs=1e-12))
    assert paired.reason == "paired by common probes"
    assert "the first is larger" in paired.statement
    (apart,) = volume_differences(one, study(7.0, [5.0, 7.0, 9.0], seed=1))
    assert apart.estimate.standard_error == pytest.approx(math.sqrt(2) * 2 / math.sqrt(3))
    assert apart.statement == "no difference can be told at 95 %"
    (other,) = volume_differences(one, study(7.0, [5.0, 7.0, 9.0], measure="gaussian:2"))
    assert "the priors differ" in other.statement
    with pytest.raises(ValueError, match="share their cutoff"):
        volume_differences(one, study(7.0, [5.0, 7.0, 9.0], cutoff=1.0))
