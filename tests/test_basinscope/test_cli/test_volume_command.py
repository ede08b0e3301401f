import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray

from basinscope.cli import main
from basinscope.cli import volume as volume_command
from basinscope.runs import volume as volume_run
from volume import study
from volume.method_result import MethodResult
from volume.plots import volume_figure
from volume.rays import log_ellipsoid
from volume.store import is_volume_file, read_study

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "data" / "digits_mlp" / "clean_seed0_step00640.pt"
TINY = Path(__file__).parents[1] / "tiny_task.py"
LINEAR = Path(__file__).parents[1] / "linear_task.py"
OTHER = ("--validation-task", f"{TINY}:other_data")
EVERY = [*[word for method in volume_command.METHODS for word in ("--method", method)], *OTHER]
Run = Callable[..., int]


@pytest.fixture(scope="module")
def task() -> ModuleType:
    specification = importlib.util.spec_from_file_location("linear_task", LINEAR)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def save(path: Path, theta: torch.Tensor) -> Path:
    deviations = {"weight": 0.4, "bias": 1.1}
    model = {"weight": theta[None, :-1], "bias": theta[-1:]}
    torch.save({"model": model, "metadata": {"initialisation_standard_deviations": deviations}}, path)
    return path


@pytest.fixture
def quadratic(tmp_path: Path, task: ModuleType) -> Run:
    """Run ``basinscope volume`` where the cost is exactly quadratic."""
    path = save(tmp_path / "linear.pt", task.minimum())

    def run(*options: str | Path) -> int:
        return main(["volume", str(path), "--task", f"{LINEAR}:linear", *map(str, options)])

    return run


@pytest.fixture
def tiny(checkpoint: Path) -> Run:
    """Run ``basinscope volume`` on the tiny network."""

    def run(*options: str | Path) -> int:
        words = ["volume", str(checkpoint), "--task", f"{TINY}:tiny", "--directions", "100", "--eps", "0.01"]
        return main([*words, *map(str, options)])

    return run


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    captured = capsys.readouterr()
    assert all(line.startswith("plan: ") for line in captured.err.splitlines())
    found: dict[str, Any] = json.loads(captured.out)
    return found | {result["method"]: result for result in found["methods"]}


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    (said,) = (line for line in captured.err.splitlines() if not line.startswith("plan: "))
    return said.strip()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("prior", ["gaussian:0.5", "init"])
def test_masses_agree_where_the_cost_is_quadratic(
    quadratic: Run, capsys: pytest.CaptureFixture[str], prior: str
) -> None:
    # 4,000 directions in 4 dimensions: the standard error is below 0.03 nats, the saddlepoint's own error below 0.1.
    assert quadratic("--prior", prior, "--directions", "4000", "--json") == 0
    found = answer(capsys)
    assert found["quadratic-mass"]["log_volume"] == pytest.approx(found["star-domain"]["log_volume"], abs=0.2)
    assert found["star-domain"]["standard_error"] < 0.03
    assert found["star-domain"]["trusted"]
    assert found["cautions"] == []


def test_the_ellipsoid_slice_is_the_ellipsoid_where_the_cost_is_quadratic(
    quadratic: Run, capsys: pytest.CaptureFixture[str], task: ModuleType
) -> None:
    assert quadratic("--method", "ellipsoid-slice", "--directions", "4000", "--json") == 0
    found = answer(capsys)["ellipsoid-slice"]
    exact = log_ellipsoid(torch.linalg.eigvalsh(task.hessian()).numpy(), 0.01)
    # Five standard errors: a failure has probability below 1e-6.
    assert found["log_volume"] == pytest.approx(exact, abs=5 * found["standard_error"] + 0.1)
    assert (found["kind"], found["measure"], found["preconditioner"]) == ("volume", "lebesgue", "identity")


@pytest.mark.parametrize("prior", ["gaussian:0.5", "init"])
def test_the_shifted_determinant_is_the_formula(
    quadratic: Run, capsys: pytest.CaptureFixture[str], task: ModuleType, prior: str
) -> None:
    assert quadratic("--method", "shifted-determinant", "--prior", prior, "--json") == 0
    found = answer(capsys)["shifted-determinant"]
    s = torch.tensor([0.5] * 4 if prior != "init" else [0.4] * 3 + [1.1], dtype=torch.float64)
    shifted = torch.linalg.eigvalsh(task.hessian() + torch.diag(s**-2)).numpy()
    assert found["log_volume"] == pytest.approx(log_ellipsoid(shifted, 0.01), abs=1e-6)
    assert 0.0 < found["figures"]["derived_k"] < 0.1
    assert "k = 1 was chosen" in found["verdict"]


@pytest.mark.parametrize("prior", ["gaussian:0.5", "init"])
def test_the_corrected_slice_and_the_shifted_determinant_are_one_ellipsoid_at_any_k(
    quadratic: Run, capsys: pytest.CaptureFixture[str], task: ModuleType, prior: str
) -> None:
    words = ["--method", "ellipsoid-slice-corrected", "--method", "shifted-determinant", "--k", "0.3"]
    assert quadratic(*words, "--prior", prior, "--directions", "4000", "--json") == 0
    found = answer(capsys)
    s = torch.tensor([0.5] * 4 if prior != "init" else [0.4] * 3 + [1.1], dtype=torch.float64)
    exact = log_ellipsoid(torch.linalg.eigvalsh(task.hessian() + 0.3 * torch.diag(s**-2)).numpy(), 0.01)
    assert found["shifted-determinant"]["log_volume"] == pytest.approx(exact, abs=1e-6)
    sampled = found["ellipsoid-slice-corrected"]
    # Five standard errors: a failure has probability below 1e-6.
    assert sampled["log_volume"] == pytest.approx(exact, abs=5 * sampled["standard_error"] + 0.1)
    assert sampled["figures"] == {"k": 0.3}
    assert "k = 0.3" in sampled["verdict"]


def test_without_a_shift_the_determinant_is_the_ellipsoid(
    quadratic: Run, capsys: pytest.CaptureFixture[str], task: ModuleType
) -> None:
    assert quadratic("--method", "shifted-determinant", "--k", "0", "--json") == 0
    exact = log_ellipsoid(torch.linalg.eigvalsh(task.hessian()).numpy(), 0.01)
    assert answer(capsys)["shifted-determinant"]["log_volume"] == pytest.approx(exact, abs=1e-6)


@pytest.mark.slow
def test_the_mass_keeps_to_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """1 MB holds neither 64 steps of a basis nor eight probes at once: the same mass, within the quadrature's error."""
    words = ["volume", str(DIGITS), "--method", "quadratic-mass", "--steps", "64", "--probes", "4", "--json"]
    found = []
    for memory in ("4GB", "1MB"):
        assert main([*words, "--memory", memory]) == 0
        found.append(answer(capsys)["methods"][0])
    rich, poor = found
    assert poor["log_volume"] == pytest.approx(rich["log_volume"], abs=rich["truncation_error"] + poor["half_width95"])
    assert "--memory must be at least 1 MB" in refused(main([*words, "--memory", "1kB"]), capsys)


def test_the_plan_and_the_memory_of_a_large_model_are_said_before_the_computing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "volume",
        str(DIGITS),
        "--steps",
        "4",
        "--probes",
        "2",
        "--directions",
        "3",
        "--preconditioner",
        "identity",
    ]
    assert main(words) == 0
    # Three directions of at least 5 evaluations; 8 products of two probes, and as many of the anchor's run.
    work = (
        r"plan: 15 evaluations of the cost, at least about \d+ s at [\d.]+ m?s each; 16 products, at least about \d+ s"
    )
    assert re.match(work, capsys.readouterr().err)
    for module in ("announcement", "volume_announcement"):
        monkeypatch.setattr(f"basinscope.runs.{module}.WORTH_SAYING", 0.0)
    assert main([*words, "--memory", "1MB"]) == 0
    _, rays, products, memory = capsys.readouterr().err.splitlines()
    assert rays == "plan: star-domain, 3 directions, 3 at a time: about 173 kB above the model"
    assert products.startswith(
        "plan: quadratic-mass by the slq route, 8 products and 8 of the anchor's run; full reortho"
    )
    assert memory.startswith("memory: at most about ")
    assert "for one of 1 batches" not in memory


def test_a_sweep_has_slope_half_n_and_resumes_to_the_bit(
    quadratic: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = tmp_path / "sweep.h5", tmp_path / "whole.h5"
    words = ["--method", "ellipsoid-slice", "--method", "shifted-determinant", "--k", "1e-9"]
    words += ["--sweep-cutoff", "1e-4:1:5", "--dtype", "float64"]
    assert quadratic(*words, "--directions", "64", "--output", path) == 0
    assert "ellipsoid-slice, volume across cutoffs" in capsys.readouterr().out
    assert quadratic(*words, "--directions", "200", "--output", path, "--resume", "--json") == 0
    found = answer(capsys)["sweep"]
    assert found["cutoffs"] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    for method, tolerance in (("ellipsoid-slice", 0.1), ("shifted-determinant", 1e-6)):
        assert found["methods"][method]["slope"] == pytest.approx([2.0] * 5, abs=tolerance)
    assert found["methods"]["ellipsoid-slice"]["directions"] == 200
    picture = tmp_path / "sweep.png"
    assert quadratic(*words, "--directions", "200", "--output", whole, "--plot", picture) == 0
    assert picture.stat().st_size > 10_000
    one, two = (read_study(file).sweep for file in (path, whole))
    assert one is not None
    assert two is not None
    for a, b in zip(one.results["ellipsoid-slice"], two.results["ellipsoid-slice"], strict=True):
        assert a.sampled is not None
        assert b.sampled is not None
        assert a.sampled.log_terms.tobytes() == b.sampled.log_terms.tobytes()
        assert a.verdict == b.verdict
    assert one.log_volumes("shifted-determinant") == pytest.approx(two.log_volumes("shifted-determinant"), abs=1e-12)
    assert read_study(path).complete
    with xarray.open_dataset(path, group="sweep/ellipsoid-slice", engine="h5netcdf") as data:
        assert data["log_terms"].dims == ("cutoff", "direction")
        assert data["cutoff"].values == pytest.approx(found["cutoffs"])
    capsys.readouterr()
    said = refused(quadratic(*words[:-4], "--sweep-cutoff", "1:2:3", "--output", path, "--resume"), capsys)
    assert "sweep_cutoff is 1e-4:1:5 there and 1:2:3 now" in said


def test_a_cutoff_in_the_rounding_noise_is_said(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "star-domain", "--cutoff", "1e-8", "--preconditioner", "identity", "--eps", "search"]
    assert tiny(*words, "--directions", "5", "--json") == 0
    found = answer(capsys)
    assert "rounding noise" in found["cautions"][0]
    assert 1e-10 < found["cost_noise"] < 1e-6
    assert tiny(*words, "--directions", "5", "--dtype", "float64", "--json") == 0
    found = answer(capsys)
    assert found["cautions"] == []
    assert found["provenance"]["dtype"] == "float64"


# Not those that take 4,810 products: the tiny network has them.
@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [name for name in study.PRECONDITIONERS if name not in ("diagonal", "full")])
def test_every_preconditioner_gives_a_lower_bound(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["volume", str(DIGITS), "--method", "star-domain", "--preconditioner", name, "--directions", "8", "--json"]
    assert main([*words, *([] if name == "identity" else ["--eps", "0.1"])]) == 0
    found = answer(capsys)
    assert found["provenance"]["task"] == "digits-heldout"
    assert found["samples"] == 773
    # Each is a lower bound, far below the mass of the quadratic basin, -1,349 nats.
    assert -20000 < found["star-domain"]["log_volume"] < -1349
    assert found["star-domain"]["preconditioner"] == name


def test_a_default_run(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("--json") == 0
    found = answer(capsys)
    assert [result["method"] for result in found["methods"]] == ["quadratic-mass", "star-domain"]
    assert found["settings"]["preconditioner"] == found["star-domain"]["preconditioner"] == "low-rank"
    assert (found["operator"], found["provenance"]["cost"]) == ("fisher", "kl")
    assert found["star-domain"]["lower_bound95"] == pytest.approx(
        found["star-domain"]["log_volume"] + math.log(0.05), abs=1e-9
    )


@pytest.mark.parametrize("prior", ["gaussian:0.5", "init"])
def test_the_segment_is_the_formula(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ModuleType, prior: str
) -> None:
    """Two training rows span the cross-section; the other rows and the prior bound the two directions that are left."""
    path = save(tmp_path / "linear.pt", task.minimum())
    words = ["volume", str(path), "--task", f"{LINEAR}:few", "--validation-task", f"{LINEAR}:linear"]
    words += ["--method", "segment"]
    assert main([*words, "--prior", prior, "--k", "2", "--json"]) == 0
    found = answer(capsys)["segment"]
    # In units of the prior where it has several standard deviations; in plain ones where it has one, s = 0.5.
    s, shift = (np.array([0.4] * 3 + [1.1]), 2.0) if prior == "init" else (np.ones(4), 8.0)
    design = task.design().numpy() * s
    train = np.linalg.svd(design[:2])
    null = train.Vh[2:]
    inner = np.linalg.eigvalsh(null @ (2.0 * design.T @ design / 30) @ null.T)
    expected = log_ellipsoid(train.S**2, 0.01) + log_ellipsoid(inner + shift, 0.01) + np.log(s).sum()
    assert found["log_volume"] == pytest.approx(expected, abs=1e-8)
    figures = found["figures"]
    assert (figures["rank"], figures["zero_dimension"], figures["unseen_dimension"]) == (2.0, 2.0, 0.0)
    assert (found["kind"], found["bits"]) == ("volume", None)
    assert main([*words, "--prior", "lebesgue"]) == 0
    assert "in 2 of which 0 are unseen in validation too" in " ".join(capsys.readouterr().out.split())


def test_a_segment_without_a_validation_set(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(tiny("--method", "segment"), capsys)
    assert "segment needs two sets of data" in said
    assert "--validation-task" in said


def test_a_mass_is_a_code_length_and_the_data_comes_on_top(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("--json", "--method", "star-domain", "--method", "ellipsoid-slice") == 0
    found = answer(capsys)
    mass, figures = found["star-domain"], found["star-domain"]["figures"]
    assert mass["bits"] == pytest.approx(-mass["log_volume"] / math.log(2.0))
    assert figures["parameter_bits"] == pytest.approx(mass["bits"], abs=1e-6)
    assert found["ellipsoid-slice"]["bits"] is None
    assert tiny("--json", "--cost", "task", "--method", "ellipsoid-slice") == 0
    anchor = 40 * answer(capsys)["cost"] / math.log(2.0)
    assert figures["anchor_data_bits"] == pytest.approx(anchor, rel=1e-5)
    assert (figures["coded_samples"], figures["data_draws"]) == (40.0, 32.0)
    assert tiny("--method", "star-domain") == 0
    assert "for 40 targets, from 32 draws" in " ".join(capsys.readouterr().out.split())


def test_more_directions_leave_the_earlier_terms_to_the_bit(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "volume.h5"
    options = (*EVERY, "--eps", "search", "--output", path)
    assert tiny(*options) == 0
    before = read_study(path)
    assert tiny(*options, "--resume", "--directions", "300") == 0
    after = read_study(path)
    for method in ("star-domain", "ellipsoid-slice", "ellipsoid-slice-corrected"):
        one, two = before.results[method].sampled, after.results[method].sampled
        assert one is not None
        assert two is not None
        for name in ("log_terms", "evaluations", "unbounded", "monotone", "radial_error"):
            assert getattr(one, name).tobytes() == getattr(two, name)[:100].tobytes()
        assert len(two.log_terms) == 300
        # Where the correction decides, all rays are nearly equally long.
        assert method == "ellipsoid-slice-corrected" or len(set(two.log_terms)) == 300
    for method in ("quadratic-mass", "shifted-determinant"):
        assert before.results[method].log_volume == after.results[method].log_volume
    assert before.results["star-domain"].eps == after.results["star-domain"].eps
    assert before.provenance.created == after.provenance.created


def test_a_method_can_be_added_and_settings_cannot_change(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "volume.h5"
    assert tiny("--method", "ellipsoid-slice", "--output", path) == 0
    assert tiny("--method", "star-domain", "--output", path, "--resume") == 0
    assert set(read_study(path).results) == {"ellipsoid-slice", "star-domain"}
    assert tiny("--method", "ellipsoid-slice", "--output", path, "--resume", "--directions", "200") == 0
    assert read_study(path).settings.preconditioner == "low-rank"
    assert tiny("--method", "star-domain", "--output", path, "--resume", "--directions", "100") == 0
    capsys.readouterr()
    said = refused(tiny("--method", "star-domain", "--output", path, "--resume", "--cutoff", "0.1"), capsys)
    assert "cutoff is 0.01 there and 0.1 now" in said
    said = refused(tiny("--method", "star-domain", "--output", path, "--resume", "--directions", "50"), capsys)
    assert "needs at least --directions 100" in said
    assert "use --overwrite" in refused(tiny("--output", path), capsys)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["hesscale", "diagonal", "full"])
def test_an_exponent_is_kept_and_cannot_change(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "volume.h5"
    options = ("--method", "star-domain", "--preconditioner", name, "--output", path)
    assert tiny(*options, "--exponent", "0.7") == 0
    assert f"preconditioner {name} with eps 0.01, exponent 0.7" in capsys.readouterr().out
    before = read_study(path)
    assert (before.settings.exponent, before.settings.preconditioner) == (0.7, name)
    assert tiny(*options, "--exponent", "0.7", "--resume", "--directions", "150") == 0
    assert tiny("--method", "ellipsoid-slice", "--output", path, "--resume", "--directions", "150") == 0
    assert read_study(path).settings.exponent == 0.7
    # Unless another is typed, the preconditioner of the file goes on.
    assert tiny("--exponent", "0.7", "--output", path, "--resume", "--directions", "150") == 0
    assert read_study(path).settings.preconditioner == name
    capsys.readouterr()
    assert "exponent is 0.7 there and 0.5 now" in refused(tiny(*options, "--resume"), capsys)


def test_a_file_from_before_some_attributes_goes_on(tiny: Run, tmp_path: Path) -> None:
    path = tmp_path / "volume.h5"
    assert tiny("--method", "star-domain", "--output", path) == 0
    with h5py.File(path, "r+") as file:
        for name in ("setting_exponent", "fall", "fall_distance"):
            del file.attrs[name]
    assert read_study(path).settings.exponent == 0.5
    assert tiny("--method", "star-domain", "--output", path, "--resume", "--directions", "200") == 0
    assert read_study(path).fall >= 0.0


def test_an_interruption_keeps_the_finished_blocks(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "volume.h5", tmp_path / "whole.h5"
    # No curvature in the directions: how its products are computed is chosen by timing, anew in each run.
    options = ("--directions", "300", "--preconditioner", "identity", "--eps", "search")
    keep, write = volume_run._Work.keep, volume_run.write_study

    def interrupted(work: Any, result: MethodResult) -> None:
        keep(work, result)
        if result.sampled is not None and len(result.sampled.log_terms) == 128:
            raise KeyboardInterrupt

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)  # so that nothing is written again before the interruption
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(volume_run._Work, "keep", interrupted)
        patch.setattr(volume_run, "write_study", slow)
        assert tiny(*options, "--output", path) == 130
    assert "--resume" in capsys.readouterr().err
    partial = read_study(path).results["star-domain"].sampled
    assert partial is not None
    assert len(partial.log_terms) == 128
    assert not read_study(path).complete
    with monkeypatch.context() as patch:
        # Another number of ranks would find another noise: the first one is kept.
        patch.setattr(volume_run, "cost_noise", lambda _: 1.0)
        assert tiny(*options, "--output", path, "--resume") == 0
    assert read_study(path).cost_noise < 1e-3
    assert tiny(*options, "--output", whole) == 0
    one, two = (read_study(file).results["star-domain"].sampled for file in (path, whole))
    assert one is not None
    assert two is not None
    assert one.log_terms.tobytes() == two.log_terms.tobytes()


def test_the_store_opens_in_xarray_and_show_prints_the_same(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "volume.h5"
    assert tiny(*EVERY, "--output", path) == 0
    printed = capsys.readouterr().out
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert printed == f"{shown}volume written to {path}\n"
    assert all(method in shown for method in volume_command.METHODS)
    with xarray.open_dataset(path, group="star-domain", engine="h5netcdf") as data:
        assert data["log_terms"].dims == ("direction",)
        assert data["log_terms"].attrs["units"] == "nat"
        assert data.sizes["direction"] == 100
    with h5py.File(path) as file:
        assert file.attrs["setting_cutoff"] == 0.01
        assert file.attrs["checkpoint_sha256"]
    assert main(["show", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["methods"]) == len(volume_command.METHODS)
    assert not is_volume_file(TINY)


def test_the_figure_names_what_it_draws(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = tmp_path / "volume.h5", tmp_path / "volume.png"
    assert tiny(*EVERY, "--output", path, "--plot", picture) == 0
    assert picture.stat().st_size > 10_000
    assert main(["plot", str(path), "--output", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == picture.read_bytes()
    found = read_study(path)
    mass, lebesgue = volume_figure(found).axes
    for axes, methods in ((mass, ("star-domain", "quadratic-mass")), (lebesgue, ("ellipsoid", "shifted"))):
        words = " ".join(text.get_text() for text in axes.get_legend().get_texts())
        assert all(method in words for method in methods)
        assert "(nat)" in axes.get_xlabel()
    places = [float(np.asarray(line.get_xdata())[0]) for line in mass.lines if len(line.get_xdata())]
    assert found.results["star-domain"].log_volume in places
    assert found.results["quadratic-mass"].log_volume in places


def test_a_checkpoint_that_is_no_minimum_is_said_with_the_number(
    tmp_path: Path, task: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "off.pt", task.minimum() + 0.3)
    words = ["volume", str(path), "--task", f"{LINEAR}:linear", "--directions", "50"]
    assert main([*words, "--json"]) == 0
    found = answer(capsys)
    (caution,) = found["cautions"]
    assert not found["quadratic-mass"]["trusted"]
    assert "leaves its slope out" in found["quadratic-mass"]["verdict"]
    norm = float((task.hessian() @ torch.full((4,), 0.3, dtype=torch.float64)).norm())
    assert f"its gradient has norm {norm:.3g}" in caution
    assert main(words) == 0
    assert "! the checkpoint is no minimum of this cost" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (["--cutoff", "0"], "--cutoff must be positive and finite, got 0.0"),
        (["--cutoff", "-1"], "--cutoff must be positive and finite, got -1.0"),
        (["--cutoff", "nan"], "--cutoff must be positive and finite, got nan"),
        (["--cutoff", "inf"], "--cutoff must be positive and finite, got inf"),
        (["--prior", "gaussian:0"], "prior 'gaussian:0' needs a positive finite number, got 0"),
        (["--prior", "gaussian:wide"], "needs a number after the colon, got 'wide'"),
        (["--prior", "gausian"], "did you mean gaussian?"),
        (["--prior", "init"], "metadata has no initialisation_standard_deviations"),
        (["--prior", "uniform:1e-6"], "the anchor lies outside of the prior"),
        (["--prior", "lebesgue", "--method", "quadratic-mass"], "lebesgue is improper: it has no mass"),
        (["--prior", "uniform:9", "--method", "quadratic-mass"], "quadratic-mass needs a gaussian prior"),
        (["--prior", "lebesgue", "--method", "shifted-determinant"], "lebesgue has none"),
        (["--method", "star-domian"], "did you mean star-domain?"),
        (["--preconditioner", "adam-secnd"], "did you mean adam-second"),
        (["--preconditioner", "adam-second"], "has no Adam state; use low-rank"),
        (["--preconditioner", "identity"], "--preconditioner identity takes no --eps"),
        (
            ["--preconditioner", "identity", "--eps", "search", "--exponent", "1"],
            "--preconditioner identity takes no --exponent",
        ),
        (["--exponent", "0"], "exponent must be positive and finite, got 0.0"),
        (["--exponent", "nan"], "exponent must be positive and finite, got nan"),
        (["--negative", "clop"], "did you mean clip?"),
        (["--cost", "kll"], "did you mean kl?"),
        (["--eps", "0"], "eps must be a positive number or search, got '0'"),
        (["--eps", "find"], "eps must be a positive number or search, got 'find'"),
        (["--sweep-cutoff", "1:2"], "sweep cutoffs must be LOW:HIGH:COUNT"),
        (["--dtype", "float23"], "did you mean float32"),
        (["--device", "nowhere"], "--device 'nowhere' cannot be used here"),
        (["--k", "-1"], "k must be non-negative and finite, got -1"),
        (["--k", "0", "--method", "ellipsoid-slice-corrected"], "k must be positive for ellipsoid-slice-corrected"),
        (["--prior", "lebesgue", "--method", "ellipsoid-slice-corrected"], "lebesgue has none"),
        (["--directions", "0"], "directions must be at least 1, got 0"),
        (["--probes", "0"], "probes must be at least 1, got 0"),
        (["--resume"], "--resume needs --output"),
        (["--plot", "figure.gif"], "a plot must end in"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    tiny: Run, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert words in refused(tiny(*options), capsys)


def test_a_zero_standard_deviation_in_the_checkpoint(
    tmp_path: Path, task: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    theta, path = task.minimum(), tmp_path / "zero.pt"
    deviations = {"weight": 0.0, "bias": 1.0}
    model = {"weight": theta[None, :-1], "bias": theta[-1:]}
    torch.save({"model": model, "metadata": {"initialisation_standard_deviations": deviations}}, path)
    code = main(["volume", str(path), "--task", f"{LINEAR}:linear", "--prior", "init"])
    assert "of weight must be positive and finite, got 0" in refused(code, capsys)


def test_a_direction_without_end_is_infinite_under_lebesgue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Softmax of two logits that move together: one parameter does nothing.
    file = tmp_path / "flat.py"
    file.write_text(
        "import torch\n"
        "from spectra.checkpoint.checkpoint import load_into\n"
        "from spectra.landscape.landscape import Landscape\n"
        "class Flat(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.w = torch.nn.Parameter(torch.ones(2))\n"
        "    def forward(self, x):\n"
        "        return x * torch.tanh(self.w.sum() * 1e-9)\n"
        "def flat(checkpoint):\n"
        "    model = Flat()\n"
        "    load_into(checkpoint, model)\n"
        "    cost = lambda outputs, targets: (outputs - targets).square().sum(1)\n"
        "    return Landscape(model, cost, (torch.ones(3, 1), torch.zeros(3, 1)))\n"
    )
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "flat.pt")
    words = ["volume", str(tmp_path / "flat.pt"), "--task", f"{file}:flat", "--method", "ellipsoid-slice"]
    words += ["--method", "ellipsoid-slice-corrected", "--prior", "gaussian:2", "--k", "0.8"]
    assert main([*words, "--cutoff", "5", "--directions", "20", "--json"]) == 0
    both = answer(capsys)
    found, corrected = both["ellipsoid-slice"], both["ellipsoid-slice-corrected"]
    assert found["infinite"]
    assert found["log_volume"] is None
    assert found["unbounded"] == 20
    assert "have no end" in found["verdict"]
    # The correction alone ends the rays: c/2 r^2 = 5 with c = 0.8 / 2^2 is a disc of radius sqrt 50.
    assert corrected["log_volume"] == pytest.approx(math.log(50.0 * math.pi), abs=0.2)


@pytest.mark.slow
def test_a_kill_at_any_moment_changes_no_number(tmp_path: Path) -> None:
    path, whole = tmp_path / "killed.h5", tmp_path / "whole.h5"
    words = ["volume", str(DIGITS), "--method", "star-domain", "--eps", "0.1", "--directions", "2000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for done in (64, 640):
        command = [sys.executable, "-m", "basinscope", *words, "--output", str(path), "--resume"]
        run = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while run.poll() is None and time.monotonic() < deadline and terms(path) < done:
                time.sleep(0.05)
        finally:
            run.kill()
            run.wait()
        assert done <= terms(path) < 2000
    for target, options in ((path, ["--resume"]), (whole, [])):
        command = [sys.executable, "-m", "basinscope", *words, "--output", str(target), *options]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    one, two = (read_study(file).results["star-domain"].sampled for file in (path, whole))
    assert one is not None
    assert two is not None
    assert one.log_terms.tobytes() == two.log_terms.tobytes()


def terms(path: Path) -> int:
    sampled = read_study(path).results["star-domain"].sampled if path.exists() else None
    return 0 if sampled is None else len(sampled.log_terms)
