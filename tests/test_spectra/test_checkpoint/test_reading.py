"""Which weights are taken: no guess where there are two, no code of the file, and no piece lost on the way."""

import contextlib
import enum
import inspect
import pickle
import re
import shutil
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from spectra.checkpoint import ReadingOptions, adam_moments, cached, load_into, located, read_checkpoint
from spectra.checkpoint.inert import read_torch
from spectra.checkpoint.trusted import _is_kind
from spectra.errors import UserError

# Older releases find out by themselves that there is no group of processes.
SAVING = inspect.signature(torch.distributed.checkpoint.save).parameters
ALONE: dict[str, Any] = {"no_dist": True} if "no_dist" in SAVING else {}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


WEIGHTS = {name: value.clone() for name, value in network().state_dict().items()}
OTHERS = {name: value + 1 for name, value in WEIGHTS.items()}


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


def refused(path: Path, words: str, reading: ReadingOptions | None = None) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        load_into(read_checkpoint(path, reading or ReadingOptions()), network())
    assert "\n" not in str(refusal.value)


DEEP: Any = OTHERS
for _ in range(8):
    DEEP = {"a": DEEP}
HIDDEN = {
    "a number among them": {"model": {**WEIGHTS, "epoch": 4}, "ema": OTHERS},
    "nothing among them": {"model": {**WEIGHTS, "step": None}, "momentum": OTHERS},
    "a dictionary among them": {"model": {**WEIGHTS, "_metadata": {"a": 1}}, "ema": OTHERS},
    "at the top": {**WEIGHTS, "epoch": 3, "momentum": OTHERS},
    "beside plain ones": {"model": WEIGHTS, "best": {**OTHERS, "epoch": 3}},
    "opt": {"model_opt": WEIGHTS, "model_init": OTHERS},
    "optimized": {"init": OTHERS, "optimized": WEIGHTS},
    "optimal": {"model": WEIGHTS, "model_optimal": OTHERS},
    "random": {"state_dict": WEIGHTS, "random_init": OTHERS},
    "deep": {"model": WEIGHTS, "x": DEEP},
    "without names": {"model": WEIGHTS, "averages": list(OTHERS.values())},
}
HARMLESS = {
    "images": {"state_dict": WEIGHTS, "train_images": torch.ones(3, 3)},
    "an optimizer": {"state_dict": WEIGHTS, "optimizer": {"exp_avg": OTHERS}},
    "moments": {"state_dict": WEIGHTS, "opt_state": {"mu": OTHERS}},
    "losses": {"state_dict": WEIGHTS, "losses": [torch.tensor(1.0), torch.tensor(2.0)]},
    "buffers": {"state_dict": WEIGHTS, "buffers": {"0.weight": WEIGHTS["0.weight"]}},
}


@pytest.mark.parametrize("content", HIDDEN.values(), ids=HIDDEN)
def test_a_second_set_of_weights_is_not_overlooked(content: dict[str, Any], tmp_path: Path) -> None:
    refused(saved(tmp_path, content), "holds several sets of weights, found .*: --key takes one of them")


@pytest.mark.parametrize("content", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_second_set_does_not_stand_in_the_way(content: dict[str, Any], tmp_path: Path) -> None:
    found = read_checkpoint(saved(tmp_path, content | {"epoch": 3}))
    assert found.key == "state_dict"
    assert all(torch.equal(found.parameters[name], value) for name, value in WEIGHTS.items())
    assert found.metadata["epoch"] == 3


def test_tensors_among_other_entries_are_taken_where_their_key_is_given(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": {**WEIGHTS, "epoch": 4}})
    refused(path, "model has entries among its tensors that are none, such as 'epoch'; --key takes the tensors alone")
    assert read_checkpoint(path, ReadingOptions(key="model")).parameters.keys() == WEIGHTS.keys()


def test_several_models_of_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model_1.safetensors"):
        save_file(WEIGHTS, tmp_path / name)
    refused(tmp_path, "weights of several models, found model.safetensors, model_1.safetensors: name one")


class Composed:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (SimpleNamespace, "mro")


def test_names_that_getattr_makes_are_said_too(tmp_path: Path) -> None:
    names: set[str] = set()
    with saved(tmp_path, {"a": Composed()}).open("rb") as file:
        read_torch(file, named=names)
    assert "types.SimpleNamespace.mro" in names
    assert not _is_kind("torch.os")
    assert _is_kind("torch.float32")


PAIRS = [
    ("state_dict", "ema_state_dict"),
    ("model", "model_ema"),
    ("model_state_dict", "swa_model"),
    ("model", "teacher"),
    ("module", "best"),
    ("current_model_state", "state_dict"),
]


@pytest.mark.parametrize("first, second", PAIRS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_two_sets_of_weights_are_never_one(tmp_path: Path, first: str, second: str, wrapped: bool) -> None:
    other = {"decay": 0.99, "module": OTHERS} if wrapped else OTHERS
    path = saved(tmp_path, {first: WEIGHTS, second: other, "epoch": 3})
    key = f"{second}.module" if wrapped else second
    refused(path, rf"model\.pt holds several sets of weights, found {first}, {key}: --key takes")
    for name, weights in ((first, WEIGHTS), (second, OTHERS)):
        found = read_checkpoint(path, ReadingOptions(key=name))
        assert torch.equal(found.parameters["0.weight"], weights["0.weight"])
        assert found.weights == (first if name == first else key)
        assert found.metadata["epoch"] == 3


def test_averages_of_vectors_alone_are_weights_too(tmp_path: Path) -> None:
    weights = {"scale": torch.ones(3)}
    refused(saved(tmp_path, {"model": weights, "ema": {"scale": torch.zeros(3)}}), "found model, ema")


BESIDE: dict[str, Any] = {
    "optimizer_G": {"state": {0: {"exp_avg": torch.ones(4, 3)}}, "param_groups": [{"params": [0]}]},
    "anything": {"state": {0: {"exp_avg": torch.ones(4, 3)}}, "param_groups": [{"params": [0]}]},
    "lr_schedulers": {"table": torch.ones(4, 3)},
    "rng": {"torch": torch.get_rng_state(), "cuda": torch.get_rng_state()},
    "cuda_rng_states": [torch.get_rng_state()],
    "buffers": {"positions": torch.ones(4, 3)},
    "normalisation": {"mean": torch.ones(3), "deviation": torch.ones(3)},
    "metrics": {"loss": torch.tensor(0.5)},
    "counts": {"seen": torch.ones(4, 3, dtype=torch.int64)},
    "history": [torch.ones(4, 3), torch.ones(4, 3)],
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_no_set_of_weights_stands_in_no_ones_way(tmp_path: Path, name: str) -> None:
    checkpoint = read_checkpoint(saved(tmp_path, {"network": WEIGHTS, name: BESIDE[name]}))
    assert checkpoint.key == "network"
    load_into(checkpoint, network())


def test_a_key_that_leads_to_no_weights(tmp_path: Path) -> None:
    path = saved(
        tmp_path, {"model": {"net": WEIGHTS}, "optim": BESIDE["anything"], "two": [WEIGHTS, OTHERS], "epoch": 3}
    )
    refused(path, "has no weights under the key 'optim'", ReadingOptions(key="optim"))
    refused(path, "has nothing under the key 'epoch.a'", ReadingOptions(key="epoch.a"))
    refused(path, "has no weights under the key 'epoch'", ReadingOptions(key="epoch"))
    refused(path, "several sets of weights, 0, 1 under the key 'two'", ReadingOptions(key="two"))
    refused(path, "has no weights under the key 'model.net.head': found '0', '1'", ReadingOptions(key="model.net.head"))
    for key in ("two.1", "two.1."):
        assert torch.equal(read_checkpoint(path, ReadingOptions(key=key)).parameters["0.bias"], OTHERS["0.bias"])
    # A name with a dot in it.
    path = saved(tmp_path, {"a.b": {"c": WEIGHTS}, "a": {"b": OTHERS}})
    assert torch.equal(read_checkpoint(path, ReadingOptions(key="a.b.c")).parameters["0.bias"], WEIGHTS["0.bias"])


class Lightning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()


def test_lightnings_names_fit_the_network_and_the_module_around_it(tmp_path: Path) -> None:
    module = Lightning()
    optimizer = torch.optim.Adam(module.named_parameters())
    module.model(torch.ones(5, 3)).square().sum().backward()
    optimizer.step()
    content = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    for mark in ({"pytorch-lightning_version": "2.5.0"}, {}):
        checkpoint = read_checkpoint(saved(tmp_path, content | mark))
        assert checkpoint.prefix == ("model." if mark else "")
        for model in (network(), Lightning()):
            nn.init.zeros_(next(model.parameters()))
            load_into(checkpoint, model)
            assert torch.equal(next(model.parameters()), module.model[0].weight)
            moments = adam_moments(checkpoint, model).first
            assert moments.keys() == dict(model.named_parameters()).keys()
    kept = read_checkpoint(
        saved(tmp_path, content | {"pytorch-lightning_version": "2.5.0"}), ReadingOptions(strip_prefix="")
    )
    assert "model.0.weight" in kept.parameters


@pytest.mark.parametrize("prefix", ["model.", "net.", "foo."])
def test_a_prefix_that_does_not_lead_to_the_model_is_refused(tmp_path: Path, prefix: str) -> None:
    weights = {f"{prefix}{name}": value for name, value in WEIGHTS.items()} | {f"{prefix}extra": torch.ones(2)}
    content = {"state_dict": weights, "pytorch-lightning_version": "2.5.0"}
    refused(saved(tmp_path, content), r"0\.weight, of shape \(4, 3\) in the model, is not in|extra, of shape")


def test_wrappers_inside_of_names(tmp_path: Path) -> None:
    names = {name: f"0._orig_mod.{name[2:]}" if name.startswith("0") else name for name in WEIGHTS}
    load_into(read_checkpoint(saved(tmp_path, {names[name]: value for name, value in WEIGHTS.items()})), network())
    both = {"a._orig_mod.w": torch.ones(2), "a.w": torch.zeros(2)}
    assert read_checkpoint(saved(tmp_path, both)).parameters.keys() == both.keys()


class Payload:
    """Writes a file, or says something, where it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


class Setting(nn.Linear):
    """Runs code in ways that need no function: in __setstate__ and in __new__."""

    marker: typing.ClassVar[str] = ""

    def __new__(cls, *_: Any) -> "Setting":
        Path(cls.marker).touch()
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        Path(self.marker).touch()
        super().__setstate__(state)


PLACES: dict[str, Callable[[Any], Any]] = {
    "whole": lambda evil: evil,
    "beside the weights": lambda evil: {"model": WEIGHTS, "extra": evil},
    "among the weights": lambda evil: {"model": {**WEIGHTS, "evil": evil}},
    "extra state": lambda evil: {"model": {**WEIGHTS, "_extra_state": evil}},
    "optimizer": lambda evil: {"model": WEIGHTS, "optimizer": {"state": evil, "param_groups": []}},
    "key": lambda evil: {"model": WEIGHTS, "extra": {evil: 1}},
    "in a namespace": lambda evil: {"model": WEIGHTS, "args": SimpleNamespace(callback=evil)},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["function", "class"])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_runs_unless_it_is_trusted(tmp_path: Path, place: str, kind: str, zipped: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.pt"
    Setting.marker = str(marker)
    evil = Payload(open, str(marker), "w") if kind == "function" else Setting(2, 2)
    torch.save(PLACES[place](evil), path, _use_new_zipfile_serialization=zipped)
    marker.unlink(missing_ok=True)
    # Refused or read.
    with contextlib.suppress(UserError):
        load_into(read_checkpoint(path), network())
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_nothing_of_a_distributed_folder_runs(tmp_path: Path, file: str) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "folder"
    evil = Payload(open, str(marker), "w")
    content = {"model": WEIGHTS} if file == ".metadata" else {"model": WEIGHTS, "extra": evil}
    torch.distributed.checkpoint.save(content, checkpoint_id=folder, **ALONE)
    if file == ".metadata":
        (folder / file).write_bytes(pickle.dumps(evil))
    for reading in (ReadingOptions(), ReadingOptions(trust_pickle=True)):
        with pytest.raises(UserError, match=r"contains pickled code \(_?io\.open\)"):
            read_checkpoint(folder, reading)
    assert not marker.exists()


def test_what_is_trusted_is_said_before_it_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_net.py").write_text(
        "import sys\nfrom torch import nn\nclass Net(nn.Sequential):\n"
        "    def __setstate__(self, state):\n        print('runs', file=sys.stderr, flush=True)\n"
        "        super().__setstate__(state)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(str(tmp_path))
        import my_net  # type: ignore[import-not-found]

        path = saved(tmp_path, {"net": my_net.Net(*network()), "epoch": 3})
        del sys.modules["my_net"]
        refused(path, r"contains pickled code \(my_net\.Net\), a whole model as net; .*, or give --trust-pickle")
        assert capfd.readouterr().err == ""
        checkpoint = read_checkpoint(path, ReadingOptions(trust_pickle=True))
        del sys.modules["my_net"]
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith(f"--trust-pickle: running the pickled code of {path}, from my_net (Net); ")
    assert "torch.nn.modules.linear (Linear)" in said[0]
    assert said[1] == "runs"
    load_into(checkpoint, network())
    assert type(checkpoint.model).__name__ == "Net"
    assert (checkpoint.key, checkpoint.metadata) == ("net", {"epoch": 3})
    assert checkpoint.integrity.endswith("; pickled code was run")
    # The module is gone now.
    refused(
        path,
        "has pickled code that raised ModuleNotFoundError: No module named 'my_net'",
        ReadingOptions(trust_pickle=True),
    )


def test_trust_runs_nothing_where_nothing_needs_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, {"model": WEIGHTS, "recipe": SimpleNamespace(rate=0.1)})
    assert read_checkpoint(path, ReadingOptions(trust_pickle=True)).metadata == {"recipe": {"rate": 0.1}}
    assert capfd.readouterr().err == ""


def test_trusted_files_are_still_held_against_their_checksums(tmp_path: Path) -> None:
    path = saved(tmp_path, network())
    content = bytearray(path.read_bytes())
    content[content.index(WEIGHTS["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    refused(path, "is damaged: the checksum of its part", ReadingOptions(trust_pickle=True))


def test_a_class_of_the_script_that_saved_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Local = type("Local", (nn.Sequential,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Local", Local, raising=False)
    path = saved(tmp_path, Local(*network()))
    refused(
        path, r"pickled code \(Local\) that was defined in the script that saved it", ReadingOptions(trust_pickle=True)
    )


class Colour(enum.Flag):
    RED = 1


OPTIONAL = getattr(typing, "Optional")[int]  # noqa: B009  # as older code has it
EXTRAS = [re.compile("a+"), re.I, OPTIONAL, list[int], int | None, Colour.RED, getattr, print]


@pytest.mark.parametrize("extra", EXTRAS, ids=map(repr, EXTRAS))
@pytest.mark.parametrize("protocol", [2, 4])
def test_further_data_of_python_is_left_out(tmp_path: Path, extra: Any, protocol: int) -> None:
    torch.save({"model": WEIGHTS, "extra": extra}, tmp_path / "model.pt", pickle_protocol=protocol)
    load_into(read_checkpoint(tmp_path / "model.pt"), network())


def pieces(folder: Path, *boxes: tuple[int, int], file: str = "part.distcp") -> Path:
    """A folder with one tensor of shape (6, 2), in pieces of some of its rows, as ranks write it."""
    whole, stored = torch.arange(12.0).reshape(6, 2), {}
    content = b""
    for first, last in boxes:
        torch.save(whole[first:last].clone(), folder / "one")
        one = (folder / "one").read_bytes()
        place = SimpleNamespace(relative_path=file, offset=len(content), length=len(one))
        info = torch.distributed.checkpoint.filesystem._StorageInfo(**vars(place))
        stored[MetadataIndex("model.weight", torch.Size([first, 0]))] = info
        content += one
    (folder / "part.distcp").write_bytes(content)
    chunks = [ChunkStorageMetadata(torch.Size([a, 0]), torch.Size([b - a, 2])) for a, b in boxes]
    entry = TensorStorageMetadata(TensorProperties(dtype=whole.dtype), torch.Size([6, 2]), chunks)
    metadata = Metadata({"model.weight": entry}, {"model.weight": ("model", "weight")}, stored)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def test_pieces_of_several_ranks_are_put_together(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(pieces(tmp_path, (4, 6), (0, 3), (3, 4)))
    assert torch.equal(checkpoint.parameters["weight"], torch.arange(12.0).reshape(6, 2))
    dcp_to_torch_save(tmp_path, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt")["model"]["weight"], checkpoint.parameters["weight"])


@pytest.mark.parametrize("boxes", [[(0, 3)], [(0, 3), (2, 5)], [(0, 3), (4, 6)], [(0, 4), (2, 6)], []])
def test_pieces_that_are_not_all_of_a_tensor(tmp_path: Path, boxes: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError, match="is damaged: the pieces of model.weight are not all of it"):
        read_checkpoint(pieces(tmp_path, *boxes))


def test_damaged_folders_of_pieces(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names the part '\.\./part\.distcp'"):
        read_checkpoint(pieces(tmp_path, (0, 6), file="../part.distcp"))
    pieces(tmp_path, (0, 6))
    part, whole = tmp_path / "part.distcp", (tmp_path / "part.distcp").read_bytes()
    part.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"part\.distcp is truncated"):
        read_checkpoint(tmp_path)
    flipped = bytearray(whole)
    flipped[whole.index(torch.arange(12.0).numpy().tobytes()) + 2] ^= 1
    part.write_bytes(flipped)
    with pytest.raises(UserError, match="is damaged: the checksum of its part"):
        read_checkpoint(tmp_path)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"part\.distcp does not exist"):
        read_checkpoint(tmp_path)
    metadata = (tmp_path / ".metadata").read_bytes()
    for length in range(0, len(metadata), 7):
        (tmp_path / ".metadata").write_bytes(metadata[:length])
        with pytest.raises(UserError):
            read_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_the_optimizer_of_a_distributed_folder(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(5, 3)).square().sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optim": optimizer.state_dict()}
    torch.distributed.checkpoint.save(content, checkpoint_id=tmp_path, **ALONE)
    found = adam_moments(read_checkpoint(tmp_path), network())
    assert found.step == 1
    expected = optimizer.state[model[0].weight]["exp_avg"]
    assert torch.equal(found.first["0.weight"], expected)


def zero(folder: Path, stage: int = 2, **changes: Any) -> Path:
    """A DeepSpeed folder of one rank and two groups of parameters."""
    groups = [["0.weight", "1.weight"], ["0.bias", "1.bias"]]
    shapes = [{name: WEIGHTS[name].shape for name in group} for group in groups]
    flat = [torch.cat([WEIGHTS[name].reshape(-1) for name in group]) for group in groups]
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    optimizer = {key: flat, "partition_count": [1, 1]} | changes.pop("optimizer", {})
    whole = {"module": {}, "param_shapes": shapes, "buffer_names": [], **changes}
    torch.save(whole, folder / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": optimizer}, folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder


@pytest.mark.parametrize("stage", [2, 3])
def test_groups_of_parameters_of_deepspeed(tmp_path: Path, stage: int) -> None:
    found = read_checkpoint(zero(tmp_path, stage, shared_params={"tied": "1.weight"})).parameters
    assert torch.equal(found["tied"], WEIGHTS["1.weight"])
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


def test_padding_between_the_parameters_of_deepspeed(tmp_path: Path) -> None:
    weight, bias = WEIGHTS["0.weight"], WEIGHTS["0.bias"]
    flat = torch.cat([weight.reshape(-1), torch.full((4,), 7.0), bias, torch.full((4,), 7.0)])
    optimizer = {"single_partition_of_fp32_groups": [flat], "param_alignment_paddings": [[4, 4]]}
    shapes = [{"0.weight": weight.shape, "0.bias": bias.shape}]
    found = read_checkpoint(zero(tmp_path, param_shapes=shapes, optimizer=optimizer)).parameters
    assert torch.equal(found["0.bias"], bias)


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"frozen_param_shapes": {"a": torch.Size([2])}},
            "has frozen parameters or experts, .* make weights of it with DeepSpeed's own",
        ),
        ({"param_shapes": None}, "is of a version of DeepSpeed that is not known"),
        ({"param_shapes": [{"0.weight": torch.Size([400, 3])}]}, "is truncated: its parts end before 0.weight does"),
        ({"param_shapes": [{"0.weight": torch.Size([2, 3])}]}, "numbers more than its parameters"),
        ({"optimizer": {"single_partition_of_fp32_groups": 3}}, "is of a version of DeepSpeed that is not known"),
        ({"optimizer": {"partition_count": 4}}, "has parts of 1 of 4 ranks"),
    ],
)
def test_folders_of_deepspeed_that_are_not_as_they_should_be(tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_checkpoint(zero(tmp_path, **changes))


def test_slices_of_a_model_of_deepspeed(tmp_path: Path) -> None:
    zero(tmp_path)
    shutil.copy(tmp_path / "mp_rank_00_model_states.pt", tmp_path / "mp_rank_01_model_states.pt")
    with pytest.raises(UserError, match=r"has them in several slices: make weights of it with DeepSpeed's own zero_to"):
        read_checkpoint(tmp_path)


def test_names_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    home = tmp_path / "home" / "hub" / "models--owner--name"
    for commit in ("abc", "def"):
        (home / "snapshots" / commit).mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert located(Path("owner/name")) == home / "snapshots" / "abc"
    assert located(Path("owner/name@def")) == home / "snapshots" / "def"
    assert cached(Path("owner/other")) is None
    (home / "refs" / "main").write_text("../../../..")
    with pytest.raises(FileNotFoundError, match="fetch it first, with hf download owner/name"):
        located(Path("owner/name"))
    for path in ("owner/name.pt", "a/b/c", "name"):
        with pytest.raises(FileNotFoundError, match=rf"^{path} does not exist$"):
            located(Path(path))
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").mkdir()
    assert located(Path("owner/name")) == Path("owner/name")
