"""Damaged and odd checkpoints at the command line: one sentence that names the cause, or the right numbers."""

import collections
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from basinscope.cli import main
from spectra.checkpoint import UNCHECKED
from spectra.store import read_spectrum

TASK = f"{Path(__file__).parents[1] / 'tiny_task.py'}:tiny"
State = dict[str, Any]


def weights(tiny: ModuleType) -> State:
    torch.manual_seed(0)
    found: State = tiny.network().state_dict()
    return found


def optimizer(tiny: ModuleType) -> State:
    torch.manual_seed(0)
    model = tiny.network()
    adam = torch.optim.Adam(model.parameters())
    inputs, targets = tiny.rows()
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    adam.step()
    return adam.state_dict()


class Payload:
    """Makes a folder when it is unpickled by anything that runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def doubled(times: int) -> Any:
    found: Any = []
    for _ in range(times):
        found = [found, found]
    return found


# What a checkpoint holds beside weights that are fine: the numbers are those of the weights.
READ: dict[str, Callable[[ModuleType], Any]] = {
    "nothing": lambda _: {},
    "a number of numpy": lambda _: {"best": np.float64(0.91)},
    "an array": lambda _: {"history": np.arange(5.0)},
    "a generator's state": lambda _: {"rng": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
    "a counter": lambda _: {"seen": collections.Counter("aab")},
    "a path": lambda _: {"from": Path("runs/last")},
    "metadata nested 400 deep": lambda _: {"metadata": {"deep": nested(400)}},
    "lists doubled 60 times": lambda _: {"metadata": {"wide": doubled(60)}},
    "an integer of 5,000 digits": lambda _: {"step": 10**5000},
    "not a number": lambda _: {"loss": math.nan},
    "an optimizer": lambda tiny: {"optimizer": optimizer(tiny)},
    "a meta tensor": lambda _: {"buffer": torch.empty(3, device="meta")},
    "a sparse tensor": lambda _: {"mask": torch.eye(3).to_sparse()},
    "bytes and sets": lambda _: {"raw": b"abc", "names": {"a", "b"}},
}


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", READ)
def test_what_lies_beside_the_weights_changes_nothing(
    tmp_path: Path, tiny: ModuleType, name: str, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    content = {"model": weights(tiny), **READ[name](tiny)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert main(["spectrum", str(path), "--task", TASK, "--engine", "dense", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    torch.save(weights(tiny), path)
    assert main(["spectrum", str(path), "--task", TASK, "--engine", "dense", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert found["trace"] == plain["trace"]
    assert (UNCHECKED in found["provenance"]["checkpoint_integrity"]) == (not zipped)


WEIGHT = "0.weight"
CHANGED: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "complex": (lambda value: value + 1j, f"{WEIGHT} is complex64"),
    "complex64 of real numbers": (lambda value: value + 0j, f"{WEIGHT} is complex64"),
    "complex128": (lambda value: value.to(torch.complex128), f"{WEIGHT} is complex128"),
    **{
        str(kind): (lambda value, kind=kind: value.to(kind), f"{WEIGHT} is {str(kind).removeprefix('torch.')}")
        for kind in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)
    },
    "meta": (lambda value: value.to("meta"), f"has a meta tensor, which has no numbers as {WEIGHT}"),
    "sparse": (lambda value: value.to_sparse(), f"has a sparse tensor as {WEIGHT}"),
    "transposed": (lambda value: value.T, f"{WEIGHT} has shape (3, 8)"),
    "empty": (lambda value: value[:0], f"{WEIGHT} has shape (0, 3)"),
    "one number": (lambda value: value[0, 0], f"{WEIGHT} has shape ()"),
    "a list": (lambda value: value.tolist(), "is not a checkpoint"),
    "an array": (lambda value: value.numpy(), "is not a checkpoint"),
    "none": (lambda _: None, "is not a checkpoint"),
    "a number": (lambda _: 1.0, "is not a checkpoint"),
}


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    code = main(words)
    printed = capsys.readouterr()
    assert code == 2, printed
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    return printed.err


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("command", ["spectrum", "volume", "bridge", "compare", "audit"])
@pytest.mark.parametrize("name", CHANGED)
def test_weights_that_are_not_the_models(
    tmp_path: Path, tiny: ModuleType, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = CHANGED[name]
    path = tmp_path / "model.pt"
    torch.save({"model": {**weights(tiny), WEIGHT: change(weights(tiny)[WEIGHT])}}, path)
    before = path.read_bytes()
    output = ["--output", str(tmp_path / "b.h5")] if command == "bridge" else []
    said = refused(capsys, [command, str(path), "--task", TASK, *output])
    assert words in said
    assert "model.pt" in said
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


STATES: dict[str, tuple[Callable[[State], Any], str]] = {
    "squares negative": (lambda s: moment(s, exp_avg_sq=-torch.ones(8, 3)), "exp_avg_sq of parameter 0 is negative"),
    "squares complex": (lambda s: moment(s, exp_avg_sq=torch.ones(8, 3) + 1j), "exp_avg_sq of parameter 0 must be"),
    "squares not a number": (lambda s: moment(s, exp_avg_sq=torch.ones(8, 3) * math.nan), "are not finite"),
    "squares whole": (lambda s: moment(s, exp_avg_sq=torch.ones(8, 3).int()), "must be a tensor of floating point"),
    "squares meta": (lambda s: moment(s, exp_avg_sq=torch.ones(8, 3, device="meta")), "got a meta tensor"),
    "squares a list": (lambda s: moment(s, exp_avg_sq=[1.0]), "must be a tensor of floating point, got a list"),
    "steps a text": (lambda s: moment(s, step="many"), "the number of steps of parameter 0 is none"),
    "state a list": (lambda s: {**s, "state": [1]}, "its state is no dictionary"),
    "state of tensors": (lambda s: {**s, "state": {0: torch.ones(2)}}, "what it keeps of parameter 0 is no dict"),
    "groups a dictionary": (lambda s: {**s, "param_groups": {"params": [0]}}, "its groups are no list"),
    "groups of numbers": (lambda s: {**s, "param_groups": [3]}, "a group has no list of parameters"),
    "parameters a number": (lambda s: group(s, params=4), "the params of a group are no list"),
    "parameters twice": (lambda s: group(s, params=[0, 1, 2, 3, 3]), "it has the parameter 3 twice"),
    "names twice": (lambda s: group(s, param_names=["0.weight"] * 4), "it has the name 0.weight twice"),
    "names too few": (lambda s: group(s, param_names=["0.weight"]), "it has 1 names for 4 parameters"),
    "other keys": (lambda s: {**s, "state": {"a": {}}}, "moments of a, which is in none of its groups"),
}


def moment(state: State, **changes: Any) -> State:
    state["state"][0] |= changes
    return state


def group(state: State, **changes: Any) -> State:
    state["param_groups"][0] |= changes
    return state


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("command", ["volume", "audit"])
def test_a_state_of_the_optimizer_that_is_broken(
    tmp_path: Path, tiny: ModuleType, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = STATES[name]
    path = tmp_path / "model.pt"
    torch.save({"model": weights(tiny), "optimizer": change(optimizer(tiny))}, path)
    further = ["--method", "star-domain", "--preconditioner", "adam-second"] if command == "volume" else []
    said = refused(capsys, [command, str(path), "--task", TASK, *further])
    assert words in said
    # What does not need it is computed.
    assert main(["spectrum", str(path), "--task", TASK, "--engine", "dense"]) == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", STATES)
def test_a_comparison_says_what_is_broken(
    tmp_path: Path, tiny: ModuleType, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = STATES[name]
    path = tmp_path / "model.pt"
    torch.save({"model": weights(tiny), "optimizer": change(optimizer(tiny))}, path)
    words_typed = ["compare", str(path), "--task", TASK, "--measures", "parameter-norm,star-domain", "--json"]
    code = main(words_typed)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert words in printed.out


FORMS: dict[str, Callable[[Path, Any], None]] = {
    "torch": lambda path, content: torch.save(content, path),
    "torch, old format": lambda path, content: torch.save(content, path, _use_new_zipfile_serialization=False),
    **{
        f"pickle {protocol}": lambda path, content, protocol=protocol: (
            path.write_bytes(pickle.dumps(content, protocol)) and None
        )
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("where", ["the weights", "beside them", "the optimizer", "deep inside", "everything"])
@pytest.mark.parametrize("form", FORMS)
def test_code_in_a_checkpoint_never_runs(
    tmp_path: Path, tiny: ModuleType, form: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    code = Payload(marker)
    content: Any = {
        "the weights": {"model": code},
        "beside them": {"model": weights(tiny), "extra": code},
        "the optimizer": {"model": weights(tiny), "optimizer": {"state": {0: code}, "param_groups": []}},
        "deep inside": {"model": weights(tiny), "metadata": {"a": [{"b": (code,)}]}},
        "everything": code,
    }[where]
    if form.startswith("pickle"):
        content = {"only": code} if isinstance(content, dict) else code
    FORMS[form](path, content)
    said = refused(capsys, ["spectrum", str(path), "--task", TASK])
    # The first two protocols are text, which torch.save never wrote.
    expected = "is not a checkpoint" if form in ("pickle 0", "pickle 1") else "contains pickled code"
    assert expected in said
    assert not marker.exists()


@pytest.mark.parametrize("command", ["spectrum", "volume", "compare"])
@pytest.mark.parametrize("part", ["data/0", "data/3", "data.pkl"])
@pytest.mark.parametrize("bit", range(0, 8, 3))
def test_a_flipped_bit_in_an_archive(
    tmp_path: Path, tiny: ModuleType, command: str, part: str, bit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": weights(tiny)}, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(part))
        content = bytearray(path.read_bytes())
        content[content.index(archive.read(name)) + 5] ^= 1 << bit
    path.write_bytes(content)
    said = refused(capsys, [command, str(path), "--task", TASK])
    assert f"model.pt is damaged: the checksum of its part {part} is not that of its bytes" in said


def test_the_result_says_that_damage_would_not_be_noticed(tmp_path: Path, tiny: ModuleType) -> None:
    path, output = tmp_path / "model.pt", tmp_path / "s.h5"
    torch.save({"model": weights(tiny)}, path, _use_new_zipfile_serialization=False)
    assert main(["spectrum", str(path), "--task", TASK, "--engine", "dense", "--output", str(output)]) == 0
    assert read_spectrum(output).provenance.checkpoint_integrity == f"torch's old format {UNCHECKED}"
