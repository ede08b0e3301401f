import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray
from scipy import stats

from basinscope.cli import main
from basinscope.runs import compare as compare_run
from basinscope.runs.evidence import step_zero
from comparisons.measures import REGISTRY
from comparisons.store import read_comparison

TASK_FILE = Path(__file__).parents[1] / "tiny_task.py"
Run = Callable[..., int]


@pytest.fixture
def pair(tmp_path: Path, tiny: ModuleType) -> list[Path]:
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        path = tmp_path / f"tiny_seed{seed}_step00010.pt"
        torch.save({"model": tiny.network().state_dict(), "metadata": {"seed": seed, "width": 8}}, path)
        found.append(path)
    return found


@pytest.fixture
def compare(pair: list[Path]) -> Run:
    def run(*options: str | Path, files: list[Path] | None = None, measures: str = "curvature,norms") -> int:
        paths = map(str, files or pair)
        words = ["compare", *paths, "--task", f"{TASK_FILE}:tiny", "--measures", measures]
        return main([*words, "--held-out-task", f"{TASK_FILE}:other_data", *map(str, options)])

    return run


def test_json_holds_the_values(compare: Run, pair: list[Path], tiny: ModuleType, capsys: pytest.CaptureFixture) -> None:
    assert compare("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["checkpoint"] for one in found["checkpoints"]] == list(map(str, pair))
    for path, one in zip(pair, found["checkpoints"], strict=True):
        state = torch.load(path, weights_only=True)["model"]
        norm = float(torch.cat([part.flatten() for part in state.values()]).double().norm())
        assert one["measures"]["parameter-norm"]["value"] == pytest.approx(norm, rel=1e-6)
        model = tiny.network()
        model.load_state_dict(state)
        costs = [torch.nn.functional.cross_entropy(model(x), y).item() for x, y in (tiny.rows(), tiny.rows(1))]
        assert one["gap"] == pytest.approx(costs[1] - costs[0], abs=1e-6)
        wrong = [(model(x).argmax(1) != y).double().mean().item() for x, y in (tiny.rows(), tiny.rows(1))]
        assert [one["error"], one["held_out_error"]] == pytest.approx(wrong)
        assert one["error_gap"] == pytest.approx(wrong[1] - wrong[0])
        assert "no step-0 checkpoint" in one["measures"]["distance-from-initialisation"]["failure"]
        assert one["measures"]["hessian-trace"]["work"]["in_gradients"] > 0


def test_the_table_fits_a_hundred_columns(
    compare: Run, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basinscope.terminal.PAGE_WIDTH", 100)
    assert compare() == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "all of tiny_step00010: seed0, seed1" in out
    for measure in REGISTRY:
        if measure.family in ("curvature", "norms"):
            assert measure.title in out


def test_resuming_skips_what_is_done(
    compare: Run, pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, seen = tmp_path / "out.h5", []
    assert compare("--output", output, files=pair[:1]) == 0
    first = read_comparison(output)
    plain = compare_run.examine_file

    def examine(request: compare_run.CompareRequest, name: str, *others: object) -> object:
        seen.append(name)
        return plain(request, name, *others)

    monkeypatch.setattr(compare_run, "examine_file", examine)
    assert compare("--output", output, "--resume") == 0
    both = read_comparison(output)
    assert seen == [str(pair[1])]
    assert len(both.done) == 2
    for name, outcome in first.done[0].outcomes.items():
        kept = both.done[0].outcomes[name]
        assert kept.failure == outcome.failure
        if outcome.reading is not None:
            assert kept.reading is not None
            assert (kept.reading.value, kept.reading.details) == (outcome.reading.value, outcome.reading.details)
    # A checkpoint that has changed is examined anew.
    content = torch.load(pair[0], weights_only=True)
    torch.save({**content, "epoch": 2}, pair[0])
    assert compare("--output", output, "--resume") == 0
    assert seen == [str(pair[1]), str(pair[0])]


def test_other_settings_do_not_resume(compare: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out.h5"
    assert compare("--output", output, measures="parameter-norm") == 0
    assert compare("--output", output, "--resume", "--steps", "9", measures="parameter-norm") == 2
    assert "was made with steps 48, not 9" in capsys.readouterr().err


def test_a_checkpoint_that_fails_is_no_end(
    compare: Run, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wrong = tmp_path / "wrong.pt"
    torch.save({"0.weight": torch.zeros(2, 2)}, wrong)
    assert compare(files=[wrong, pair[0]], measures="parameter-norm") == 0
    assert "wrong.pt failed: " in capsys.readouterr().out
    assert compare(files=[wrong], measures="parameter-norm") == 2
    assert "wrong.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_give_the_same_numbers(compare: Run, capsys: pytest.CaptureFixture) -> None:
    found = []
    for jobs in ("1", "2"):
        assert compare("--table", "csv", "--jobs", jobs, measures="hessian-trace,margin") == 0
        found.append(list(csv.DictReader(io.StringIO(capsys.readouterr().out))))
    for one, two in zip(*found, strict=True):
        assert float(one["value"]) == pytest.approx(float(two["value"]), rel=1e-5)
        assert one["measure"] == two["measure"]


def test_markdown_and_latex(compare: Run, capsys: pytest.CaptureFixture) -> None:
    assert compare("--table", "md", measures="parameter-norm") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| measure | unit | flat | invariant to | gradients | seed0 | seed1 |"
    assert len(lines) == 3
    assert compare("--table", "latex", measures="parameter-norm,hessian-trace") == 0
    assert r"\begin{tabular}{llllrrr}" in capsys.readouterr().out


def test_xarray_opens_the_file(compare: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    assert compare("--output", output, measures="norms") == 0
    with xarray.open_dataset(output, engine="h5netcdf") as data:
        assert data["value"].dims == ("checkpoint", "measure")
        names = [str(name) for name in data["measure_name"].values]
        norm = data["value"].values[:, names.index("parameter-norm")]
        assert np.all(norm > 0.0)


def test_spectra_are_reused_where_they_fit(
    compare: Run, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stored, other = tmp_path / "spectrum.h5", tmp_path / "other.h5"
    for task, path in (("tiny", stored), ("other_data", other)):
        assert main(["spectrum", str(pair[0]), "--task", f"{TASK_FILE}:{task}", "--output", str(path)]) == 0
    capsys.readouterr()
    words = ["--json", "--reuse", stored, "--reuse", other]
    assert compare(*words, measures="hessian-trace") == 0
    first, second = json.loads(capsys.readouterr().out)["checkpoints"]
    assert any("Hessian spectrum reused from spectrum.h5" in note for note in first["notes"])
    assert "other.h5 was not reused: it is of other data" in first["notes"]
    assert second["notes"] == []
    assert first["measures"]["hessian-trace"]["work"]["products"] == 0
    assert second["measures"]["hessian-trace"]["work"]["products"] > 0


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--measures", "hesian-trace"], "did you mean hessian-trace"),
        (["--table", "html"], "--table must be one of md, csv, latex"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--cutoff", "-1"], "cutoff must be positive"),
        (["--resume"], "--resume needs --output"),
        (["--against", "gap"], "need at least 4 checkpoints with a value of gap, got 2"),
        (["--table", "md", "--json"], "exclude each other"),
        (["--agreement-plot", "agreement.png"], "--agreement-plot needs at least 4 checkpoints, got 2"),
        (["--given", "width"], "given width need at least 4 checkpoints"),
    ],
)
def test_bad_words(compare: Run, words: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    assert compare(*words, measures="parameter-norm") == 2
    assert sentence in capsys.readouterr().err


def test_step_zero_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "run_step000.pt").touch()
    assert step_zero(tmp_path / "run_step640.pt") == tmp_path / "run_step000.pt"
    assert step_zero(tmp_path / "run.pt") is None


def test_invariance_of_a_tanh_network(compare: Run, pair: list[Path], capsys: pytest.CaptureFixture) -> None:
    words = {"files": pair[:1], "measures": "hessian-trace,parameter-norm,margin"}
    assert compare("--invariance", "--json", **words) == 0
    found = json.loads(capsys.readouterr().out)
    assert "rescaling is exact only there" in found["changes"]["layer-rescaling"]["failure"]
    assert found["changes"]["permutation"]["output_difference"] < 1e-12
    assert found["changes"]["parameter-scale"]["measures"]["parameter-norm"]["verdict"] == "moved"
    assert found["contradictions"] == []
    assert compare("--invariance", **words) == 0
    assert "x0.0625" in capsys.readouterr().out
    assert compare("--invariance") == 2
    assert "--invariance takes one checkpoint, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["report", "plot", "table", "against", "reuse", "initial", "given", "agreement-plot"]
)
def test_invariance_refuses_what_it_would_ignore(
    compare: Run, pair: list[Path], tmp_path: Path, option: str, capsys: pytest.CaptureFixture
) -> None:
    values = {"report": tmp_path / "r.html", "plot": tmp_path / "p.png", "table": "md", "against": "gap"}
    values |= {"given": "l2", "agreement-plot": tmp_path / "a.png"}
    words = ["--invariance", f"--{option}", values.get(option, pair[0])]
    assert compare(*words, files=pair[:1], measures="parameter-norm") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"--invariance prints a table of its own and takes no --{option}" in err
    assert not (tmp_path / "r.html").exists()


def test_volumes_of_different_sizes_are_not_ranked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = Path(__file__).resolve().parents[3] / "data" / "digits_grid"
    wide, narrow = (sorted(folder.glob(f"lr0.05_*_hidden{hidden}_*"))[:2] for hidden in (16, 32))
    words = ["compare", *map(str, wide + narrow), "--measures", "log-determinant,parameter-norm"]
    assert main([*words, "--steps", "2", "--probes", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted({one["size"] for one in found["checkpoints"]}) == [1210, 2410]
    assert {name: one["comparable"] for name, one in found["measures"].items()} == {
        "log-determinant": False,
        "parameter-norm": True,
    }
    assert [one["measure"] for one in found["rankings"]] == ["parameter-norm"]
    assert main([*words, "--steps", "2", "--probes", "1"]) == 0
    assert "not comparable, and not ranked: log-determinant" in " ".join(capsys.readouterr().out.split())
    same = ["compare", *map(str, wide), "--measures", "log-determinant", "--steps", "2", "--probes", "1", "--json"]
    assert main(same) == 0
    assert json.loads(capsys.readouterr().out)["measures"]["log-determinant"]["comparable"] is True


def test_one_checkpoint_alone_without_its_step_zero(
    compare: Run, pair: list[Path], capsys: pytest.CaptureFixture
) -> None:
    words = {"files": pair[:1], "measures": "distance-from-initialisation,parameter-norm"}
    assert compare("--json", **words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rankings"] == []
    (one,) = found["checkpoints"]
    assert "no step-0 checkpoint" in one["measures"]["distance-from-initialisation"]["failure"]
    assert one["measures"]["parameter-norm"]["value"] > 0.0
    assert compare("--against", "gap", **words) == 2
    assert "need at least 4 checkpoints with a value of gap, got 1" in capsys.readouterr().err


def test_a_checkpoint_without_optimizer_state_steps_back_and_says_so(
    compare: Run, pair: list[Path], tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    content = torch.load(pair[0], weights_only=True)
    model = tiny.network()
    model.load_state_dict(content["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    x, y = tiny.rows()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()
    state["param_groups"][0]["param_names"] = names
    whole = tmp_path / "with_state.pt"
    torch.save({**content, "optimizer": state}, whole)
    assert compare("--json", "--directions", "8", files=[whole, pair[0]], measures="star-domain") == 0
    first, second = json.loads(capsys.readouterr().out)["checkpoints"]
    values = [one["measures"]["star-domain"]["value"] for one in (first, second)]
    # The same parameters, directions along other axes.
    assert None not in values
    assert values[0] != values[1]
    assert first["notes"] == []
    assert second["notes"] == [
        "star-domain takes the diagonal preconditioner, not Adam's: the checkpoint has no optimizer state"
    ]


def test_traces_may_be_left_out(compare: Run, pair: list[Path], tmp_path: Path) -> None:
    words, kept = ["--budget", "20", "--output"], {}
    for option in ("--traces", "--no-traces"):
        path = tmp_path / f"{option}.h5"
        assert compare(option, *words, path, files=pair[:1], measures="learning-coefficient") == 0
        kept[option] = read_comparison(path).done[0].outcomes["learning-coefficient"].reading
    assert kept["--traces"].traces["rise"].ndim == 2
    assert kept["--no-traces"].traces == {}
    assert kept["--traces"].value == kept["--no-traces"].value


def test_rankings_against_a_hyperparameter(
    compare: Run, tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    state, files = tiny.network().state_dict(), []
    for place in range(4):
        files.append(tmp_path / f"tiny_{place}.pt")
        scaled = {name: (1.0 + place) * part for name, part in state.items()}
        torch.save({"model": scaled, "metadata": {"l2": 4.0 - place}}, files[-1])
    words = {"files": files, "measures": "parameter-norm,margin"}
    assert compare("--json", "--against", "l2", **words) == 0
    found = json.loads(capsys.readouterr().out)
    norm = next(one for one in found["rankings"] if one["measure"] == "parameter-norm")
    assert found["against"] == "l2"
    # The norms rise as l2 falls: of 24 orders two are as extreme, and two measures are tested.
    assert (norm["tau"], norm["rho"]) == pytest.approx((-1.0, -1.0))
    assert norm["p"] == pytest.approx(2.0 / 24.0)
    assert compare(**words) == 0
    out = capsys.readouterr().out
    assert "Rank correlation with gap" in out
    assert "What is left of the order by gap" in out


def several(tmp_path: Path, tiny: ModuleType) -> list[Path]:
    files = []
    for place in range(7):
        torch.manual_seed(place)
        state = {name: (1.0 + place) * part for name, part in tiny.network().state_dict().items()}
        files.append(tmp_path / f"tiny_{place}.pt")
        torch.save({"model": state, "metadata": {"l2": [4.0, 3.0, 5.0, 1.0, 2.0, 7.0, 6.0][place]}}, files[-1])
    return files


def test_rankings_given_a_column(compare: Run, tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture) -> None:
    words = {"files": several(tmp_path, tiny), "measures": "parameter-norm,path-norm,margin"}
    assert compare("--json", "--given", "l2", "--given", "margin", **words) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(one["measure"], one["given"]): one for one in found["partial_rankings"]}
    assert {given for _, given in rows} == {"l2", "margin"}
    assert ("margin", "margin") not in rows
    done = found["checkpoints"]
    x = [one["measures"]["path-norm"]["value"] for one in done]
    y, z = [one["gap"] for one in done], [one["hyperparameters"]["l2"] for one in done]
    xy, xz, yz = (stats.kendalltau(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert rows["path-norm", "l2"]["tau"] == pytest.approx(expected)
    for given, sentence in (
        ("gap", "must be another column"),
        ("colour", "is no column of these"),
    ):
        assert compare("--against", "gap", "--given", given, **words) == 2
        assert sentence in capsys.readouterr().err


def test_the_agreement_figure_is_a_file_of_its_own(
    compare: Run, tmp_path: Path, tiny: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    path, words = tmp_path / "agreement.svg", {"files": several(tmp_path, tiny)}
    assert compare("--agreement-plot", path, measures="parameter-norm,path-norm,margin", **words) == 0
    assert "figure of agreement written to" in " ".join(capsys.readouterr().out.split())
    assert "Kendall's tau between measures" in path.read_text()
    assert compare("--agreement-plot", path, measures="parameter-norm,margin", **words) == 2
    assert "use --overwrite" in capsys.readouterr().err
    assert compare("--agreement-plot", path, "--overwrite", measures="parameter-norm", **words) == 2
    assert "needs two measures that vary" in capsys.readouterr().err


def test_report_is_written_once(compare: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "report.html"
    assert compare("--report", page, measures="norms") == 0
    text = page.read_text()
    assert "norm of the parameters" in text
    assert "tiny_seed1_step00010.pt" in text
    capsys.readouterr()
    for options, words in (
        (("--report", page), "use --overwrite"),
        (("--report", tmp_path / "report.pdf"), "must end in .html"),
        (("--report", tmp_path / "none" / "r.html"), "there is no folder"),
    ):
        assert compare(*options, measures="norms") == 2
        assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_report_draws_reused_spectra(
    compare: Run, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stored = tmp_path / "spectrum.h5"
    assert main(["spectrum", str(pair[0]), "--task", f"{TASK_FILE}:tiny", "--output", str(stored)]) == 0
    page = tmp_path / "report.html"
    assert compare("--reuse", stored, "--report", page, measures="hessian-trace") == 0
    assert "Spectral density, tiny_seed0_step00010.pt (spectrum.h5)." in page.read_text()
    assert compare("--reuse", stored, "--report", page, "--overwrite", files=pair[1:], measures="hessian-trace") == 0
    assert "not one of the checkpoints compared here" in page.read_text()
    capsys.readouterr()
