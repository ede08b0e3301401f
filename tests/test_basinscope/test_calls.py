"""One call a command, held to closed forms, to the command itself and to its own resumption."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import basinscope
from basinscope import Landscape, Machine, SpectrumSettings, UserError, load
from basinscope.cli import main

TASK = f"{Path(__file__).with_name('tiny_task.py')}:tiny"
GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(30, 4, generator=GENERATOR, dtype=torch.float64)
TARGETS = torch.randn(30, 1, generator=GENERATOR, dtype=torch.float64)
HESSIAN = 2.0 * INPUTS.T @ INPUTS / len(INPUTS)


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def minimum() -> Tensor:
    return torch.linalg.lstsq(INPUTS, TARGETS).solution[:, 0]


@pytest.fixture
def landscape(minimum: Tensor) -> Landscape:
    """A quadratic cost at its minimum, its Hessian known in closed form."""
    model = nn.Linear(4, 1, bias=False).double()
    return Landscape(model, basinscope.mean_squared_error, (INPUTS, TARGETS), theta=minimum)


def test_a_spectrum_of_a_landscape_of_ones_own(landscape: Landscape, tmp_path: Path) -> None:
    found = basinscope.spectrum(landscape, engine="dense", output=tmp_path / "spectrum.h5")
    exact = torch.linalg.eigvalsh(HESSIAN).numpy()
    np.testing.assert_allclose(np.sort(found.spectrum.density.deflation.nodes), exact, rtol=1e-10)
    stored = load(tmp_path / "spectrum.h5")
    np.testing.assert_allclose(np.sort(stored.spectrum.density.deflation.nodes), exact, rtol=1e-10)  # type: ignore[union-attr]
    assert found.provenance.checkpoint == "landscape"
    assert found.provenance.dtype == "float64"


def test_more_probes_by_resuming_are_those_of_one_run(checkpoint: Path, tmp_path: Path) -> None:
    settings = SpectrumSettings(engine="slq", steps=12, deflate=4, strategy="double-backward")
    task, output = TASK, tmp_path / "spectrum.h5"
    basinscope.spectrum(checkpoint, settings, task=task, output=output, probes=2)
    with pytest.raises(FileExistsError, match="exists"):
        basinscope.spectrum(checkpoint, settings, task=task, output=output, probes=4)
    resumed = basinscope.spectrum(checkpoint, settings, task=task, output=output, probes=4, resume=True)
    once = basinscope.spectrum(checkpoint, settings, task=task, probes=4)
    np.testing.assert_allclose(resumed.spectrum.density.runs.diagonal, once.spectrum.density.runs.diagonal, atol=1e-5)


def test_a_volume_and_its_bridge(landscape: Landscape, minimum: Tensor) -> None:
    prior, cutoff = 0.5, 0.3
    study = basinscope.volume(
        landscape, methods=("quadratic-mass",), prior=f"gaussian:{prior}", cutoff=cutoff, cost="task"
    )
    # The mass of an ellipsoid, by plain sampling from the prior; its error is below 1.2 % at 5 standard deviations.
    values, vectors = torch.linalg.eigh(HESSIAN)
    draws = np.random.default_rng(0).normal(0.0, prior, (10**6, 4)) @ vectors.numpy() - (vectors.T @ minimum).numpy()
    share = float(np.mean(0.5 * draws**2 @ values.numpy() < cutoff))
    mass = study.results["quadratic-mass"].log_volume
    assert mass == pytest.approx(np.log(share), abs=5.0 / np.sqrt(share * 10**6))
    bridge = basinscope.bridge(
        landscape, cutoffs=(cutoff,), prior=f"gaussian:{prior}", cost="task", chains=8, draws=60, kept=60
    )
    (volume,) = bridge.volumes
    assert "prior" in bridge.source  # saved from Python, it can be resumed and held against others
    # Wrong with a probability of 1e-4 for an error of this many degrees of freedom.
    assert abs(volume.log_volume - mass) < stats.t.ppf(1 - 5e-5, volume.freedom) * volume.standard_error


def test_measures_side_by_side(landscape: Landscape, checkpoint: Path) -> None:
    alone = basinscope.compare(landscape, measures=["hessian-trace"], probes=40, steps=4)
    outcome = alone.checkpoints[0].outcomes["hessian-trace"]
    assert outcome.reading is not None
    assert outcome.reading.value == pytest.approx(float(HESSIAN.trace()), rel=1e-6)  # exact at full depth
    double = basinscope.compare(checkpoint, measures=["parameter-norm"], task=TASK, machine=Machine(dtype="float64"))
    assert double.checkpoints[0].provenance.dtype == "float64"


def test_an_audit_of_known_cases() -> None:
    report = basinscope.audit(estimators="star-domain/identity", cases="ball-2", repeats=2, facts=False)
    (row,) = report.table.rows
    assert row.truth is not None
    # Every direction of a ball around the anchor says its volume.
    assert [one.value for one in row.readings] == pytest.approx([row.truth.value] * 2, abs=1e-3)


def test_what_does_not_fit_is_refused(landscape: Landscape, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"probe is no field of SpectrumSettings: .*did you mean probes"):
        basinscope.spectrum(landscape, probe=3)
    with pytest.raises(TypeError, match="a landscape needs no task"):
        basinscope.spectrum(landscape, task="digits")
    with pytest.raises(TypeError, match="a landscape needs no task"):
        basinscope.volume(landscape, validation_task="digits-heldout")
    with pytest.raises(FileNotFoundError, match=r"none\.pt does not exist"):
        basinscope.volume(tmp_path / "none.pt")
    with pytest.raises(UserError, match="at least one checkpoint or landscape, got none"):
        basinscope.compare([])
    with pytest.raises(UserError, match="--cutoff is of the audit of a checkpoint"):
        basinscope.audit(cutoff=0.1)
    with pytest.raises(TypeError, match="the path of a checkpoint or a Landscape, got int"):
        basinscope.spectrum(3)  # type: ignore[arg-type]
    torch.save({"weight": torch.zeros(1, 4)}, tmp_path / "start.pt")
    with pytest.raises(UserError, match=r"no task to make another of start\.pt"):
        basinscope.compare(landscape, measures="distance-from-initialisation", initial=tmp_path / "start.pt")


@pytest.mark.parametrize("call", [basinscope.spectrum, basinscope.volume, basinscope.bridge, basinscope.audit])
def test_a_cost_that_there_is_not_is_refused(call: Callable[..., object], landscape: Landscape) -> None:
    with pytest.raises(UserError, match="--cost must be one of .*; got 'kll'"):
        call(landscape, cost="kll")


def test_threads_are_the_callers_again(landscape: Landscape) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        basinscope.spectrum(landscape, engine="dense", machine=Machine(threads=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


MACHINE = ["--dtype", "float64", "--threads", "1", "--memory", "1GB", "--device", "cpu"]


def test_compare_in_another_precision(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", checkpoint, "--task", TASK, "--measures", "hessian-trace", "--probes", "2"]
    words += ["--output", tmp_path / "compare.h5", "--steps", "12"]
    assert run(*words, *MACHINE) == 0
    assert load(tmp_path / "compare.h5").checkpoints[0].provenance.dtype == "float64"  # type: ignore[union-attr]
    assert run(*words, "--resume") == 2
    assert "cannot be resumed: dtype is float64 there and float32 now" in capsys.readouterr().err.replace("\n", " ")
    assert run(*words, *MACHINE, "--resume") == 0


def test_audit_in_another_precision(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", checkpoint, "--task", TASK, "--estimators", "log-determinant/slq"]
    words += ["--repeats", "2", "--steps", "4", "--probes", "2", "--output", tmp_path / "audit.h5"]
    assert run(*words, *MACHINE) == 0
    assert "in float64, on cpu" in load(tmp_path / "audit.h5").notes[0]  # type: ignore[union-attr]
    assert run(*words, "--resume") == 2
    assert run("audit", "--known", "--dtype", "float64") == 2
    assert "--dtype is of the audit of a checkpoint" in capsys.readouterr().err
