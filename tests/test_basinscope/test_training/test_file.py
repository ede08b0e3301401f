"""The file of a tracked run: appended to, gone on with, never half, and read by all that reads results."""

import copy
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure
from torch import Tensor, nn

from basinscope import load
from basinscope.cli import main
from basinscope.training import CurvatureReading, Tracker, TrainingCurves, training_figure
from basinscope.training.tracker import Budget
from spectra.errors import UserError

Data = tuple[Tensor, Tensor]
Descend = Callable[..., Tracker]
LITTLE: dict[str, Any] = {"eigenvalues": 2, "probes": 2, "samples": 4, "share": None}


def told(curves: TrainingCurves) -> list[CurvatureReading]:
    """What the readings say, without how long they took."""
    return [replace(one, seconds=0.0) for one in curves.readings]


def test_the_file_holds_what_was_recorded(descend: Descend, tmp_path: Path) -> None:
    curves = descend(0, 4, output=tmp_path / "run.h5", **LITTLE).curves
    found = load(tmp_path / "run.h5")
    assert isinstance(found, TrainingCurves)
    assert repr(found.readings) == repr(curves.readings)
    assert (found.settings, found.provenance, found.every) == (curves.settings, curves.provenance, 2)
    assert found.steps.tolist() == [0, 2, 4]
    with xarray.open_dataset(tmp_path / "run.h5", engine="h5netcdf") as opened:
        assert opened.eigenvalues.dims == ("step", "eigenpair")
        assert opened.eigenvalues.attrs["units"] == "cost / parameter^2"
        assert opened.trace.attrs["long_name"] == "trace of the Hessian"
        assert opened.step.values.tolist() == [0, 2, 4]
        assert float(opened.trace.sel(step=2)) == curves.readings[1].trace
    frame = found.to_dataframe().set_index("step")
    assert frame.eigenvalue_2.tolist() == curves.eigenvalues[:, 1].tolist()


def test_a_run_that_goes_on_is_that_of_one_go(
    descend: Descend, network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = {name: one.clone() for name, one in network.state_dict().items()}
    whole = descend(0, 6, output=tmp_path / "whole.h5", **LITTLE).curves
    network.load_state_dict(start)
    descend(0, 2, **LITTLE)
    saved = {name: one.clone() for name, one in network.state_dict().items()}
    network.load_state_dict(start)
    descend(0, 4, output=tmp_path / "parts.h5", **LITTLE)
    # Killed after step 4, it goes on from its checkpoint of step 3: what was recorded beyond is recorded again.
    network.load_state_dict(saved)
    descend(3, 6, output=tmp_path / "parts.h5", resume=True, **LITTLE)
    parts = load(tmp_path / "parts.h5")
    assert repr(told(parts)) == repr(told(whole))
    assert main(["show", str(tmp_path / "parts.h5"), "--json"]) == 0
    assert [one["step"] for one in json.loads(capsys.readouterr().out)["steps"]] == [0, 2, 4, 6]


def test_what_does_not_go_together_is_refused(descend: Descend, network: nn.Module, data: Data, tmp_path: Path) -> None:
    descend(0, 0, output=tmp_path / "run.h5", **LITTLE)
    before = (tmp_path / "run.h5").read_bytes()
    with pytest.raises(FileExistsError, match="run.h5 exists"):
        Tracker(network, nn.CrossEntropyLoss(), data, output=tmp_path / "run.h5")
    for changes, words in (({"eigenvalues": 3}, "other settings"), ({"standard_deviation": 9.0}, "other standard")):
        with pytest.raises(UserError, match=f"holds a run of {words}"):
            descend(2, 2, output=tmp_path / "run.h5", resume=True, **{**LITTLE, **changes})
    fewer, place = (data[0][:9], data[1][:9]), tmp_path / "run.h5"
    other = Tracker(network, nn.CrossEntropyLoss(), fewer, output=place, resume=True, **LITTLE)
    with pytest.raises(UserError, match="other data"):
        other.step(2)
    other.close()
    steeper = nn.Sequential(*[nn.Sigmoid() if isinstance(one, nn.Tanh) else one for one in network])
    single = (data[0].float(), data[1])
    for another, rows, words in ((steeper, data, "model"), (copy.deepcopy(network).float(), single, "dtype")):
        tracker = Tracker(another, nn.CrossEntropyLoss(), rows, output=place, resume=True, **LITTLE)
        with tracker, pytest.raises(UserError, match=f"holds a run of other {words}"):
            tracker.step(2)
    assert (tmp_path / "run.h5").read_bytes() == before


def test_other_parameters_that_are_trained_are_noted(network: nn.Module, data: Data) -> None:
    tracker = Tracker(network, nn.CrossEntropyLoss(), data, every=1, **LITTLE)
    first = tracker.step(0)
    next(network.parameters()).requires_grad_(False)
    second = tracker.step(1)
    assert first is not None
    assert second is not None
    assert not any("other parameters are trained" in note for note in first.notes)
    assert any("other parameters are trained" in note for note in second.notes)


def test_an_optimizer_that_climbs_has_no_limit(network: nn.Module, data: Data) -> None:
    found = Tracker(network, nn.CrossEntropyLoss(), data, every=1, **LITTLE).step(
        0, optimizer=torch.optim.SGD(network.parameters(), lr=0.1, maximize=True)
    )
    assert found is not None
    assert math.isnan(found.stability_limit)
    assert any("climbs" in note for note in found.notes)


def test_a_file_that_cannot_be_written_is_written_later(
    network: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(network, nn.CrossEntropyLoss(), data, output=tmp_path / "run.h5", every=1, **LITTLE)
    tracker.step(0)
    before = (tmp_path / "run.h5").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.warns(RuntimeWarning, match="No space left on device.*training goes on"):
            assert tracker.step(1) is not None
    assert (tmp_path / "run.h5").read_bytes() == before
    tracker.step(2)
    assert load(tmp_path / "run.h5").steps.tolist() == [0, 1, 2]
    tracker.close()


def test_two_trackers_do_not_write_one_file(network: nn.Module, data: Data, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output": tmp_path / "run.h5", "every": 1, **LITTLE}
    with Tracker(network, nn.CrossEntropyLoss(), data, **options) as tracker:
        tracker.step(0)
        with ThreadPoolExecutor(1) as other, pytest.raises(UserError, match="is being written"):
            other.submit(Tracker, network, nn.CrossEntropyLoss(), data, resume=True, **options).result()


def test_the_share_decides_which_steps_and_not_what_they_say(
    descend: Descend, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {name: one.clone() for name, one in network.state_dict().items()}
    every = descend(0, 6, **LITTLE).curves
    network.load_state_dict(start)
    allowed = iter([False, False, True])
    monkeypatch.setattr(Budget, "affords", lambda _: next(allowed))
    some = descend(0, 6, output=tmp_path / "some.h5", **{**LITTLE, "share": 0.05}).curves
    assert some.skipped == (2, 4)
    assert repr(told(some)) == repr([told(every)[0], told(every)[3]])
    assert "2 of 4 turns passed over, because measuring would have taken more than 5 %" in some.skipped_in_words
    assert load(tmp_path / "some.h5").skipped == (2, 4)


def test_training_that_diverges_is_recorded(
    network: nn.Module, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker(network, nn.CrossEntropyLoss(), data, output=tmp_path / "run.h5", every=1, **LITTLE) as tracker:
        tracker.step(0, optimizer=0.1)
        with torch.no_grad():
            next(network.parameters()).fill_(math.nan)
        found = tracker.step(1, optimizer=0.1)
    assert found is not None
    assert "nothing is measured: parameter 0.weight is not finite" in found.notes[0]
    assert math.isnan(found.cost)
    assert np.isnan(load(tmp_path / "run.h5").eigenvalues[1]).all()
    assert main(["show", str(tmp_path / "run.h5")]) == 0
    assert "not finite at the anchor: it holds nan (step 1)" in " ".join(capsys.readouterr().out.split())
    assert main(["show", str(tmp_path / "run.h5"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][1]["cost"] is None
    assert main(["plot", str(tmp_path / "run.h5")]) == 0


def test_a_quantity_that_finds_no_memory_is_left_out(
    network: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    tracker = Tracker(network, nn.CrossEntropyLoss(), data, every=1, **LITTLE)
    monkeypatch.setattr("basinscope.training.measuring.sample_gradients", none)
    found = tracker.step(0)
    assert found is not None
    assert found.notes[0].startswith("no gradient-noise: memory ran out")
    assert math.isnan(found.gradient_noise)
    assert found.eigenvalues[0] > 0.0


def test_a_run_without_a_reading_is_shown(descend: Descend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = descend(1, 1, output=tmp_path / "run.h5", **LITTLE).curves
    assert main(["show", str(tmp_path / "run.h5")]) == 0
    assert "training run of Sequential, 26 parameters" in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "run.h5")]) == 2
    assert "no step is recorded" in capsys.readouterr().err
    assert "<th style='text-align:left'>recorded</th><td>0 steps</td>" in curves._repr_html_()
    assert curves.records() == []


def test_mistakes_are_told_at_once(network: nn.Module, data: Data) -> None:
    loss = nn.CrossEntropyLoss()
    for options, words in (
        ({"every": 0}, "every must be at least 1"),
        ({"share": 2.0}, "share must lie above 0"),
        ({"quantities": ["trase"]}, "quantities must be one of .*trace"),
        ({"quantities": ["trace"]}, "beside the eigenvalues"),
        ({"eigenvalue": 2}, "eigenvalue is no field .*eigenvalues"),
        ({"standard_deviation": 0.0}, "standard_deviation must be positive"),
        ({"log": 3}, "log must be a callable"),
    ):
        with pytest.raises(UserError, match=words):
            Tracker(network, loss, data, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a model with a cost and batches, or a landscape alone"):
        Tracker(network)
    tracker = Tracker(network, loss, data, **LITTLE)
    with pytest.raises(UserError, match="nothing is recorded before the first step"):
        tracker.curves  # noqa: B018
    assert tracker.step(3) is None
    assert tracker.step(3) is None
    with pytest.raises(UserError, match="step 0 comes after step 3"):
        tracker.step(0)
    with pytest.raises(UserError, match="no step is recorded"):
        training_figure(tracker.curves)


def test_the_table_fits_and_says_what_it_leaves_out(
    descend: Descend, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    descend(0, 60, output=tmp_path / "run.h5", quantities=["gradient-noise"], **{**LITTLE, "samples": 2})
    monkeypatch.setenv("COLUMNS", "34")
    assert main(["show", str(tmp_path / "run.h5")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 34
    text = " ".join(" ".join(lines).split())
    assert "24 of 31 recorded steps are shown" in text
    assert "noise" in text
    assert "largest eigenvalue" not in text


def test_panels_are_drawn_on_own_axes(descend: Descend) -> None:
    curves = descend(0, 4, **LITTLE).curves
    axes = curves.plot(Figure().add_subplot())
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert drawn["largest eigenvalue of the Hessian"] == curves.eigenvalues[:, 0].tolist()
    assert drawn["stability limit"] == [4.0] * 3
    assert curves.plot(Figure().add_subplot(), panel="traces").get_ylabel() == "trace (nat / parameter²)"
    with pytest.raises(UserError, match="mass has no value"):
        curves.plot(Figure().add_subplot(), panel="mass")
    assert len(training_figure(curves).axes) == 4
