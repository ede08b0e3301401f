"""Options of measures and the default set from the command line: used, recorded, refused, and what it all costs."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

import basinscope
from basinscope.cli import main
from comparisons.measures import DEFAULT
from comparisons.store import read_comparison

TASK = ["--task", f"{Path(__file__).parents[1] / 'tiny_task.py'}:tiny"]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny: ModuleType) -> str:
    torch.manual_seed(0)
    path = tmp_path / "tiny.pt"
    torch.save({"model": tiny.network().state_dict()}, path)
    return str(path)


def values(capsys: pytest.CaptureFixture) -> dict[str, float]:
    (found,) = json.loads(capsys.readouterr().out)["checkpoints"]
    return {name: one["value"] for name, one in found["measures"].items()}


def test_options_count_are_recorded_and_shown(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, file = tmp_path / "c.h5", tmp_path / "measures.toml"
    file.write_text("[sam]\nradius = 0.3\n[keskar]\nstarts = 2\n")
    words = ["compare", checkpoint, *TASK, "--measures", "sam,keskar", "--json"]
    assert main(words) == 0
    usual = values(capsys)
    chosen = ["--settings", str(file), "--set", "sam.radius=0.2", "--output", str(output)]
    assert main([*words, *chosen]) == 0
    other = values(capsys)
    # Along the gradient the cost rises faster than the radius.
    assert other["sam"] > 4.0 * usual["sam"]
    assert read_comparison(output).settings.options == {"keskar": {"starts": 2}, "sam": {"radius": 0.2}}
    assert main(["show", str(output)]) == 0
    assert "options: keskar.starts 2, sam.radius 0.2" in " ".join(capsys.readouterr().out.split())
    options = {"sam": {"radius": 0.2}, "keskar": {"starts": 2}}
    found = basinscope.compare(checkpoint, options, measures=["sam", "keskar"], task=TASK[1])
    assert found.done[0].value("sam") == pytest.approx(other["sam"], rel=1e-6)


def test_other_options_do_not_resume(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["compare", checkpoint, *TASK, "--measures", "sam", "--output", str(tmp_path / "c.h5"), "--json"]
    assert main([*words, "--set", "sam.radius=0.2"]) == 0
    first = values(capsys)
    assert main([*words, "--resume"]) == 2
    assert "was made with sam.radius 0.2, not 0.05: it cannot be continued with it" in capsys.readouterr().err
    assert main([*words, "--set", "sam.radius=0.2", "--resume"]) == 0
    assert values(capsys) == first


def test_resuming_adds_measures_and_loses_none(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "c.h5"
    words = ["compare", checkpoint, *TASK, "--output", str(output), "--json"]
    assert main([*words, "--measures", "sam,gradient-norm", "--set", "sam.radius=0.2"]) == 0
    before = read_comparison(output)
    assert main([*words, "--measures", "parameter-norm", "--resume"]) == 0
    after = read_comparison(output)
    assert set(after.measures) == {"sam", "gradient-norm", "parameter-norm"}
    assert after.settings.options == before.settings.options
    for name, outcome in before.done[0].outcomes.items():
        kept = after.done[0].outcomes[name]
        assert kept.reading.value == outcome.reading.value
        assert kept.work == outcome.work
    assert after.done[0].outcomes["parameter-norm"].reading is not None


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--set", "sam.radius"], "--set must be measure.option=value"),
        (["--set", "sam.radios=1"], "sam has no option 'radios': it has radius; did you mean radius?"),
        (["--set", "sam.radius=-1"], "sam.radius must be a number above 0, got '-1'"),
        (["--set", "wbic.draws=9"], "wbic.draws has no effect: wbic is not among the measures asked for"),
        (["--set", "samm.radius=1"], "there is no measure or family 'samm'; did you mean sam"),
        (["--settings", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_bad_options(checkpoint: str, words: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", checkpoint, *TASK, "--measures", "sam", *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert sentence in err
    assert "Traceback" not in err


def test_the_cost_and_what_has_no_value_are_said_first(checkpoint: str, capsys: pytest.CaptureFixture) -> None:
    measures = "sam,parameter-norm,distance-from-initialisation"
    assert main(["compare", checkpoint, checkpoint, *TASK, "--measures", measures]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "no value: distance-from-initialisation: the parameters at initialisation are not known" in err
    assert "cost: 1 gradient, about 1 s at " in err


def test_the_list_needs_no_checkpoint(capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", "--measures", "list"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "* keskar: Keskar, full space (Keskar et al. 2017; unit %; 100 gradients)" in out
    assert "localisation = 100: g of the pull" in out
    assert main(["compare", "--measures", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name for name, one in found.items() if one["default"]} == DEFAULT
    assert found["learning-coefficient"]["options"]["chains"]["default"] == 8
    assert main(["compare"]) == 2
    assert "compare needs at least one CHECKPOINT" in capsys.readouterr().err
