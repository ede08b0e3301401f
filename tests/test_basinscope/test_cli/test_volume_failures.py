"""A volume on a cost with negative curvature: what works has its number, what does not says why and what helps."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest
import torch
from torch.func import functional_call, jacrev

from basinscope.cli import main
from basinscope.cli import volume as volume_command
from volume import study
from volume.rays import log_ellipsoid
from volume.store import read_study

TASKS = Path(__file__).parents[1] / "indefinite_task.py"
OTHER = ("--validation-task", f"{TASKS}:other_binary")
Run = Callable[..., int]


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    specification = importlib.util.spec_from_file_location("indefinite_task", TASKS)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def volume(tmp_path: Path, tasks: ModuleType) -> Run:
    """Run ``basinscope volume`` on a network as it was initialised, by default the binary classifier."""
    for name, network in (("binary", tasks.binary_network), ("two_heads", tasks.TwoHeads)):
        torch.manual_seed(0)
        torch.save({"model": network().state_dict()}, tmp_path / f"{name}.pt")

    def run(*options: str | Path, task: str = "binary") -> int:
        words = ["volume", str(tmp_path / f"{task}.pt"), "--task", f"{TASKS}:{task}", "--directions", "16"]
        return main([*words, *map(str, options)])

    return run


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    captured = capsys.readouterr()
    assert all(line.startswith("plan: ") for line in captured.err.splitlines())
    found: dict[str, Any] = json.loads(captured.out)
    return found | {result["method"]: result for result in found["methods"]}


def refusal(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    (said,) = (line for line in captured.err.splitlines() if not line.startswith("plan: "))
    return said.strip()


def advised(sentence: str) -> list[tuple[str, str]]:
    """Every option that a sentence advises, with every value that it names."""
    found = []
    for option, values in re.findall(
        r"(--(?:negative|operator|k)) (above [-+.e\d]+|[a-z-]+(?: or [a-z-]+)*)", sentence
    ):
        if values.startswith("above"):
            found.append((option, f"{1.01 * float(values.split()[1]):g}"))
        else:
            found += [(option, value) for value in values.split(" or ")]
    return found


def test_the_operators_are_those_of_the_library() -> None:
    assert volume_command.OPERATORS == study.OPERATORS


@pytest.mark.parametrize("task", ["binary", "two_heads"])
def test_what_works_has_its_number_and_what_does_not_its_reason(
    volume: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    path, picture = tmp_path / "volume.h5", tmp_path / "volume.png"
    assert volume("--output", path, "--plot", picture, "--json", task=task) == 0
    found = answer(capsys)
    assert list(found["failures"]) == ["quadratic-mass"]
    assert "eigenvalues are negative" in found["failures"]["quadratic-mass"]
    assert found["quadratic-mass"]["log_volume"] is None
    assert found["quadratic-mass"]["failure"] == found["failures"]["quadratic-mass"]
    assert found["star-domain"]["log_volume"] < 0.0
    assert picture.stat().st_size > 10_000
    kept = read_study(path)
    assert kept.complete
    assert kept.failures == found["failures"]
    assert main(["show", str(path)]) == 0
    page = capsys.readouterr().out
    assert f"quadratic-mass: no value: {found['failures']['quadratic-mass'][:40]}" in page
    assert "nan" not in page


def test_where_nothing_works_it_is_an_error(volume: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "volume.h5"
    said = refusal(volume("--method", "quadratic-mass", "--output", path), capsys)
    assert "eigenvalues are negative" in said
    assert "--negative clip or abs" in said


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "words",
    [
        ("--method", "quadratic-mass"),
        ("--method", "shifted-determinant", "--k", "0"),
        ("--method", "shifted-determinant", "--k", "1e-4"),
        ("--method", "segment", "--k", "1e-4", *OTHER),
        ("--method", "quadratic-mass", "--sweep-cutoff", "1e-3:0.1:3"),
        ("--method", "shifted-determinant", "--k", "0", "--sweep-cutoff", "1e-3:0.1:3"),
    ],
)
def test_every_option_that_is_advised_helps(
    volume: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    options = advised(refusal(volume(*words), capsys))
    assert {option for option, _ in options} >= {"--negative", "--operator"}
    for option in options:
        assert volume(*words, *option, "--json") == 0, option
        assert answer(capsys)["failures"] == {}


@pytest.mark.slow
def test_what_is_advised_for_two_heads_helps(volume: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = advised(refusal(volume("--method", "quadratic-mass", task="two_heads"), capsys))
    assert {option for option, _ in options} == {"--negative", "--operator"}
    for option in options:
        assert volume("--method", "quadratic-mass", *option, "--json", task="two_heads") == 0, option
        assert answer(capsys)["quadratic-mass"]["log_volume"] < 0.0


def test_the_gauss_newton_is_that_of_the_formula(
    volume: Run, tmp_path: Path, tasks: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "shifted-determinant", "--prior", "gaussian:0.5", "--operator", "gauss-newton"]
    assert volume(*words, "--dtype", "float64", "--json") == 0
    found = answer(capsys)
    model, inputs = tasks.binary_network().double(), tasks.rows()[0].double()
    theta = {name: value.double() for name, value in torch.load(tmp_path / "binary.pt")["model"].items()}
    rows = jacrev(lambda values: functional_call(model, values, inputs)[:, 0])(theta)
    jacobian = torch.cat([rows[name].flatten(1) for name in theta], 1)
    chance = torch.sigmoid(functional_call(model, theta, inputs)[:, 0])
    # The second derivative of binary cross-entropy in its logit.
    curvature = jacobian.T @ ((chance * (1 - chance))[:, None] * jacobian) / len(inputs)
    shifted = torch.linalg.eigvalsh(curvature + 4.0 * torch.eye(len(curvature), dtype=torch.float64))
    assert found["operator"] == "gauss-newton"
    assert found["shifted-determinant"]["log_volume"] == pytest.approx(log_ellipsoid(shifted.numpy(), 0.01), abs=1e-6)


def test_an_operator_that_the_cost_does_not_have_is_refused(volume: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "likelihood" in refusal(volume("--operator", "fisher"), capsys)
    assert "must be one of fisher, empirical-fisher, gauss-newton, hessian" in refusal(
        volume("--operator", "hesian"), capsys
    )


def test_a_failure_is_tried_again_with_what_was_advised(
    volume: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "volume.h5"
    words = ("--preconditioner", "identity", "--output", path)
    assert volume(*words) == 0
    before = read_study(path).results["star-domain"].sampled
    capsys.readouterr()
    assert volume(*words, "--resume", "--negative", "clip", "--json") == 0
    assert answer(capsys)["quadratic-mass"]["log_volume"] < 0.0
    after = read_study(path).results["star-domain"].sampled
    assert before is not None
    assert after is not None
    assert before.log_terms.tobytes() == after.log_terms.tobytes()
    # Now a number depends on the rule.
    assert "negative is clip there and abs now" in refusal(volume(*words, "--resume", "--negative", "abs"), capsys)


def test_a_file_without_the_newer_attributes_opens_and_goes_on(volume: Run, tmp_path: Path) -> None:
    path = tmp_path / "volume.h5"
    words = ("--method", "star-domain", "--output", path)
    assert volume(*words) == 0
    with h5py.File(path, "r+") as file:
        newer = {"failed_methods", "failures", "setting_operator"} & set(file.attrs)
        assert "setting_operator" in newer
        for name in newer:
            del file.attrs[name]
    assert read_study(path).failures == {}
    assert volume(*words, "--resume", "--directions", "20") == 0
    assert main(["show", str(path)]) == 0


def test_a_trajectory_and_a_difference_keep_what_works(
    volume: Run, tmp_path: Path, tasks: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (0, 10):
        torch.manual_seed(step)
        torch.save({"model": tasks.binary_network().state_dict()}, folder / f"net_step{step}.pt")
    words = ["--task", f"{TASKS}:binary", "--directions", "16", "--prior", "gaussian:0.5"]
    assert main(["volume", "--trajectory", str(folder), *words, "--plot", str(tmp_path / "run.png"), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["trajectory"]
    for point in points:
        assert point["methods"]["star-domain"]["log_volume"] < 0.0
        assert "eigenvalues are negative" in point["methods"]["quadratic-mass"]["failure"]
    one, two = folder / "net_step0.pt", folder / "net_step10.pt"
    assert main(["volume", str(one), "--against", str(two), *words]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "star-domain" in page
    assert "eigenvalues are negative" in page
    assert "nan" not in page


def test_a_sweep_keeps_what_works(volume: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = tmp_path / "sweep.h5", tmp_path / "sweep.png"
    words = ("--sweep-cutoff", "1e-3:0.1:3", "--output", path, "--plot", picture)
    assert volume(*words, "--json") == 0
    found = answer(capsys)
    assert list(found["sweep"]["methods"]) == ["star-domain"]
    assert list(found["failures"]) == ["quadratic-mass"]
    assert read_study(path).complete
    assert main(["show", str(path)]) == 0
    assert "quadratic-mass: no value: the Hessian is not positive" in capsys.readouterr().out


def test_a_bridge_where_costs_are_below_the_checkpoints_has_a_curve_of_the_others(
    volume: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings are errors here: a cutoff below zero has no logarithm."""
    words = ["bridge", str(tmp_path / "binary.pt"), "--task", f"{TASKS}:binary", "--prior", "gaussian:0.5"]
    words += ["--cutoff", "0.05", "--chains", "4", "--draws", "12", "--warm-up", "6"]
    words += ["--output", str(tmp_path / "b.h5"), "--plot", str(tmp_path / "b.png"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(one["cutoff"] > 0.0 for one in found["curve"])
    assert all(one["log_volume"] <= 0.0 for one in found["volumes"])


def test_an_audit_of_an_indefinite_cost_has_every_other_row(
    volume: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(tmp_path / "binary.pt"), "--task", f"{TASKS}:binary", "--repeats", "2", "--directions", "8"]
    words += ["--probes", "2", "--steps", "8", "--prior", "gaussian:0.5", "--no-facts", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    worked = {row["estimator"] for row in rows if row["values"]}
    assert worked >= {"star-domain/identity", "star-domain/low-rank", "trace/hutchinson"}
    assert all(row["skipped"] for row in rows if not row["values"])
