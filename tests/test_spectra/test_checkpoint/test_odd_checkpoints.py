"""Odd and damaged checkpoints: read as what they are, or refused in one sentence; nothing is cast in silence."""

import argparse
import collections
import dataclasses
import math
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spectra.checkpoint import adam_moments, load_into, read_checkpoint, read_json
from spectra.errors import UserError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def doubled(times: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(times):
        found = [found, found]
    return found


def nested(depth: int, kind: type = list) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = {"in": found} if kind is dict else kind([found])
    return found


def circular() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@dataclasses.dataclass
class Recipe:
    rate: float
    layers: list[int]


# What a checkpoint keeps beside its weights, and what is read of it; None where it is left out.
EXTRAS: dict[str, tuple[Any, Any]] = {
    "float64": (np.float64(0.91), 0.91),
    "int64": (np.int64(3), 3),
    "bool": (np.bool_(True), True),
    "float32 in a list": ([np.float32(0.5)], [0.5]),
    "array of one number": (np.array(2.5), 2.5),
    "array": (np.zeros(3), None),
    "dictionary of arrays": ({"history": np.zeros(3)}, None),
    "state of numpy's generator": (np.random.RandomState(0).get_state(), None),
    "random generator": (np.random.default_rng(0), None),
    "namespace": (argparse.Namespace(lr=0.1, betas=(0.9, 0.99)), {"lr": 0.1, "betas": (0.9, 0.99)}),
    "dataclass": (Recipe(0.1, [2, 3]), {"rate": 0.1, "layers": [2, 3]}),
    "path": (pathlib.PurePosixPath("runs/a"), "runs/a"),
    "ordered": (collections.OrderedDict(a=1), {"a": 1}),
    "default": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "dtype": (torch.float32, None),
    "device": (torch.device("cpu"), None),
    "size": (torch.Size([2, 3]), (2, 3)),
    "tensor of one number": (torch.tensor(7), 7),
    "tensor": (torch.get_rng_state(), None),
    "set": ({1, 2}, None),
    "bytes": (b"abc", None),
    "nested 20 deep": (nested(20), nested(20)),
    "nested 400 deep": (nested(400), None),
    "tuples 400 deep": (nested(400, tuple), None),
    "dictionaries 400 deep": (nested(400, dict), None),
    "doubled 10 times": (doubled(10), doubled(10)),
    "doubled 60 times": (doubled(60), None),
    "circular": (circular(), None),
    "64 bits": (2**64 - 1, 2**64 - 1),
    "5,000 digits": (10**5000, None),
    "not a number": (math.inf, math.inf),
    "a meta tensor": (torch.empty(2, device="meta"), None),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", EXTRAS)
def test_what_lies_beside_the_weights_is_read_or_left_out(tmp_path: Path, name: str, zipped: bool) -> None:
    value, expected = EXTRAS[name]
    content = {"model": network().state_dict(), "extra": value, "epoch": 3}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.metadata == {"epoch": 3} | ({} if expected is None else {"extra": expected})
    load_into(checkpoint, network())


WEIGHT = torch.ones(4, 3)
# Weights that would be other numbers in the model.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "complex": ({"0.weight": WEIGHT + 1j}, "0.weight is complex64"),
    "complex without an imaginary part": ({"0.weight": WEIGHT + 0j}, "0.weight is complex64"),
    "complex128": ({"0.bias": torch.zeros(4, dtype=torch.complex128)}, "0.bias is complex128"),
    "whole numbers": ({"0.weight": WEIGHT.int()}, "0.weight is int32"),
    "int64": ({"2.bias": torch.ones(2, dtype=torch.int64)}, "2.bias is int64"),
    "uint8": ({"2.bias": torch.ones(2, dtype=torch.uint8)}, "2.bias is uint8"),
    "truth values": ({"0.weight": WEIGHT.bool()}, "0.weight is bool"),
    "truth values of a buffer": ({"1.running_var": torch.ones(4).bool()}, "1.running_var is bool"),
    "a fraction for a count": ({"1.num_batches_tracked": torch.tensor(0.5)}, "1.num_batches_tracked is float32"),
    "a complex count": ({"1.num_batches_tracked": torch.tensor(1j)}, "1.num_batches_tracked is complex64"),
}


# safetensors knows no complex128.
ODD = [
    (form, name)
    for form in ("zip", "old", "safetensors")
    for name in KINDS
    if (form, name) != ("safetensors", "complex128")
]


@pytest.mark.parametrize("form, name", ODD)
def test_weights_of_another_kind_of_numbers_are_refused(tmp_path: Path, form: str, name: str) -> None:
    changed, words = KINDS[name]
    weights, model, path = network().state_dict() | changed, network(), tmp_path / "model.pt"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=rf"^{words} in .*model\.pt but (float32|int64) in the model, where its values"):
        load_into(read_checkpoint(path), model)
    assert all(torch.equal(value, network().state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path: Path, kind: torch.dtype) -> None:
    # Counts too, where they are whole numbers still: model scripts convert all of a state dict.
    weights = {name: value.to(kind) for name, value in network().state_dict().items()}
    torch.save(weights, tmp_path / "model.pt")
    model = network()
    load_into(read_checkpoint(tmp_path / "model.pt"), model)
    assert torch.equal(model[0].weight, weights["0.weight"].float())


class Keeper(nn.Module):
    """Keeps something that is no tensor."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.ones(2)), kept

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


class Bare(nn.Module):
    """The same without it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


EXTRA_STATES: dict[str, Any] = {
    "dictionary": {"scale": 2.0, "names": ["a"]},
    "number": 3,
    "text": "abc",
    "bytes": b"abc",
    "none": None,
    "list": [1, [2]],
    "dictionary with a tensor": {"amax": torch.ones(2)},
    "tensor": torch.arange(3.0),
    "array": np.arange(3),
}


@pytest.mark.parametrize("name", EXTRA_STATES)
@pytest.mark.parametrize("prefix", ["", "0."])
def test_extra_state_of_a_module_goes_back_to_it(tmp_path: Path, name: str, prefix: str) -> None:
    kept = EXTRA_STATES[name]
    saved, model = (nn.Sequential(Keeper(one)) if prefix else Keeper(one) for one in (kept, "untouched"))
    torch.save({"model": saved.state_dict()}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert f"{prefix}weight" in checkpoint.parameters
    load_into(checkpoint, model)
    found = model[0].kept if isinstance(model, nn.Sequential) else model.kept
    assert str(found) == str(kept)
    with pytest.raises(UserError, match=rf"{prefix}_extra_state, of shape .* is not in the model"):
        load_into(checkpoint, nn.Sequential(Bare()) if prefix else Bare())


def test_extra_state_that_needs_foreign_code_is_named(tmp_path: Path) -> None:
    torch.save({"model": Keeper({"recipe": Recipe(0.1, [])}).state_dict()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"_extra_state in .* is or holds pickled code \(.*Recipe\), which is not read"):
        load_into(read_checkpoint(tmp_path / "model.pt"), Keeper(None))


def adam(**changes: Any) -> dict[str, Any]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.linspace(-1, 1, 15).reshape(5, 3)).square().sum().backward()
    optimizer.step()
    found = optimizer.state_dict()
    found["state"][0] |= changes
    return found


def regrouped(**changes: Any) -> dict[str, Any]:
    found = adam()
    found["param_groups"][0] |= changes
    return found


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
ABSENT = "has no Adam state"
OPTIMIZERS: dict[str, tuple[Callable[[], Any], str]] = {
    "state a list": (lambda: adam() | {"state": [1, 2]}, "its state is no dictionary"),
    "state a number": (lambda: adam() | {"state": 3}, "its state is no dictionary"),
    "state empty": (lambda: adam() | {"state": {}}, ABSENT),
    "state of texts": (lambda: adam() | {"state": {str(n): {} for n in range(6)}}, "moments of 0, which is in none"),
    "state of other keys": (lambda: adam() | {"state": {9: {}}}, "moments of 9, which is in none of its groups"),
    "state of numbers": (lambda: adam() | {"state": {0: 1.0}}, "what it keeps of parameter 0 is no dictionary"),
    "state of tensors": (lambda: adam() | {"state": {0: torch.ones(2)}}, "keeps of parameter 0 is no dictionary"),
    "state of lists": (lambda: adam() | {"state": {0: [torch.ones(2)]}}, "keeps of parameter 0 is no dictionary"),
    "groups a dictionary": (lambda: adam() | {"param_groups": {"params": [0]}}, "its groups are no list"),
    "groups absent": (lambda: {"state": adam()["state"]}, ABSENT),
    "groups of numbers": (lambda: adam() | {"param_groups": [1]}, "a group has no list of parameters"),
    "groups without parameters": (lambda: adam() | {"param_groups": [{"lr": 1.0}]}, "has no list of parameters"),
    "parameters a number": (lambda: regrouped(params=6), "the params of a group are no list"),
    "parameters a text": (lambda: regrouped(params="012345"), "the params of a group are no list"),
    "parameters none": (lambda: regrouped(params=None), "the params of a group are no list"),
    "parameters twice": (lambda: regrouped(params=[0, 1, 2, 3, 4, 5, 5]), "has the parameter 5 twice"),
    "parameters in two groups": (
        lambda: adam() | {"param_groups": [{"params": [0, 1, 2]}, {"params": [2, 3, 4, 5]}]},
        "has the parameter 2 twice",
    ),
    "parameters lists": (lambda: regrouped(params=[[0], 1, 2, 3, 4, 5]), "a parameter is neither a number nor"),
    "parameters tensors": (lambda: regrouped(params=[torch.ones(2)]), "a parameter is neither a number nor a text"),
    "too few parameters": (lambda: regrouped(params=[0, 1, 2]), "moments of 3, which is in none of its groups"),
    "names twice": (lambda: regrouped(param_names=["0.weight", *NAMES[:5]]), "has the name 0.weight twice"),
    "names too few": (lambda: regrouped(param_names=NAMES[:4]), "it has 4 names for 6 parameters"),
    "names a text": (lambda: regrouped(param_names="0.weight"), "the param_names of a group are no list"),
    "names lists": (lambda: regrouped(param_names=[[]] * 6), "a name is neither a number nor a text"),
    "names unknown": (lambda: regrouped(param_names=list("abcdef")), "moments of a, which is not in the model"),
    "average absent": (lambda: adam() | {"state": {0: {"exp_avg_sq": WEIGHT}}}, ABSENT),
    "squares absent": (lambda: adam() | {"state": {0: {"exp_avg": WEIGHT}}}, ABSENT),
    "average a list": (lambda: adam(exp_avg=[1.0]), "exp_avg of parameter 0 must be a tensor of floating point, got a"),
    "average none": (lambda: adam(exp_avg=None), "exp_avg of parameter 0 must be a tensor of floating point, got a No"),
    "average a number": (lambda: adam(exp_avg=0.0), "exp_avg of parameter 0 must be a tensor of floating point"),
    "average an array": (lambda: adam(exp_avg=np.ones((4, 3))), "must be a tensor of floating point, got a ndarray"),
    "average of whole numbers": (lambda: adam(exp_avg=WEIGHT.int()), "floating point, got torch.int32"),
    "squares of whole numbers": (lambda: adam(exp_avg_sq=WEIGHT.long()), "floating point, got torch.int64"),
    "squares of truth values": (lambda: adam(exp_avg_sq=WEIGHT.bool()), "floating point, got torch.bool"),
    "squares complex": (lambda: adam(exp_avg_sq=WEIGHT + 1j), "exp_avg_sq of parameter 0 must be .* torch.complex64"),
    "average complex": (lambda: adam(exp_avg=WEIGHT + 1j), "exp_avg of parameter 0 must be .* torch.complex64"),
    "squares negative": (lambda: adam(exp_avg_sq=-WEIGHT), "exp_avg_sq of parameter 0 is negative"),
    "one square negative": (lambda: adam(exp_avg_sq=torch.cat([WEIGHT[:3], -1e-30 * WEIGHT[3:]])), "is negative"),
    "squares not numbers": (
        lambda: adam(exp_avg_sq=WEIGHT * math.nan),
        "exp_avg_sq of parameter 0 has values that are",
    ),
    "average infinite": (lambda: adam(exp_avg=WEIGHT * math.inf), "of parameter 0 has values that are not finite"),
    "average meta": (lambda: adam(exp_avg=torch.empty(4, 3, device="meta")), "got a meta tensor"),
    "squares meta": (lambda: adam(exp_avg_sq=torch.empty(4, 3, device="meta")), "got a meta tensor"),
    "average sparse": (lambda: adam(exp_avg=WEIGHT.to_sparse()), "got a sparse tensor"),
    "shapes differ": (lambda: adam(exp_avg_sq=WEIGHT[:2]), "exp_avg and exp_avg_sq of parameter 0 differ in shape"),
    "both of another shape": (lambda: adam(exp_avg=WEIGHT[:2], exp_avg_sq=WEIGHT[:2]), r"have shape \(2, 3\) in"),
    "steps a text": (lambda: adam(step="many"), "the number of steps of parameter 0 is none"),
    "steps none": (lambda: adam(step=None), "the number of steps of parameter 0 is none"),
    "steps not a number": (lambda: adam(step=torch.tensor(math.nan)), "the number of steps of parameter 0 is none"),
    "steps infinite": (lambda: adam(step=math.inf), "the number of steps of parameter 0 is none"),
    "steps negative": (lambda: adam(step=-1), "the number of steps of parameter 0 is none"),
    "steps many": (lambda: adam(step=torch.ones(3)), "the number of steps of parameter 0 is none"),
    "steps complex": (lambda: adam(step=1j), "the number of steps of parameter 0 is none"),
    "steps huge": (lambda: adam(step=10**400), "the number of steps of parameter 0 is none"),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_broken_states_of_an_optimizer_are_refused(tmp_path: Path, name: str) -> None:
    make, words = OPTIMIZERS[name]
    torch.save({"model": network().state_dict(), "optimizer": make()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=rf"{words}") as caught:
        adam_moments(read_checkpoint(tmp_path / "model.pt"), network())
    assert "model.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_moments_under_two_names_of_one_parameter(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = nn.Parameter(torch.ones(2))

    moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), torch.ones(2))
    group = {"params": [0, 1], "param_names": ["one", "two"]}
    optimizer = {"state": {0: moments, 1: moments}, "param_groups": [group]}
    torch.save({"model": Tied().state_dict(), "optimizer": optimizer}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="has Adam's moments of one parameter twice, under two of its names"):
        adam_moments(read_checkpoint(tmp_path / "model.pt"), Tied())


def test_a_name_in_two_files_of_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    files = {"a": "1.safetensors", "b": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {str(files)}}}'.replace("'", '"'))
    for file in files.values():
        save_file({"weight": torch.ones(2)}, tmp_path / file)
    with pytest.raises(UserError, match="has weight in two of its files of weights"):
        len(read_checkpoint(tmp_path).parameters)


JSON = {
    "a name twice": ('{"a": 1, "a": 2}', "holds 'a' twice"),
    "a name twice inside": ('{"a": {"b": 1, "b": 1}}', "holds 'b' twice"),
    "lists 100,000 deep": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply to be read"),
    "objects 100,000 deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "is nested too deeply to be read"),
    "5,000 digits": ('{"a": 1' + "0" * 5000 + "}", "is not JSON"),
    "a list": ("[1]", "must hold a JSON object, got list"),
    "nothing": ("", "is not JSON"),
    "half": ('{"a": ', "is not JSON"),
    "other bytes": (b"\xff\xfe{}", "is not JSON"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_files_that_are_damaged_or_odd(tmp_path: Path, name: str) -> None:
    content, words = JSON[name]
    path = tmp_path / "config.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=rf"config\.json {words}"):
        read_json(path)


def test_safetensors_with_a_name_twice(tmp_path: Path) -> None:
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f'{{"weight":{entry},"weight":{entry}}}'.encode()
    (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError, match=r"odd\.safetensors"):
        read_checkpoint(tmp_path / "odd.safetensors")
