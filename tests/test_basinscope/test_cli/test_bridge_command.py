import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from basinscope.cli import main
from volume.bridge import read_bridge, write_bridge

TINY = Path(__file__).parents[1] / "tiny_task.py"
LINEAR = Path(__file__).parents[1] / "linear_task.py"
SMALL = ("--chains", "8", "--draws", "24", "--warm-up", "8")


def bridge(checkpoint: Path, output: Path, *options: str, task: str = f"{TINY}:tiny") -> int:
    return main(["bridge", str(checkpoint), "--task", task, "--output", str(output), *SMALL, *options])


@pytest.mark.parametrize("origin", [pytest.param("prior", marks=pytest.mark.slow), "quadratic"])
def test_the_mass_of_a_linear_models_basin_is_that_of_brute_force(
    origin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.path.insert(0, str(LINEAR.parent))
    try:
        import linear_task
    finally:
        sys.path.pop(0)
    minimum = linear_task.minimum()
    file = tmp_path / "linear.pt"
    torch.save({"weight": minimum[:3].reshape(1, 3).clone(), "bias": minimum[3:].clone()}, file)
    options = ("--prior", "gaussian:1", "--cutoff", "0.1", "--cutoff", "0.4", "--origin", origin, "--json")
    assert bridge(file, tmp_path / "bridge.h5", *options, "--draws", "80", task=f"{LINEAR}:linear") == 0
    found = json.loads(capsys.readouterr().out)
    points = torch.randn(2_000_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - minimum
    costs = 0.5 * ((points @ linear_task.hessian()) * points).sum(1)
    for volume in found["volumes"]:
        share = float((costs < volume["cutoff"]).double().mean())
        error = math.hypot(volume["standard_error"], (1 / share / 2e6) ** 0.5)
        # Student's t of 7 degrees is beyond 8 with probability 9e-5.
        assert abs(volume["log_volume"] - math.log(share)) < 8.0 * error
        assert error < 0.4
    assert found["complete"]
    assert found["ended"] == "passes"
    assert [volume["cutoff"] for volume in found["volumes"]] == [0.4, 0.1]


def test_sets_of_one_checkpoint_side_by_side(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One ladder, and copies of it that pass for other sets with masses that are known to be smaller, or larger."""
    whole = tmp_path / "whole.h5"
    assert bridge(checkpoint, whole, "--prior", "gaussian:1", "--cutoff", "0.3") == 0
    capsys.readouterr()
    result, source = read_bridge(whole)
    value = result.volume(0.3).log_volume

    def other(target: str, shift: float, **made: str) -> str:
        path = tmp_path / f"{target[:4]}{shift:g}.h5"
        changed = replace(result, settings=replace(result.settings, target=target), log_start=result.log_start + shift)
        write_bridge(path, changed, source | made)
        return str(path)

    star, window = other("star", -7.0), other("window:0.25", -2.0)
    assert main(["show", star, str(whole), window, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["sublevel", "sublevel up to symmetry", "window:0.25", "star"]
    assert [row["set"] for row in found["sets"]] == names
    # 8 tanh units: 8! orders and 2^8 signs.
    copies = math.log(math.factorial(8) * 2**8)
    values = [row["log_volume"] for row in found["sets"]]
    assert values == pytest.approx([value, value - copies, value - 2.0, value - 7.0])
    assert found["cautions"] == []
    assert found["symmetry"]["pairs"] == 28
    assert found["symmetry"]["aligned"] >= found["symmetry"]["both"]
    volume = [str(checkpoint), "--task", f"{TINY}:tiny", "--prior", "gaussian:1", "--method", "quadratic-mass"]
    study = str(tmp_path / "volume.h5")
    assert main(["volume", *volume, "--cutoff", "0.3", "--negative", "clip", "--output", study, "--json"]) == 0
    (method,) = json.loads(capsys.readouterr().out)["methods"]
    assert main(["show", str(whole), study, "--json"]) == 0
    (*_, quadratic) = json.loads(capsys.readouterr().out)["sets"]
    assert (quadratic["set"], quadratic["file"]) == ("quadratic mass", "volume.h5")
    assert quadratic["log_volume"] == pytest.approx(method["log_volume"])
    assert main(["show", str(whole), other("star", 9.0)]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "! star lies in sublevel, and comes out larger by 9 nat" in page
    assert "exact only if copies do not touch" in page
    for words, sentence in (
        ([star, other("star", 1.0)], "two of the files are bridges of star"),
        ([str(whole), other("star", -1.0, prior="gaussian:2")], "prior is gaussian:2 and not gaussian:1"),
        ([str(whole), star, "--against", star], "without --against"),
        ([str(whole), str(whole)], "whole.h5 is given twice"),
    ):
        assert main(["show", *words]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_stored_shown_drawn_compared_and_resumed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, figure = tmp_path / "one.h5", tmp_path / "two.h5", tmp_path / "one.png"
    options = ("--prior", "gaussian:1", "--cutoff", "0.3")
    assert bridge(checkpoint, one, *options, "--plot", str(figure)) == 0
    captured = capsys.readouterr()
    # 8 chains of 8 + 24 trajectories, each of one gradient at least.
    assert captured.err.startswith("plan: a rung takes at least 256 gradients, about ")
    assert captured.err.endswith("how many rungs is not known before, --budget bounds it\n")
    page = captured.out
    assert "Bridge of model.pt: sublevel from the prior" in page
    assert "50 parameters" in page
    assert "log V (nat)" in page
    assert figure.stat().st_size > 10_000
    assert bridge(checkpoint, one, *options, "--resume", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert bridge(checkpoint, two, *options, "--seed", "1", "--work-spread", "1.5") == 0
    capsys.readouterr()
    assert main(["show", str(one), "--against", str(two), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["volumes"] == first["volumes"]
    assert len(shown["differences"]) > 3
    for each in shown["differences"]:
        # Ten or so, each of 7 degrees or more: beyond 12 with probability 7e-6.
        assert abs(each["difference"]) < 12.0 * each["standard_error"]
    assert main(["show", str(one), "--against", str(two)]) == 0
    page = capsys.readouterr().out
    assert "in standard errors" in page
    assert "both are of the same" in page
    assert shown["unlike"] == {}
    star = tmp_path / "star.h5"
    # Far above the costs of the prior's draws a ladder has few rungs.
    assert bridge(checkpoint, star, "--prior", "gaussian:2", "--cutoff", "3", "--target", "star") == 0
    capsys.readouterr()
    assert main(["show", str(one), "--against", str(star)]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "not of the same: prior gaussian:1 (given) here and gaussian:2 (given) there; target sublevel here" in page
    assert main(["plot", str(two), "--output", str(tmp_path / "two.png")]) == 0
    assert (tmp_path / "two.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_budget_ends_a_ladder_that_goes_on_later(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, whole = tmp_path / "part.h5", tmp_path / "whole.h5"
    options = ("--prior", "gaussian:1", "--cutoff", "0.1")
    assert bridge(checkpoint, file, *options, "--budget", "800") == 0
    page = capsys.readouterr().out
    assert "not complete: inverse temperature" in page
    assert "ended by budget" in page
    assert main(["show", str(file), "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["curve"]
    assert main(["plot", str(file)]) == 2
    assert "complete" in capsys.readouterr().err
    assert main(["show", str(file), "--against", str(file), "--json"]) == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert len(differences) > 3
    assert {each["difference"] for each in differences} == {0.0}
    assert bridge(checkpoint, file, *options, "--resume") == 0
    assert bridge(checkpoint, whole, *options) == 0
    assert read_bridge(file)[0].volumes == read_bridge(whole)[0].volumes
    # What the first rungs told of larger cutoffs is what the whole ladder tells there.
    assert len(curve) > 3
    for each in curve:
        later = read_bridge(whole)[0].volume(each["cutoff"])
        # They share those rungs' draws.
        assert abs(each["log_volume"] - later.log_volume) < 3.0 * each["standard_error"]


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ("--prior", "uniform:1"),
            "--prior of a bridge must be gaussian, gaussian:S, init or student:S:NU; got 'uniform:1'",
        ),
        (("--temperatures", "4"), "--temperatures is of bounds from both sides: give --sandwich too"),
        (("--target", "stars"), "the target must be sublevel, star or window:W with 0 < W < 1"),
        (("--origin", "priori"), "did you mean prior?"),
        (("--cutoff", "0"), "cutoffs must be positive and finite"),
        (("--cutoff", "1e-12"), "is below the cost's rounding noise"),
        (("--chains", "2"), "chains must be at least 4, got 2"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--plot", "x.txt"), "a plot must end in .png"),
    ],
)
def test_bad_input_is_one_sentence(
    options: tuple[str, ...], words: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bridge(checkpoint, tmp_path / "bridge.h5", "--prior", "gaussian:1", *options) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not (tmp_path / "bridge.h5").exists()


def test_a_bridge_of_something_else_is_not_gone_on_with(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bridge.h5"
    options = ("--prior", "gaussian:1", "--budget", "100")
    assert bridge(checkpoint, file, *options) == 0
    before = file.read_bytes()
    assert bridge(checkpoint, file, *options) == 2
    assert "exists: use --overwrite" in capsys.readouterr().err
    assert bridge(checkpoint, file, *options, "--resume", "--seed", "3") == 2
    assert "seed is 0 there and 3 now" in capsys.readouterr().err
    assert bridge(checkpoint, file, *options, "--resume", task=f"{TINY}:other_data") == 2
    assert "data_sha256 is" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.slow
def test_a_process_killed_at_random_moments_goes_on_to_the_same_numbers(checkpoint: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"

    def start(output: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "basinscope", "bridge", str(checkpoint), "--task", f"{TINY}:tiny"]
        words += ["--prior", "gaussian:1", "--cutoff", "0.05", *SMALL, "--work-spread", "0.6"]
        return subprocess.Popen([*words, "--output", str(output), "--resume"], stdout=subprocess.DEVNULL)

    assert start(whole).wait(300) == 0
    rungs = read_bridge(whole)[0].rung_count
    generator = np.random.default_rng(0)
    seen = 0
    for _ in range(2):
        process = start(parts)
        # A rung is on the disk before the next is begun: wait for some more, then kill in the middle of one.
        goal = seen + int(generator.integers(2, max(3, rungs // 3)))
        deadline = time.monotonic() + 300.0
        while seen < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            seen = read_bridge(parts)[0].rung_count if parts.exists() else 0
        time.sleep(float(generator.uniform(0.0, 0.2)))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        left = read_bridge(parts)[0].rung_count
        assert left >= goal  # what was seen is not lost
        seen = left
    assert seen < rungs  # or nothing was left to go on with
    assert start(parts).wait(300) == 0
    one, two = read_bridge(whole)[0], read_bridge(parts)[0]
    assert one.volumes == two.volumes
    assert one.rung_count == two.rung_count
    # What a kill in the middle of writing left behind is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "parts.h5", "whole.h5"]
