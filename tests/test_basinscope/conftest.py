import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from basinscope.cli import main
from basinscope.training import Tracker
from spectra.costs import cross_entropy

TASK_FILE = Path(__file__).with_name("tiny_task.py")


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are laid out as in a pipe, whatever the terminal that the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    specification = importlib.util.spec_from_file_location("tiny_task", TASK_FILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path, tiny: ModuleType) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save({"model": tiny.network().state_dict(), "metadata": {"width": 8}}, path)
    return path


@pytest.fixture
def spectrum(checkpoint: Path) -> Callable[..., int]:
    """Run ``basinscope spectrum`` on the tiny checkpoint, sampling; later options win."""

    def run(*options: str | Path, task: str = "tiny") -> int:
        words = ["spectrum", str(checkpoint), "--task", f"{TASK_FILE}:{task}"]
        # A fixed strategy: timing the candidates takes longer than the computing here, and chooses.
        words += ["--engine", "slq", "--steps", "12", "--strategy", "double-backward"]
        return main([*words, *map(str, options)])

    return run


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """A folder with every kind of file that a command reads."""
    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    for name in ("model.pt", "start.pt"):
        torch.save({"model": tiny.network().state_dict()}, folder / name)
    shutil.copy(TASK_FILE, folder / "task.py")
    model, task = folder / "model.pt", ("--task", f"{folder / 'task.py'}:tiny")
    spectrum = ("spectrum", model, *task, "--strategy", "double-backward")
    assert run(*spectrum, "--engine", "dense", "--output", folder / "spectrum.h5", "--plot", folder / "plot.png") == 0
    volume = ("volume", model, *task, "--method", "ellipsoid-slice", "--directions", "2")
    assert run(*volume, "--output", folder / "volume.h5") == 0
    bridge = ("bridge", model, *task, "--cutoff", "0.001", "--chains", "4", "--draws", "8", "--warm-up", "1")
    assert run(*bridge, "--budget", "1", "--output", folder / "bridge.h5") == 0
    compare = ("compare", model, *task, "--measures", "parameter-norm")
    assert run(*compare, "--output", folder / "comparison.h5", "--report", folder / "page.html") == 0
    connect = ("connect", model, folder / "start.pt", *task, "--points", "5", "--tolerance", "0.1")
    assert run(*connect, "--output", folder / "connection.h5") == 0
    assert run("slice", model, *task, "--points", "3", "--output", folder / "slice.h5") == 0
    llc = ("llc", model, *task, "--localisation", "100,400", "--inverse-temperature", "1", "--steps", "8")
    assert run(*llc, "--calls", "2", "--chains", "1", "--output", folder / "calibration.h5") == 0
    rows = tiny.rows()
    with Tracker(tiny.network(), cross_entropy, rows, output=folder / "training.h5", every=1, probes=2) as tracker:
        tracker.step(0, optimizer=0.1)
    known = ("--known", "--cases", "ball-2", "--estimators", "star-domain", "--repeats", "2", "--directions", "2")
    assert run("audit", *known, "--no-facts", "--output", folder / "audit.h5") == 0
    return folder


@pytest.fixture
def desk(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A copy of it for one test."""
    shutil.copytree(shelf, tmp_path / "desk")
    capsys.readouterr()
    return tmp_path / "desk"
