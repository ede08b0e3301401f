import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from basinscope import choices
from basinscope.cli import main
from basinscope.tasks import make_landscape
from spectra.checkpoint import read_checkpoint
from spectra.costs import kl_from_anchor
from volume.audit import read_report
from volume.bridge import bridge_volume, write_bridge
from volume.chains import BridgeSettings
from volume.priors import GaussianPrior

TINY = Path(__file__).parents[1] / "tiny_task.py"
FEW = ("--repeats", "2", "--directions", "8", "--probes", "2", "--steps", "8", "--no-facts")
KNOWN = ("audit", "--known", "--cases", "ball-2", "--cases", "l4", "--estimators", "star-domain/identity", *FEW)


def test_timings_sum_to_the_whole_and_leave_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*KNOWN, "--json"]) == 0
    plain = capsys.readouterr()
    assert main([*KNOWN, "--json", "--timings"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["rows"] == json.loads(plain.out)["rows"]
    assert "start and imports" not in plain.err
    lines = filter(None, (re.match(r"([a-z ]+?) +([0-9.]+) s ", line) for line in found.err.splitlines()))
    seconds = {line[1]: float(line[2]) for line in lines}
    assert {"time", "start and imports", "products and sampling", "tables"} <= seconds.keys()
    total = seconds.pop("time")
    # Each is rounded to a hundredth.
    assert sum(seconds.values()) == pytest.approx(total, abs=0.005 * (len(seconds) + 1))


def test_known_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*KNOWN, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in found["rows"]] == ["ball-2", "l4-ball-50"]
    ball = found["rows"][0]
    assert ball["truth"]["value"] == pytest.approx(math.log(0.02 * math.pi))
    assert ball["bias"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert not ball["biased"]
    assert main([*KNOWN]) == 0
    page = capsys.readouterr().out
    assert "true log volume -2.77 nat (closed form)" in page
    assert "Markov" in page


def test_stored_shown_drawn_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, figure = tmp_path / "audit.h5", tmp_path / "audit.png"
    assert main([*KNOWN, "--output", str(output), "--plot", str(figure), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["files"] == {"audit": str(output), "figure": str(figure)}
    assert figure.stat().st_size > 10_000
    assert main(["show", str(output), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["rows"] == first["rows"]
    assert main([*KNOWN, "--output", str(output), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == first["rows"]
    assert len(read_report(output).table.rows) == 2
    assert main([*KNOWN, "--output", str(output)]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_checkpoint_with_and_without_a_truth(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", str(checkpoint), "--task", f"{TINY}:tiny", *FEW]
    words += ["--estimators", "star-domain/diagonal", "--estimators", "quadratic-mass", "--prior", "gaussian:1"]
    assert main([*words, "--json"]) == 0
    captured = capsys.readouterr()
    # Of 2 repeats: 8 directions of at least 5 evaluations, and 2 probes of 8 steps by us and by PyHessian.
    assert captured.err.startswith("plan: 3 rows of 2 repeats; 80 evaluations of the cost, at least about ")
    assert "; 64 products, at least about " in captured.err
    found = json.loads(captured.out)
    assert {row["truth"] for row in found["rows"]} == {None}
    assert any("without a truth there is no bias" in note for note in found["notes"])
    values = found["rows"][0]["values"]
    assert main([*words, "--truth", "-3.5:0.25", "--json"]) == 0
    star, mass = json.loads(capsys.readouterr().out)["rows"][:2]
    # A number is of the sublevel set: the star domain is no larger, and that is all that is said of its estimator.
    assert (star["claims"], star["truth"], star["bias"]["value"]) == ("star", None, None)
    assert star["bound"]["value"] == -3.5
    assert star["excess_over_bound"]["value"] == pytest.approx(sum(values) / 2 + 3.5)
    assert (mass["claims"], mass["truth"]["of"], mass["bound"]) == ("sublevel", "sublevel", None)
    assert mass["bias"]["value"] == pytest.approx(mass["mean"]["value"] + 3.5)
    assert main([*words, "--truth", "star=-3.5:0.25", "--truth", "-3:0", "--json"]) == 0
    row, mass = json.loads(capsys.readouterr().out)["rows"][:2]
    assert row["truth"]["value"] == -3.5
    assert row["truth"]["error"] == 0.25
    assert row["bias"]["value"] == pytest.approx(sum(values) / 2 + 3.5)
    assert row["bias"]["standard_error"] >= 0.25
    assert mass["truth"]["value"] == -3.0
    assert main([*words, "--truth", "-3:0", "--truth", "bridge"]) == 2
    assert "given twice for the sublevel set" in capsys.readouterr().err.replace("\n", " ")
    assert main([*words, "--truth", "-3.5:0.25"]) == 0
    # A standard error typed in is taken as known: 1.96 of them.
    assert "± 0.49" in capsys.readouterr().out


def test_a_cutoff_within_the_rounding_of_the_cost_is_said(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", str(checkpoint), "--task", f"{TINY}:tiny", *FEW, "--estimators", "star-domain/identity", "--json"]
    for cutoff, told in (("1e-9", True), ("0.01", False)):
        assert main([*words, "--cutoff", cutoff]) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert any("rounding noise" in note for note in notes) == told


def test_the_truth_of_a_bridge_file(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    landscape = make_landscape(f"{TINY}:tiny", read_checkpoint(checkpoint)).with_cost(kl_from_anchor)
    prior = GaussianPrior(1.0)
    words = ["audit", str(checkpoint), "--task", f"{TINY}:tiny", *FEW, "--estimators", "star-domain/identity"]
    words += ["--estimators", "quadratic-mass", "--cutoff", "0.3", "--json"]
    values = {}
    found = bridge_volume(landscape, prior, BridgeSettings((0.3,), chains=4, draws=10, warm_up=10))
    for target, shift in (("sublevel", 0.0), ("window:0.5", -3.0), ("star", -5.0)):
        settings = dataclasses.replace(found.settings, target=target)
        result = dataclasses.replace(found, settings=settings, log_start=found.log_start + shift)
        path = tmp_path / f"{target[:4]}.h5"
        write_bridge(path, result, {"prior": prior.name})
        values[target] = (result.volume(0.3).log_volume, result.volume(0.3).standard_error)
    files = [word for name in ("star", "subl") for word in ("--truth", str(tmp_path / f"{name}.h5"))]
    assert main([*words, *files, "--prior", "gaussian:1"]) == 0
    star, mass = json.loads(capsys.readouterr().out)["rows"][:2]
    assert (star["truth"]["value"], star["truth"]["error"]) == values["star"]
    assert (mass["truth"]["value"], mass["truth"]["error"]) == values["sublevel"]
    assert main([*words, "--truth", str(tmp_path / "wind.h5"), "--prior", "gaussian:1"]) == 2
    assert "a bridge of window:0.5 is the truth of no estimator" in capsys.readouterr().err.replace("\n", " ")
    words += files
    assert main([*words, "--prior", "gaussian:2"]) == 2
    assert "is of something else: prior is gaussian:1" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "audit needs a checkpoint or --known"),
        (["x.pt", "--known"], "audit needs a checkpoint or --known"),
        (["x.pt"], "x.pt does not exist"),
        (["x.pt", "--truth", "much"], "--truth must be nats"),
        (["x.pt", "--cases", "ball"], "--cases needs --known"),
        (["--known", "--repeats", "1"], "repeats must be at least 2, got 1"),
        (["--known", "--directions", "0"], "directions must be at least 1, got 0"),
        (["--known", "--estimators", "quadratic-mas5"], "did you mean quadratic-mass"),
        (["--known", "--cases", "cube"], "--cases must be among"),
        (["--known", "--prior", "init"], "--prior is of the audit of a checkpoint"),
        (["--known", "--resume"], "--resume needs --output"),
        (["--known", "--plot", "a.txt"], "a plot must end in"),
        (["--known", "--spectrum", "none.h5"], "none.h5 does not exist"),
    ],
)
def test_bad_input(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err.replace("\n", " ")


def test_beginnings_choose_names_in_their_own_order() -> None:
    choose: Callable[..., tuple[str, ...]] = choices.chosen
    assert choose("--cases", (), ("b", "a")) == ("b", "a")
    assert choose("--cases", ("a",), ("b", "ab", "aa")) == ("ab", "aa")


def test_a_spectrum_file_becomes_a_case(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fisher.h5"
    words = ["spectrum", str(checkpoint), "--task", f"{TINY}:tiny", "--operator", "gauss-newton", "--engine", "dense"]
    assert main([*words, "--output", str(path)]) == 0
    size = len(torch.nn.utils.parameters_to_vector(torch.load(checkpoint, weights_only=True)["model"].values()))
    capsys.readouterr()
    audited = ["audit", "--known", "--spectrum", str(path), "--cases", "measured", *FEW, "--json"]
    assert main([*audited, "--estimators", "quadratic-mass"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["case"], row["size"]) == ("measured-fisher", size)
    assert "saddlepoint" in row["truth"]["how"]
