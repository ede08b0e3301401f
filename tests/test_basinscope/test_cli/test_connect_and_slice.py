"""``basinscope connect`` and ``basinscope slice``: what they print and keep, their calls, resumption and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import basinscope
from basinscope import Landscape, UserError
from basinscope.cli import main
from basinscope.failures import Interrupted
from comparisons.connections import CostSlice, read_connection, read_slice

TASK = f"{Path(__file__).parents[1] / 'tiny_task.py'}:tiny"


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert run(*words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def other(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint's network with its 8 hidden units in another order."""
    model = torch.load(checkpoint, weights_only=True)["model"]
    order = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])
    moved = model | {"0.weight": model["0.weight"][order], "0.bias": model["0.bias"][order]}
    torch.save({"model": moved | {"2.weight": model["2.weight"][:, order]}}, tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_a_permuted_checkpoint_is_told_in_table_json_and_call(
    checkpoint: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("connect", checkpoint, other, "--task", TASK, "--output", tmp_path / "c.h5", "--plot", tmp_path / "c.png")
    assert run(*words) == 0
    out, err = capsys.readouterr()
    assert "plan: 2 paths, 50 evaluations of the cost, about" in err
    assert "0 > 2: 7 of 8 units moved" in out
    found = printed(capsys, "show", tmp_path / "c.h5")
    straight, aligned = found["paths"]
    assert straight["barrier"]["height"] > 1e-3
    assert straight["known_to_tolerance"]
    assert abs(aligned["barrier"]["height"]) < 1e-6
    assert aligned["distance"] < 1e-6
    assert "aligned none above" in " ".join(out.split())
    called = basinscope.connect(checkpoint, other, task=TASK)
    path = called.path("straight")
    assert path is not None
    np.testing.assert_allclose(path.costs, straight["costs"], atol=1e-7)
    rows = called.to_dataframe().set_index("path")
    assert rows.above_chord["straight"].max() == path.barrier.height
    assert (tmp_path / "c.png").stat().st_size > 10_000


def test_a_slice_is_told_in_table_json_and_call(
    checkpoint: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--task", TASK, "--points", "7", "--dtype", "float64")
    assert run("slice", checkpoint, *options, "--output", tmp_path / "s.h5") == 0
    out, err = capsys.readouterr()
    assert "plan: 49 evaluations of the cost" in err
    assert "window of 7 × 7 points" in out
    found = printed(capsys, "show", tmp_path / "s.h5")
    assert len(found["departures"]) == 4
    assert found["costs"][3][3] == pytest.approx(found["cost"], rel=1e-12)
    assert found["curvature"][0][0] == pytest.approx(found["eigenvalues"][0], rel=1e-8)
    assert run("plot", tmp_path / "s.h5") == 0
    assert (tmp_path / "s.png").stat().st_size > 10_000
    trained = basinscope.slice(checkpoint, task=TASK, points=7, machine=basinscope.Machine(dtype="float64"))
    np.testing.assert_allclose(trained.costs, found["costs"], rtol=1e-6)
    start = tmp_path / "start.pt"
    torch.save({"model": {name: 0.5 * one for name, one in torch.load(other)["model"].items()}}, start)
    three = printed(capsys, "slice", checkpoint, other, start, *options, "--plot", tmp_path / "three.png")
    assert three["places"][0][1] == pytest.approx(0.0, abs=1e-9)
    assert three["place_costs"][0] == pytest.approx(three["cost"], rel=1e-6)
    assert (tmp_path / "three.png").stat().st_size > 10_000


def test_interrupted_and_resumed(checkpoint: Path, other: Path, tmp_path: Path) -> None:
    whole = basinscope.slice(checkpoint, task=TASK, points=6)

    def stop(done: int, total: int, what: str) -> None:
        if "window" in what and done == 18:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"3 rows are saved in .*s\.h5; go on with the same command and --resume"):
        basinscope.slice(checkpoint, task=TASK, points=6, output=tmp_path / "s.h5", progress=stop)
    assert read_slice(tmp_path / "s.h5").rows_done == 3
    with pytest.raises(UserError, match="points is 6 there and 7 now"):
        basinscope.slice(checkpoint, task=TASK, points=7, output=tmp_path / "s.h5", resume=True)
    with pytest.raises(UserError, match="checkpoint_sha256 of checkpoint 1 is"):
        basinscope.slice(other, task=TASK, points=6, output=tmp_path / "s.h5", resume=True)
    resumed = basinscope.slice(checkpoint, task=TASK, points=6, output=tmp_path / "s.h5", resume=True)
    assert isinstance(resumed, CostSlice)
    np.testing.assert_allclose(resumed.costs, whole.costs, atol=1e-6)
    assert resumed.complete

    def halt(done: int, total: int, what: str) -> None:
        if done > 12:
            raise KeyboardInterrupt

    call: dict[str, Any] = {"task": TASK, "output": tmp_path / "c.h5"}
    with pytest.raises(Interrupted, match=r"11 points are saved in .*c\.h5"):
        basinscope.connect(checkpoint, other, **call, progress=halt)
    assert not read_connection(tmp_path / "c.h5").complete
    assert run("show", tmp_path / "c.h5") == 0
    found = basinscope.connect(checkpoint, other, **call, resume=True)
    for path, truth in zip(found.paths, basinscope.connect(checkpoint, other, task=TASK).paths, strict=True):
        assert np.array_equal(path.places, truth.places)
        assert np.array_equal(path.costs, truth.costs)
    # A smaller tolerance goes on with what there is.
    finer = basinscope.connect(checkpoint, other, **call, resume=True, tolerance=1e-5)
    assert len(finer.paths[0].places) > len(found.paths[0].places)
    assert finer.paths[0].barrier.error < found.paths[0].barrier.error


def test_what_cannot_be_is_refused_in_a_sentence(
    checkpoint: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Any
) -> None:
    for words, sentence in (
        (("slice", checkpoint, other), "a slice leads through one checkpoint or three, got 2"),
        (("slice", checkpoint, "--axes", "1"), "--axes must be two whole numbers, such as 1,2 or 1,-1; got '1'"),
        (("slice", checkpoint, "--axes", "2,2"), "axes must be the numbers of two different eigenvectors"),
        (("connect", checkpoint, other, "--matching", "weight"), "did you mean weights"),
        (("connect", checkpoint, other, "--tolerance", "2"), "tolerance must lie between 0 and 1"),
        (("connect", checkpoint, other, "--output", other), "is the file of SECOND too"),
    ):
        capsys.readouterr()
        assert run(*words, "--task", TASK) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
    one = Landscape(tiny.network(), basinscope.cross_entropy, tiny.rows())
    with pytest.raises(UserError, match="all checkpoints as files, or all as landscapes"):
        basinscope.connect(one, checkpoint)
    with pytest.raises(TypeError, match=r"point is no field of PathSettings: .*did you mean points"):
        basinscope.connect(one, one, point=3)
