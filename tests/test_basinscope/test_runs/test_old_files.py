"""Result files that version 0.1 wrote (tests/old_files/0.1): they open, and go on to the numbers of an unbroken run.

They were made in the root of the repository by the first words of ``RUNS`` and ``--output``.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from basinscope import load
from basinscope.cli import main
from comparisons.store import write_comparison
from spectra.files import TRAILER
from spectra.store import write_spectrum
from volume.audit.store import write_report
from volume.bridge import read_bridge, write_bridge
from volume.store import write_study

ROOT = Path(__file__).resolve().parents[3]
FILES = Path("tests/old_files/0.1")
MODEL, TASK = str(FILES / "model.pt"), ("--task", "tests/test_basinscope/tiny_task.py:tiny")
VOLUME = ("--method", "quadratic-mass", "--method", "star-domain", "--method", "shifted-determinant", "--cost", "kl")
MEASURES = "hessian-trace,largest-layer-trace,first-over-fifth,keskar,parameter-norm,wbic"
AUDIT = ("--repeats", "2", "--directions", "4", "--probes", "2", "--steps", "6", "--products", "6", "--no-facts")
# What made each file, and what is added where it goes on: of a number that is given twice the last one counts.
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "spectrum": (
        ("spectrum", MODEL, *TASK, "--engine", "slq", "--steps", "6", "--strategy", "double-backward")
        + ("--per-layer", "--probes", "2"),
        ("--probes", "5"),
    ),
    "volume": (
        ("volume", MODEL, *TASK, *VOLUME, "--k", "0", "--operator", "hessian", "--cutoff", "0.05")
        + ("--sweep-cutoff", "0.03:0.1:2", "--directions", "4", "--probes", "2", "--steps", "8")
        + ("--preconditioner", "identity"),
        ("--directions", "6"),
    ),
    "bridge": (
        ("bridge", MODEL, *TASK, "--cutoff", "1", "--chains", "4", "--draws", "8", "--warm-up", "1")
        + ("--work-spread", "5", "--dtype", "float64", "--budget", "100"),
        ("--budget", "1e9"),
    ),
    "comparison": (
        ("compare", MODEL, *TASK, "--measures", MEASURES, "--probes", "2", "--steps", "8", "--directions", "8")
        + ("--budget", "20"),
        ("other.pt",),
    ),
    "audit": (
        ("audit", "--known", "--cases", "ball-2", "--cases", "degenerate-60", *AUDIT)
        + ("--estimators", "star-domain/identity", "--estimators", "star-domain/diagonal"),
        ("--estimators", "shifted-determinant"),
    ),
}
# One number of each, as version 0.1 read it.
NUMBERS: dict[str, tuple[Callable[[Any], float], float]] = {
    "spectrum": (lambda found: found.spectrum.density.trace().value, 0.08984364103525883),
    "volume": (lambda found: found.results["star-domain"].log_volume, -84.06691807619458),
    "bridge": (lambda found: float(found.passes[0][1].costs.mean()), 2.3461645881608306),
    "comparison": (lambda found: found.checkpoints[0].value("wbic"), 0.23780953048262746),
    "audit": (lambda found: found.table.row("degenerate-60", "star-domain/diagonal").mean.value, -47.134992736330474),
}
# What files from before these were recorded lack.
LATER = {
    "spectrum": {"coarseness", "checkpoint_integrity", "strategy", "setting_reorthogonalise"},
    "volume": {"cost_noise", "fall", "fall_distance", "failures", "failed_methods", "setting_operator", "sweep"},
    "bridge": {"near", "strategy", "setting_origin"},
    "comparison": {"lowest", "highest", "error", "held_out_error"},
    "audit": {"truth_freedom", "strategy"},
}
# What they have that is not written any more.
GONE = {"bridge": ("@near",)}
# What the JSON text of a provenance has had since.
_SINCE = ', "checkpoint_weights": ""'
WRITERS: dict[str, Callable[..., None]] = {
    "spectrum": lambda path, found: write_spectrum(path, found.spectrum, found.provenance),
    "volume": write_study,
    "bridge": lambda path, found: write_bridge(path, found, read_bridge(FILES / "bridge.h5")[1]),
    "comparison": write_comparison,
    "audit": write_report,
}


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def contents(path: Path) -> dict[str, tuple[Any, ...]]:
    """Groups, arrays and attributes of a file by their place, with types, values and names of dimensions."""
    found: dict[str, tuple[Any, ...]] = {}

    def visit(place: str, item: Any) -> None:
        found[place] = tuple(item) if isinstance(item, h5py.Group) else ()
        if isinstance(item, h5py.Dataset):
            names = [[scale.name for scale in dimension.values()] for dimension in item.dims]
            found[place] = (
                item.dtype,
                item.shape,
                item.compression,
                names,
                repr(item[()].tolist()).replace(_SINCE, ""),
            )
        # Units and titles are words for people, which have become more exact since.
        for name in set(item.attrs) - {"created", "DIMENSION_LIST", "REFERENCE_LIST", "units", "title"}:
            kind = item.attrs.get_id(name)
            found[f"{place}@{name}"] = (kind.dtype, kind.shape, repr(item.attrs[name]))
        if "settings" in item.attrs:
            # Options of single measures are written beside the settings since; those of before were the defaults.
            settings = json.loads(item.attrs["settings"])
            settings.pop("options", None)
            found[f"{place}@settings"] = tuple(settings.items())

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return found


@pytest.mark.parametrize("kind", RUNS)
def test_it_opens(kind: str) -> None:
    number, shown = NUMBERS[kind]
    assert number(load(FILES / f"{kind}.h5")) == pytest.approx(shown, rel=1e-6)


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_written_today_is_laid_out_alike(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "again.h5", load(FILES / f"{kind}.h5"))
    again, before = contents(tmp_path / "again.h5"), contents(FILES / f"{kind}.h5")
    for place, value in before.items():
        if place.endswith(GONE.get(kind, ())):
            continue
        # Fields that are written since are beside those of before.
        assert again[place] == value or ("@" not in place and set(value) < set(again[place])), place


@pytest.mark.parametrize("kind", RUNS)
def test_an_older_one_opens_too(kind: str, tmp_path: Path) -> None:
    older, removed = tmp_path / "older.h5", set()
    shutil.copy(FILES / f"{kind}.h5", older)

    def remove(place: str, item: Any) -> None:
        for name in LATER[kind] & set(item.attrs):
            # The whole spectrum always had its strategy, its layers had not.
            if (kind, place, name) != ("spectrum", "", "strategy"):
                del item.attrs[name]
                removed.add(name)

    with h5py.File(older, "r+") as file:
        remove("", file)
        file.visititems(remove)
        for name in LATER[kind] & set(file):
            del file[name]
            removed.add(name)
    assert removed == LATER[kind]
    content = older.read_bytes()
    older.write_bytes(content + TRAILER + hashlib.sha256(content).digest())
    number, shown = NUMBERS[kind]
    assert number(load(older)) == pytest.approx(shown, rel=1e-6)


def evidence(path: Path) -> dict[str, np.ndarray]:
    """Every array of floats, but what was timed, and the points that a pass goes on from."""
    found = {}

    def visit(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and Path(place).name not in ("seconds", "last"):
            found[place] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("kind", RUNS)
def test_it_goes_on_to_the_numbers_of_an_unbroken_run(kind: str, tmp_path: Path, tiny: ModuleType) -> None:
    (first, more), parts, whole = RUNS[kind], tmp_path / "parts.h5", tmp_path / "whole.h5"
    torch.manual_seed(1)
    torch.save({"model": tiny.network().state_dict()}, tmp_path / "other.pt")
    words = [*first, *(str(tmp_path / word) if word == "other.pt" else word for word in more)]
    shutil.copy(FILES / f"{kind}.h5", parts)
    assert main([*words, "--output", str(parts), "--resume"]) == 0
    assert main([*words, "--output", str(whole)]) == 0
    before, found, expected = (evidence(path) for path in (FILES / f"{kind}.h5", parts, whole))
    assert sum(map(np.size, found.values())) > sum(map(np.size, before.values()))
    assert found.keys() == expected.keys()
    if kind == "bridge":
        # Its last rung is from before chains told the next one's what they had seen: those go elsewhere in other steps.
        for name, values in before.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        apart = [read_bridge(path)[0].volume(1.0) for path in (parts, whole)]
        error = math.hypot(*(one.standard_error for one in apart))
        # Student's t of 3 degrees is beyond 30 with probability 8e-5; the seeds are fixed.
        assert abs(apart[0].log_volume - apart[1].log_volume) <= 30.0 * error
        return
    for name, values in expected.items():
        if Path(name).name in ("lowest", "highest", "freedom"):
            continue  # of an estimate, which files from before do not have
        if kind == "comparison" and name in before and before[name].shape == values[:1].shape:
            # The first checkpoint is kept as it was measured then; its chains drew other numbers, and cost otherwise.
            values = np.concatenate([before[name], values[1:]])
        # From float32, and by another strategy or on another machine than the part before.
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-5, err_msg=name)
