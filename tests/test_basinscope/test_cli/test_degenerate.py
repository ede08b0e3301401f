"""Where a measure divides by nothing it has a sentence or a limit, and the others keep their values."""

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from basinscope.cli import main
from volume.method_result import from_sample
from volume.result import VolumeEstimate

TASKS = Path(__file__).parents[1] / "degenerate_task.py"
FEW = ("--probes", "4", "--steps", "16", "--directions", "8", "--no-traces")
# A network and a task; each leaves other denominators at zero. A short run takes every sixth: neither a cost nor a
# slope, and one row. One eigenvalue, of the second, has a test of its own below.
CASES = (
    ("zero", "fitted"),
    ("dead", "squares"),
    ("dead", "classes"),
    ("zero", "classes"),
    ("zero_layer", "classes"),
    ("network", "one_class"),
    ("network", "one_row"),
    ("network", "no_inputs"),
    ("network", "constant"),
    ("network", "below_zero"),
    ("network", "half"),
)
# Words that no sentence and no number may hold.
BROKEN = r"\bnan\b|\binf\b|bug of basinscope|division by zero"


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    specification = importlib.util.spec_from_file_location("degenerate_task", TASKS)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def saved(tasks: ModuleType, folder: Path, network: str, task: str) -> tuple[Path, torch.nn.Module]:
    model = getattr(tasks, network)(1 if task in ("squares", "fitted") else tasks.OUTPUTS)
    path = folder / f"{network}.pt"
    torch.save({"model": model.state_dict()}, path)
    return path, model


def possible(measures: dict[str, Any]) -> None:
    """Values lie in their intervals, which are cut to what is possible."""
    for name, one in measures.items():
        low, high = one.get("interval95") or (None, None)
        if one["value"] is not None:
            assert math.isfinite(one["value"]), name
            slack = 1e-6 * abs(one["value"])
            assert low is None or low <= one["value"] + slack, name
            assert high is None or one["value"] <= high + slack, name


def compared(path: Path, task: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    words = ["compare", str(path), "--task", f"{TASKS}:{task}", "--measures", "all", *FEW, *options, "--json"]
    assert main(words) == 0
    (found,) = json.loads(capsys.readouterr().out)["checkpoints"]
    measures: dict[str, Any] = found["measures"]
    return measures


@pytest.mark.sampled(6)
@pytest.mark.parametrize("network, task", CASES)
def test_every_measure_has_a_number_or_a_sentence(
    tmp_path: Path, tasks: ModuleType, capsys: pytest.CaptureFixture[str], network: str, task: str
) -> None:
    path, model = saved(tasks, tmp_path, network, task)
    output = tmp_path / "measures.h5"
    measures = compared(path, task, capsys, "--output", str(output))
    for name, one in measures.items():
        # A volume may be infinite, and its caution says so.
        assert one["value"] is not None or one.get("failure") or "infinite" in " ".join(one["cautions"]), name
    possible(measures)
    # What needs no curvature is what it always is.
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in model.state_dict().values()))
    assert measures["parameter-norm"]["value"] == pytest.approx(norm, rel=1e-5)
    assert sum(one["value"] is not None for one in measures.values()) > len(measures) / 3
    assert main(["show", str(output)]) == 0
    page = capsys.readouterr()
    assert not re.search(BROKEN, page.out + page.err, re.IGNORECASE)


def test_a_spectrum_of_rank_one_has_no_fifth_eigenvalue_but_all_the_rest(
    tmp_path: Path, tasks: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cost is (b - y)^2 for the last bias b alone: one eigenvalue of two, and zeros."""
    path, _ = saved(tasks, tmp_path, "dead", "squares")
    measures = compared(path, "squares", capsys, "--budget", "200")
    assert "zero" in measures["first-over-fifth"]["failure"]
    for name, value in (
        ("hessian-trace", 2.0),
        ("largest-eigenvalue", 2.0),
        ("hessian-frobenius", 2.0),
        ("largest-over-trace", 1.0),
        ("participation-ratio", 1.0),
        ("effective-rank", 1.0),
        ("smallest-over-largest", 0.0),
        ("negative-mass", 0.0),
    ):
        assert measures[name]["value"] == pytest.approx(value, abs=1e-5), name


def test_what_few_probes_put_out_of_range_is_given_as_the_bound(
    tmp_path: Path, tasks: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The matrix has rank one; two probes of 26 numbers say anything from 0.2 to 2 of its participation ratio."""
    path, _ = saved(tasks, tmp_path, "dead", "squares")
    for seed in range(4):
        words = ("--probes", "2", "--steps", "8", "--measures", "curvature", "--seed", str(seed))
        measures = compared(path, "squares", capsys, *words)
        possible(measures)
        for name in ("participation-ratio", "effective-rank", "largest-over-trace"):
            assert measures[name]["value"] is None or measures[name]["value"] > 0.0
        low, high = measures["participation-ratio"]["interval95"]
        assert low >= 1.0
        assert high is None or high >= 1.0


def test_a_mass_above_one_is_said_to_be_an_error() -> None:
    """Forty directions that agree on a mass of exp(0.5), which no mass is."""
    none = np.zeros(40, dtype=bool)
    terms = VolumeEstimate(np.full(40, 0.5), np.ones(40, dtype=np.int64), none, ~none, np.zeros(40), 3, 0.01, "")
    found = from_sample("star-domain", terms, "gaussian:1", "identity", math.nan)
    assert (found.log_volume, found.bits) == (0.0, 0.0)
    assert found.known.interval() == pytest.approx((-0.5, 0.0), abs=1e-9)
    assert "the estimate of 0.5 is above 0, the most possible" in found.verdict
    assert from_sample("ellipsoid-slice", terms, "lebesgue", "identity", math.nan).log_volume == pytest.approx(0.5)


@pytest.mark.slow
def test_weights_that_sum_to_one_are_as_many_samples_as_there_are_rows(
    tmp_path: Path, tasks: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same mean cost on the same rows: the same chains, to the rounding that a trajectory amplifies."""
    path, _ = saved(tasks, tmp_path, "network", "classes")
    chosen = ("learning-coefficient", "half-effective-dimension", "wbic", "effective-dimension", "local-entropy")
    words = ("--measures", ",".join(chosen))
    plain, weighted = (compared(path, task, capsys, *words) for task in ("classes", "shares"))
    for name in chosen:
        assert weighted[name]["value"] == pytest.approx(plain[name]["value"], rel=1e-3), name
    few, cut = (compared(path, task, capsys, *words) for task in ("half", "other_half"))
    # Rows without a weight are no samples.
    for name in chosen:
        assert few[name]["value"] == pytest.approx(cut[name]["value"], rel=1e-3), name
