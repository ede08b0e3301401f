"""``basinscope task``, and --model, --data and --loss on every command that takes --task."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import basinscope
from basinscope.cli import main
from basinscope.tasks import data_folder, load_digits

DIGITS = data_folder() / "digits_mlp" / "clean_seed0_step00640.pt"
NETWORK = """
from collections import OrderedDict
from torch import nn

def make(width=64):
    layers = {"hidden": nn.Linear(64, width), "activation": nn.GELU(), "output": nn.Linear(width, 10)}
    return nn.Sequential(OrderedDict(layers))
"""
COMMANDS = {"spectrum": (), "volume": (), "bridge": ("--output", "bridge.h5"), "compare": (), "audit": ()}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options for the digits by files of one's own, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    for name, split in (("train.npz", "train"), ("test.npz", "heldout")):
        inputs, targets = load_digits(split)  # type: ignore[arg-type]
        np.savez(name, x=inputs.numpy(), y=targets.numpy())
    return "--model", "net.py:make?width=64", "--data", "train.npz", "--loss", "cross-entropy"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints; it has to end with a code."""

    def run(*words: str | Path, code: int = 0) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_the_cost_is_shown_before_anything_is_spent(own: tuple[str, ...], said: Callable[..., str]) -> None:
    mine = json.loads(said("task", DIGITS, *own, "--json"))
    built_in = json.loads(said("task", DIGITS, "--json"))
    for name in ("cost", "gradient_norm", "accuracy"):
        assert mine[name] == pytest.approx(built_in[name], rel=1e-5)
    assert (mine["parameters"], mine["samples"], mine["cost_unit"]) == (4810, 1024, "nat")
    table = said("task", DIGITS, *own)
    assert re.search(r"cost +0\.0116941 nat \(cross-entropy, mean over samples\)", table)
    assert "note: inputs are x and targets y of train.npz" in table


def test_all_tasks_are_listed(said: Callable[..., str]) -> None:
    found = json.loads(said("task", "--json"))
    assert set(found) == {"causal-lm", "digits", "digits-heldout", "image-classifier", "own", "tabular"}
    assert found["own"]["options"] == ["model=...", "data=...", "loss=..."]
    assert "image-classifier" in said("task")


def test_the_template_runs_once_it_is_filled_in(own: tuple[str, ...], said: Callable[..., str]) -> None:
    text = said("task", "--template", DIGITS)
    assert "#     output.weight  (10, 64) float32  nn.Linear(64, 10)" in text
    assert f"basinscope task {DIGITS} --task my_task.py:task" in text
    Path("my_task.py").write_text(text)
    assert "raised NotImplementedError: make_model: build the network here" in said(
        "task", DIGITS, "--task", "my_task.py:task", code=2
    )
    text = text.replace('raise NotImplementedError("make_model: build the network here")', "return make()")
    text = text.replace(
        'raise NotImplementedError("load_data: give inputs and targets here")', 'return load_digits("train")'
    )
    imports = "from net import make\nfrom basinscope.tasks import load_digits\nimport torch\n"
    Path("my_task.py").write_text(text.replace("import torch\n", imports, 1))
    built_in = json.loads(said("task", DIGITS, "--json"))
    for words in (
        ("--task", "my_task.py:task"),
        ("--model", "my_task.py:make_model", "--data", "my_task.py:load_data", "--loss", "cross-entropy"),
    ):
        assert json.loads(said("task", DIGITS, *words, "--json"))["cost"] == pytest.approx(built_in["cost"], rel=1e-6)
    compile(said("task", "--template"), "template", "exec")


def test_names_in_a_checkpoint_are_never_code(tmp_path: Path, said: Callable[..., str]) -> None:
    """Whoever made the checkpoint named its weights; the template is run by whoever reads it."""
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')"
    names = [f"a\n{code}\n", f"b\r{code}\r", f'"""\n{code}\n"""', f"c\u2028{code}", "\\", "d.weight"]
    path = tmp_path / f'x"""+{"y" * 3}+"""\\.pt'
    torch.save({name: torch.zeros(2, 3) for name in names}, tmp_path / "model.pt")
    (tmp_path / "model.pt").rename(path)
    text = said("task", "--template", path)
    exec(compile(text, "template", "exec"), {})
    assert not ran.exists()
    assert "#     d.weight  (2, 3) float32  nn.Linear(3, 2, bias=False) or nn.Embedding(2, 3)" in text


@pytest.mark.parametrize(
    "words, reason",
    [
        (("--model", "net.py:make"), "--model needs --data beside: what the cost is measured on"),
        (
            ("--model", "net.py:make", "--data", "train.npz"),
            "need --loss beside: what it was trained on, cross-entropy",
        ),
        (("--data", "train.npz"), "--data needs --model beside: what makes it, package.module:factory"),
        (("--model", "a:b", "--data", "c", "--loss", "mse", "--task", "digits"), "--task says model, data and loss"),
        (("--model", "net.py:make", "--data", "nowhere.npz", "--loss", "mse"), "nowhere.npz does not exist"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_missing_is_said_by_each_command(
    command: str, words: tuple[str, ...], reason: str, own: tuple[str, ...], said: Callable[..., str]
) -> None:
    del own
    assert reason in said(command, DIGITS, *COMMANDS[command], *words, code=2)


def test_other_data_needs_a_model(own: tuple[str, ...], said: Callable[..., str]) -> None:
    for command, option in (("volume", "--validation-data"), ("compare", "--held-out-data")):
        assert f"{option} needs --model and --loss" in said(command, DIGITS, option, "test.npz", code=2)
        other = (option.replace("data", "task"), "digits-heldout")
        assert "exclude each other" in said(command, DIGITS, *own, option, "test.npz", *other, code=2)


def test_a_template_takes_a_checkpoint_alone(said: Callable[..., str]) -> None:
    assert "--template prints a file" in said("task", "--template", DIGITS, "--task", "digits", code=2)
    assert "give the CHECKPOINT" in said("task", "--task", "digits", code=2)
    assert "nowhere.pt does not exist" in said("task", "nowhere.pt", code=2)


def test_results_record_it_and_go_on(own: tuple[str, ...], said: Callable[..., str]) -> None:
    spectrum = ("spectrum", DIGITS, *own, "--engine", "slq", "--steps", "4", "--deflate", "0", "--output", "s.h5")
    spectrum += ("--strategy", "double-backward", "--block", "1")
    said(*spectrum, "--probes", "1")
    said(*spectrum, "--probes", "2", "--resume")
    stored = basinscope.load("s.h5")
    assert stored.spectrum.density.runs.probes == 2
    assert stored.provenance.task == "own:model=net.py:make?width=64,data=train.npz,loss=cross-entropy"
    shown = json.loads(said("show", "s.h5", "--json"))
    assert shown["cost"] == pytest.approx(0.0116941, rel=1e-4)
    # The same data under another name is the same; other data is not.
    other = [word.replace("train.npz", "test.npz") for word in map(str, spectrum)]
    assert "s.h5" in said(*other, "--probes", "3", "--resume", code=2)


def test_held_out_data_of_a_comparison(own: tuple[str, ...], said: Callable[..., str]) -> None:
    measures = ("--measures", "parameter-norm", "--json")
    mine = json.loads(said("compare", DIGITS, *own, "--held-out-data", "test.npz", *measures))
    built_in = json.loads(said("compare", DIGITS, *measures))
    assert mine["checkpoints"][0]["held_out_cost"] == pytest.approx(
        built_in["checkpoints"][0]["held_out_cost"], rel=1e-5
    )


def test_objects_from_python(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    data = torch.randn((20, 3), generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    options = {"model": lambda: nn.Linear(3, 2), "data": data, "loss": nn.CrossEntropyLoss(), "engine": "dense"}
    found = basinscope.spectrum(tmp_path / "model.pt", output=tmp_path / "s.h5", **options)
    again = basinscope.spectrum(tmp_path / "model.pt", output=tmp_path / "s.h5", resume=True, **options)
    assert again.provenance.checkpoint == found.provenance.checkpoint == str(tmp_path / "model.pt")
    assert found.provenance.task.startswith("own:model=")
    theta = torch.cat([value.detach().reshape(-1) for value in model.parameters()])

    def cost(flat: torch.Tensor) -> torch.Tensor:
        outputs = data[0] @ flat[:6].view(2, 3).T + flat[6:]
        return nn.functional.cross_entropy(outputs, data[1])

    trace = float(torch.trace(torch.func.hessian(cost)(theta)))
    assert found.spectrum.density.trace().value == pytest.approx(trace, rel=1e-4)
    with pytest.raises(ValueError, match="jobs must be at least 1, and 1 where objects are given"):
        basinscope.compare(
            tmp_path / "model.pt", jobs=2, model=model, data=data, loss="cross-entropy", measures="parameter-norm"
        )
    compared = basinscope.compare(
        tmp_path / "model.pt",
        model=model,
        data=data,
        held_out_data=data,
        loss="cross-entropy",
        measures="parameter-norm",
    )
    (result,) = compared.done
    assert result.held_out_cost == pytest.approx(result.cost, rel=1e-6)
