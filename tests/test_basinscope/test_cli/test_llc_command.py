"""``basinscope llc`` from the command line and from Python: what it says first, what it writes, how it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import basinscope
from basinscope.cli import main
from comparisons.calibration import Outlook, read_calibration

TASK_FILE = Path(__file__).parents[1] / "tiny_task.py"
QUICK = ("--steps", "20", "--calls", "2", "--chains", "1", "--inverse-temperature", "10", "--localisation", "20,40")
Run = Callable[..., int]


@pytest.fixture
def llc(checkpoint: Path) -> Run:
    def run(*options: str | Path, words: tuple[str, ...] = QUICK) -> int:
        return main(["llc", str(checkpoint), "--task", f"{TASK_FILE}:tiny", *words, *map(str, options)])

    return run


def test_what_it_will_cost_is_said_first_and_the_numbers_go_on_stdout(
    llc: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        llc(
            "--json",
            "--output",
            tmp_path / "llc.h5",
        )
        == 0
    )
    out, err = capsys.readouterr()
    lines = err.splitlines()
    # 10 cells of 2 chains, 20 steps on all 40 rows, and two checks of two gradients.
    assert lines[0].startswith("cost: 480 gradients, about ")
    assert "10 cells of 2 calls, 1 chain each, 20 steps on 40 of 40 rows" in lines[0]
    assert lines[1].startswith("memory: 20 chains at a time")
    assert any("minimum of" in line for line in lines)
    assert any(line.startswith("grid: ") and "by the spectrum" in line for line in lines)
    found = json.loads(out)
    assert len(found["cells"]) == 10
    assert found["gradients"] == pytest.approx(480.0)
    assert found["refused"] is not None
    assert found["headline"].startswith("no value: no plateau, for ")
    one = found["cells"][0]
    assert {"coefficient", "predicted", "step_limit", "burn_in_needed", "rhat", "acceptance", "failed_share"} <= set(
        one
    )


def test_a_stored_calibration_is_shown_drawn_and_loaded(
    llc: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "llc.h5"
    assert llc("--output", file) == 0
    first = capsys.readouterr().out
    assert main(["show", str(file)]) == 0
    assert capsys.readouterr().out == first.replace(f"calibration written to {file}\n", "")
    assert main(["show", str(file), "--table", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 11
    assert main(["plot", str(file)]) == 0
    assert (tmp_path / "llc.png").read_bytes().startswith(b"\x89PNG")
    loaded = basinscope.load(file)
    assert type(loaded).__name__ == "Calibration"
    assert len(loaded.to_dataframe()) == 10
    assert "no plateau" in repr(loaded)
    assert main(["show", str(file), "--against", str(file)]) == 2


def test_pages_of_80_columns_hold_it(llc: Run, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basinscope.terminal.PAGE_WIDTH", 80)
    assert llc() == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_going_on_gives_the_same_numbers_and_other_settings_are_refused(
    llc: Run, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    assert llc("--output", whole) == 0
    import comparisons.calibration.ensemble as module

    advance, calls = module.Ensemble.advance, 0

    def interrupted(self: module.Ensemble, count: int) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return advance(self, count)

    with monkeypatch.context() as patch:
        patch.setattr("comparisons.calibration.run.SAVE_EVERY", -1.0)
        patch.setattr(module.Ensemble, "advance", interrupted)
        assert llc("--output", parts) == 130
    assert "go on with the same command and --resume" in capsys.readouterr().err
    begun = read_calibration(parts)
    assert not begun.complete
    assert begun.underway is not None
    assert main(["show", str(parts)]) == 0
    assert "not complete" in capsys.readouterr().out
    assert llc("--output", parts, "--resume", "--seed", "1") == 2
    assert "seed is 0 there and 1 now" in capsys.readouterr().err
    assert llc("--output", parts, "--resume") == 0
    one, two = read_calibration(whole), read_calibration(parts)
    assert np.allclose(one.rises, two.rises, rtol=1e-5, atol=1e-7)
    assert one.complete
    assert two.complete


def test_settings_are_refused_without_a_plateau_and_the_numbers_stay(
    llc: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "llc.toml"
    assert llc("--settings-output", file) == 2
    out, err = capsys.readouterr()
    assert "no value: no plateau" in out
    assert "there are no settings to write" in err
    assert not file.exists()
    file.write_text("dear diary")
    assert llc("--settings-output", file, "--overwrite") == 2
    assert file.read_text() == "dear diary"


@pytest.mark.parametrize(
    "words, said",
    [
        (("--localisation", "1:2"), "--localisation must be A:B:N"),
        (("--step-sizes", "0.1,-1"), "--step-sizes must be positive"),
        (("--penalty", "much"), "penalty must be auto or none, or a number"),
        (("--tolerance", "2"), "tolerance must lie between 0 and 1"),
        (("--steps", "1"), "steps must be at least 8"),
        (("--sampler", "hmc"), "--sampler must be one of sgld, rmsprop, mala; got 'hmc'"),
        (("--sampler", "mala", "--batch-size", "8"), "--batch-size must be left out with --sampler mala, which takes"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    llc: Run, capsys: pytest.CaptureFixture, words: tuple[str, ...], said: str
) -> None:
    assert llc(*words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_steps_that_are_accepted_or_rejected_are_counted_and_shown(
    llc: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "llc.h5"
    assert llc("--json", "--sampler", "mala", "--output", file, "--plot", tmp_path / "llc.png") == 0
    out, err = capsys.readouterr()
    # 10 cells of 2 chains, 20 steps on all rows and one gradient at the start.
    assert err.startswith("cost: 420 gradients, about ")
    found = json.loads(out)
    assert found["gradients"] == pytest.approx(420.0)
    assert {one["predicted_bias"] for one in found["cells"]} == {0.0}
    assert all(0.0 < one["predicted_acceptance"] <= 1.0 for one in found["cells"])
    assert main(["show", str(file)]) == 0
    assert "20 steps (mala)" in capsys.readouterr().out


def test_a_preconditioned_run_is_stored_with_its_spectrum(
    llc: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "llc.h5"
    assert llc("--output", file, "--sampler", "rmsprop", "--plot", tmp_path / "llc.png") == 0
    out, err = capsys.readouterr()
    # Beside 480 gradients of the chains two times 2 pilots of 200 steps at 2 places.
    assert err.startswith("cost: 2,080 gradients, about ")
    assert "20 steps (rmsprop)" in out
    found = read_calibration(file)
    assert found.metric is not None
    least, mean = found.metric.factors_at(10.0, 20.0)
    assert 0.0 < least < mean < 1.0
    # Shorter steps can go further: the limit is that of the metric, and no less than without it.
    plain = Outlook(found.outlook.density, found.slope)
    for one in found.cells:
        pull = np.array(one.chains.localisation)
        assert one.outlook.prediction.step_limit > plain.limits(10.0, pull)


def test_python_does_the_same(tiny: ModuleType, checkpoint: Path) -> None:
    model = tiny.network()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    options = {"steps": 20, "calls": 2, "chains": 1, "inverse_temperatures": (10.0,), "localisations": (20.0, 40.0)}
    found = basinscope.llc(checkpoint, task=f"{TASK_FILE}:tiny", **options)
    own = basinscope.llc(basinscope.Landscape(model, basinscope.cross_entropy, tiny.rows()), **options)
    assert np.allclose(found.rises, own.rises, rtol=1e-5, atol=1e-7)
    with pytest.raises(basinscope.UserError, match="did you mean calls"):
        basinscope.llc(checkpoint, task=f"{TASK_FILE}:tiny", call=3)
