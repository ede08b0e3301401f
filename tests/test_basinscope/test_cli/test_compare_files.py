"""Comparison files read back: shown, drawn, ranked by hyperparameter."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats

from basinscope.cli import main
from comparisons.comparison import Comparison, Examined, Outcome
from comparisons.evidence import ComputeCost, EvidenceSettings
from comparisons.flatness import Reading
from comparisons.store import read_comparison, write_comparison
from spectra.files import Provenance
from spectra.files.result_file import hdf5_image

NAMES = ("hessian-trace", "largest-eigenvalue", "parameter-norm")


def grid() -> Comparison:
    """Width drives trace and gap; the eigenvalue follows the seed; the norm is the same everywhere."""
    rows = []
    for width in (1, 2):
        for batch in (8, 16):
            for seed in (0, 1):
                trace = 10.0 * width + batch / 8.0 + 0.1 * seed
                values = (trace, float(seed) + 0.01 * width, 3.0)
                outcomes = {
                    name: Outcome(Reading(value, 0.05), ComputeCost())
                    for name, value in zip(NAMES, values, strict=True)
                }
                provenance = Provenance(f"w{width}_b{batch}_seed{seed}.pt", "ab" * 32)
                known = {"width": width, "batch_size": batch, "seed": seed, "step": 640 // batch}
                gap = width - 0.3 * (batch / 8.0) + 0.01 * seed
                rows.append(
                    Examined(provenance, 10, 8.0, "cd" * 32, 0.1, 0.1 + gap, hyperparameters=known, outcomes=outcomes)
                )
    return Comparison(EvidenceSettings(), NAMES, tuple(rows))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "compare.h5"
    write_comparison(path, grid())
    return path


def test_show_as_json(stored: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["show", str(stored), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trace = next(one for one in found["by_hyperparameter"] if one["measure"] == "hessian-trace")
    assert trace["granulated"] == {"batch_size": -1.0, "width": 1.0}
    assert trace["psi"] == 0.0
    # Two seeds 0.1 apart in each configuration; the steps follow from the batch size.
    assert trace["variance"]["within"] == pytest.approx(0.1**2 / 2)
    assert trace["variance"]["estimator"] == pytest.approx(0.05**2)
    assert trace["variance"]["configurations"] == 4
    matrix = found["agreement"]
    assert sorted(matrix["measures"]) == ["hessian-trace", "largest-eigenvalue"]
    assert matrix["left_out"] == ["parameter-norm"]
    columns = [[one.value(name) for one in grid().done] for name in matrix["measures"]]
    assert np.array(matrix["tau"])[0, 1] == pytest.approx(stats.kendalltau(*columns).statistic)


def test_show_for_reading(stored: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["show", str(stored)]) == 0
    text = capsys.readouterr().out
    for words in ("3 flatness measures of 8 checkpoints", "Rank correlation with gap", "Psi", "Measures that agree"):
        assert words in text


def test_plot(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plot", str(stored)]) == 0
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(stored), "--output", str(tmp_path / "c.svg")]) == 0
    assert "held-out less training cost" in (tmp_path / "c.svg").read_text()
    capsys.readouterr()


def test_against_another_file_is_refused(stored: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["show", str(stored), "--against", str(stored)]) == 2
    assert "holds a comparison" in capsys.readouterr().err


def test_commands_are_kept_once_and_read_back(tmp_path: Path) -> None:
    long = "basinscope compare " + " ".join(f"file{number}.pt" for number in range(500))
    commands = [long, "basinscope compare other.pt", *[long] * 6]
    rows = tuple(
        replace(one, provenance=replace(one.provenance, command=command))
        for one, command in zip(grid().checkpoints, commands, strict=True)
    )
    write_comparison(tmp_path / "c.h5", replace(grid(), checkpoints=rows))
    assert [one.provenance for one in read_comparison(tmp_path / "c.h5").done] == [one.provenance for one in rows]
    assert (tmp_path / "c.h5").read_bytes().count(b"file499.pt") == 1


def test_the_stored_comparison_of_the_data_is_read_with_its_commands() -> None:
    found = read_comparison(Path(__file__).resolve().parents[3] / "data" / "digits_measures.h5")
    assert {one.provenance.command.split()[:2] == ["basinscope", "compare"] for one in found.done} == {True}


def test_files_from_before_error_rates_are_read(stored: Path) -> None:
    image = stored.with_name("older.h5")

    def drop(file: h5py.File) -> None:
        with h5py.File(stored) as source:
            for name, value in source.attrs.items():
                file.attrs[name] = value
            for name in source:
                if name not in ("error", "held_out_error"):
                    source.copy(name, file)

    image.write_bytes(hdf5_image(drop))
    older = read_comparison(image)
    assert all(np.isnan(one.error_gap) for one in older.done)
    assert [one.gap for one in older.done] == [one.gap for one in grid().done]


def test_a_file_from_before_ranges_were_recorded_opens(stored: Path) -> None:
    with h5py.File(stored, "r+") as file:
        for name in ("lowest", "highest"):
            del file[name]
    for one in read_comparison(stored).done:
        for outcome in one.outcomes.values():
            assert outcome.reading is not None
            assert (outcome.reading.lowest, outcome.reading.highest) == (-np.inf, np.inf)
