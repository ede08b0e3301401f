"""The store of a volume study keeps what an interval is made of."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spectra.estimate import Estimate
from volume.store import read_study, write_study
from volume.study import VolumeStudy
from volume.sweep import CutoffSweep

OLD = Path(__file__).resolve().parents[1] / "old_files" / "0.1" / "volume.h5"
METHOD = "shifted-determinant"
# Without samples the degrees of freedom are known from elsewhere, as of a sum of independent parts.
ESTIMATES = (
    Estimate(-3.0, 2.0, 0.5, freedom=3.5, highest=0.0),
    Estimate(-3.0, 2.0, lowest=-4.0),
    Estimate(-3.0, 2.0, freedom=0.0, cautions=("mind", "this")),
)


def with_estimates(study: VolumeStudy) -> VolumeStudy:
    """A study of one method, whose cutoffs in a sweep have these estimates."""
    assert study.sweep is not None
    found = study.results[METHOD]
    swept = tuple(replace(found, estimate=one) for one in ESTIMATES)
    sweep = CutoffSweep(np.array([0.1, 0.2, 0.3]), {METHOD: swept})
    return replace(study, results={METHOD: swept[0]}, sweep=sweep)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_what_is_shown_of_a_file_has_the_interval_of_its_run(estimate: Estimate, tmp_path: Path) -> None:
    study = with_estimates(read_study(OLD))
    study = replace(study, results={METHOD: replace(study.results[METHOD], estimate=estimate)})
    write_study(tmp_path / "v.h5", study)
    found = read_study(tmp_path / "v.h5").results[METHOD].estimate
    assert found is not None
    assert found.interval() == estimate.interval()
    assert (found.freedom, found.lowest, found.highest) == (estimate.freedom, estimate.lowest, estimate.highest)


def test_so_has_each_cutoff_of_a_sweep(tmp_path: Path) -> None:
    write_study(tmp_path / "v.h5", with_estimates(read_study(OLD)))
    sweep = read_study(tmp_path / "v.h5").sweep
    assert sweep is not None
    for result, estimate in zip(sweep.results[METHOD], ESTIMATES, strict=True):
        found = result.estimate
        assert found is not None
        assert found.interval() == estimate.interval()
        assert (found.freedom, found.cautions) == (estimate.freedom, estimate.cautions)
    with h5py.File(tmp_path / "v.h5") as file:
        assert file["sweep/cutoff"].attrs["units"] == "nat"


def test_a_file_from_before_has_the_defaults() -> None:
    found = read_study(OLD).results[METHOD].estimate
    assert found is not None
    assert (found.freedom, found.lowest, found.highest) == (None, -np.inf, np.inf)
