"""The shapes in which checkpoints come, each with what happens to it: the table of docs/checkpoints.md is this one."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import json
import pathlib
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from spectra.checkpoint import ReadingOptions, load_into, read_checkpoint
from spectra.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "checkpoints.md"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


WEIGHTS = {name: value.clone() for name, value in network().state_dict().items()}
OTHERS = {name: value + 1 for name, value in WEIGHTS.items()}


def prefixed(prefix: str, weights: Mapping[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


class Split(enum.Enum):
    TRAIN = 1


@dataclasses.dataclass
class Recipe:
    rate: float


class Shape(NamedTuple):
    """One row: what is saved, how it is read, and what happens.

    Attributes:
        title: what it is, as the page says it.
        save: writes it under a folder and says which path to give.
        happens: ``read``, with what is worth saying; or the refusal, without the folder's name.
        reading: options.
        weights: those that are read.
    """

    title: str
    save: Callable[[Path], Path]
    happens: str
    reading: ReadingOptions = ReadingOptions()
    weights: Mapping[str, Tensor] = WEIGHTS


def saved(content: Any, name: str = "model.pt", *, zipped: bool = True) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        torch.save(content() if callable(content) else content, folder / name, _use_new_zipfile_serialization=zipped)
        return folder / name

    return save


def written(content: bytes, name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return save


def training() -> dict[str, Any]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    states = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.RandomState(0).get_state(),
        "python": random.getstate(),
    }
    return {
        "net": WEIGHTS,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": {"scale": torch.ones(1), "growth": torch.ones(2, 2)},
        "rng_states": states,
        "epoch": 3,
    }


EXTRAS = {
    "best": np.float64(0.9),
    "history": np.zeros((3, 2)),
    "options": argparse.Namespace(lr=0.1, path=pathlib.Path("runs/a")),
    "recipe": Recipe(0.1),
    "split": Split.TRAIN,
    "when": datetime.datetime(2025, 1, 31),
    "price": decimal.Decimal("0.1"),
    "activation": functools.partial(torch.nn.functional.leaky_relu, negative_slope=0.1),
    "counts": collections.defaultdict(list, a=[1]),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
}


def on_a_gpu(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        return saved(WEIGHTS)(folder)


def torchscript(folder: Path) -> Path:
    torch.jit.save(torch.jit.trace(network().eval(), torch.ones(1, 3)), folder / "model.pt")
    return folder / "model.pt"


def safetensors(folder: Path) -> Path:
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder / "model.safetensors"


def in_parts(ending: str, config: dict[str, Any] | None = None) -> Callable[[Path], Path]:
    """A folder with two files of weights, an index and, where there is one, a config."""

    def save(folder: Path) -> Path:
        stem, names = ("model" if ending == "safetensors" else "pytorch_model"), list(WEIGHTS)
        index = {}
        for number, part in enumerate((names[:4], names[4:]), 1):
            file = f"{stem}-{number:05}-of-00002.{ending}"
            weights = {name: WEIGHTS[name] for name in part}
            save_file(weights, folder / file) if ending == "safetensors" else torch.save(weights, folder / file)
            index |= dict.fromkeys(part, file)
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": index}))
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return save


def accelerate(folder: Path) -> Path:
    save_file(WEIGHTS, folder / "model.safetensors")
    torch.save(training()["optimizer"], folder / "optimizer.bin")
    return folder


def timm(folder: Path) -> Path:
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 2}))
    return folder


def on_the_hub(folder: Path) -> Path:
    home = folder / "hub" / "models--someone--network"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abc")
    (home / "snapshots" / "0123abc").mkdir(parents=True)
    in_parts("safetensors", {})(home / "snapshots" / "0123abc")
    return Path("someone/network")


@pytest.mark.filterwarnings("ignore")
def distributed(folder: Path) -> Path:
    content = {"model": WEIGHTS, "optim": training()["optimizer"], "step": 3}
    alone = {"no_dist": True} if "no_dist" in inspect.signature(torch.distributed.checkpoint.save).parameters else {}
    torch.distributed.checkpoint.save(content, checkpoint_id=folder, **alone)
    return folder


TRAINED = [name for name, _ in network().named_parameters()]
BUFFERS = [name for name in WEIGHTS if name not in TRAINED]


def deepspeed(stage: int, ranks: int = 2, left_out: int = 0) -> Callable[[Path], Path]:
    """A folder as DeepSpeed's engine writes it: a file for the model, and the optimizer's in a file a rank."""

    def save(folder: Path) -> Path:
        inner = folder / "global_step3"
        inner.mkdir()
        (folder / "latest").write_text("global_step3")
        shapes = collections.OrderedDict((name, WEIGHTS[name].shape) for name in TRAINED)
        half = {name: value.half() if value.is_floating_point() else value for name, value in WEIGHTS.items()}
        whole = {
            "module": half,
            "param_shapes": [shapes],
            "buffer_names": BUFFERS,
            "shared_params": {},
            "ds_version": "0.15",
            "step": 3,
        }
        prefix = "zero_pp_rank_0_" if stage == 3 else ""
        torch.save(whole, inner / f"{prefix}mp_rank_00_model_states.pt")
        flat = [WEIGHTS[name].reshape(-1) for name in TRAINED]
        if stage == 3:  # every parameter in as many parts as there are ranks
            even = [torch.cat([one, torch.zeros(-len(one) % ranks)]).chunk(ranks) for one in flat]
            parts = [torch.cat([pieces[rank] for pieces in even]) for rank in range(ranks)]
        else:  # all parameters one after the other, and that in parts
            joined = torch.cat(flat)
            parts = list(torch.cat([joined, torch.zeros(-len(joined) % (2 * ranks))]).chunk(ranks))
        key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
        for rank in range(ranks - left_out):
            state = {key: [parts[rank].clone()], "zero_stage": stage, "partition_count": ranks}
            torch.save({"optimizer_state_dict": state}, inner / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        return folder

    return save


def archive(name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / ("model.keras" if name == "metadata.json" else "model.npz")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, b"{}")
        return path

    return save


def folder_with(*names: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        for name in names:
            (folder / name).write_bytes(b"{}")
        return folder

    return save


def truncated(folder: Path) -> Path:
    path = saved(WEIGHTS)(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (self.marker, "w")


NO_PICKLE = "or give --trust-pickle if you trust who made it"
WHOLE = "a whole model; basinscope never runs it: save its state_dict instead"
TENSORFLOW = "load it with from_tf=True in transformers, or with its own library, and save the torch model's state_dict"
KERAS = "save the weights of a torch model (Keras with the torch backend has one) as a state_dict"
LIGHTNING = {"pytorch-lightning_version": "2.5.0", "epoch": 3, "hyper_parameters": {"lr": 0.1}}
BOTH = {"state_dict": WEIGHTS, "ema_state_dict": OTHERS}
UNNAMED = {"model": WEIGHTS, "ema": {"decay": 0.99, "shadow_params": list(OTHERS.values())}}

SHAPES = [
    Shape("`model.state_dict()`", saved(WEIGHTS), "read"),
    Shape("the same in torch's format from before 1.6", saved(WEIGHTS, zipped=False), "read, without a checksum"),
    Shape("a training checkpoint: weights, optimizer, scheduler, scaler, random states", saved(training), "read"),
    Shape(
        "weights under any one key, such as `net_weights`",
        saved({"net_weights": WEIGHTS, "epoch": 3}),
        "read",
    ),
    Shape("weights deeper in it, such as `state.network`", saved({"state": {"network": WEIGHTS}}), "read"),
    Shape(
        "weights and averaged ones, `state_dict` and `ema_state_dict`",
        saved(BOTH),
        "model.pt holds several sets of weights, found state_dict, ema_state_dict: --key takes one of them by its name",
    ),
    Shape("the same with `--key ema_state_dict`", saved(BOTH), "read", ReadingOptions(key="ema_state_dict"), OTHERS),
    Shape(
        "the same with a key that is not in it",
        saved(BOTH),
        "model.pt has nothing under the key 'emma': found state_dict, ema_state_dict",
        ReadingOptions(key="emma"),
    ),
    Shape(
        "averages as a list without names, as torch_ema keeps them",
        saved(UNNAMED),
        "model.pt holds several sets of weights, found model, ema.shadow_params (a list without names): --key takes "
        "one of them by its name",
    ),
    Shape("the same with `--key model`", saved(UNNAMED), "read", ReadingOptions(key="model")),
    Shape(
        "two networks, `generator` and `discriminator`",
        saved({"generator": WEIGHTS, "discriminator": {"0.weight": torch.ones(5, 5)}}),
        "model.pt holds several sets of weights, found generator, discriminator: --key takes one of them by its name",
    ),
    Shape(
        "two networks in one state dict, with `--key ema`",
        saved(prefixed("net.") | prefixed("ema.", OTHERS)),
        "read: those whose names begin with `ema.`",
        ReadingOptions(key="ema"),
        OTHERS,
    ),
    Shape("names with `module.`, of DistributedDataParallel", saved(prefixed("module.")), "read"),
    Shape("names with `_orig_mod.`, of torch.compile", saved(prefixed("_orig_mod.")), "read"),
    Shape(
        "an AveragedModel of torch.optim.swa_utils",
        saved(lambda: torch.optim.swa_utils.AveragedModel(network()).state_dict()),
        "read; the number of averages is metadata",
    ),
    Shape(
        "a Lightning .ckpt, the network as `self.model` or `self.net`",
        saved({"state_dict": prefixed("net."), **LIGHTNING}, "epoch=3.ckpt"),
        "read, without that prefix",
    ),
    Shape(
        "a Lightning .ckpt with parameters beside the network's",
        saved({"state_dict": prefixed("net.") | {"loss.weight": torch.ones(2)}, **LIGHTNING}, "epoch=3.ckpt"),
        "0.weight, of shape (4, 3) in the model, is not in epoch=3.ckpt, but all of the model's names are under "
        "another: --key state_dict.net",
    ),
    Shape(
        "the same with `--key state_dict.net`",
        saved({"state_dict": prefixed("net.") | {"loss.weight": torch.ones(2)}, **LIGHTNING}, "epoch=3.ckpt"),
        "read",
        ReadingOptions(key="state_dict.net"),
    ),
    Shape(
        "names with a prefix of the user's, `encoder.`", saved(prefixed("encoder.")), "read, where all names fit then"
    ),
    Shape(
        "the same with `--strip-prefix encoder.`",
        saved(prefixed("encoder.")),
        "read",
        ReadingOptions(strip_prefix="encoder."),
    ),
    Shape(
        "a prefix that only some names have",
        saved(prefixed("encoder.") | {"head.bias": torch.ones(2)}),
        "model.pt has names without the prefix encoder., such as head.bias: leave --strip-prefix out, or take only the "
        "weights under it, by --key",
        ReadingOptions(strip_prefix="encoder."),
    ),
    Shape(
        "numbers and arrays of numpy, Namespace, Path, dataclass and more beside the weights",
        saved({"model": WEIGHTS, **EXTRAS}),
        "read; nothing of it is run",
    ),
    Shape("tensors saved on a GPU", on_a_gpu, "read, on the CPU"),
    Shape(
        "weights in bfloat16",
        saved({n: v.bfloat16() for n, v in WEIGHTS.items()}),
        "read; values as they are",
        weights={n: v.bfloat16() for n, v in WEIGHTS.items()},
    ),
    Shape(
        "complex weights for a real model",
        saved(WEIGHTS | {"0.weight": torch.ones(4, 3) + 1j}),
        "0.weight is complex64 in model.pt but float32 in the model, where its values would be others: convert it when "
        "saving",
    ),
    Shape(
        "quantised weights",
        saved(lambda: WEIGHTS | {"0.weight": torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8)}),
        "model.pt has a quantised tensor as 0.weight: save its plain, dense numbers instead",
    ),
    Shape(
        "sparse weights",
        saved(lambda: WEIGHTS | {"0.weight": torch.ones(4, 3).to_sparse()}),
        "model.pt has a sparse tensor as 0.weight: save its plain, dense numbers instead",
    ),
    Shape(
        "weights on the meta device",
        saved(lambda: network().to("meta").state_dict()),
        "model.pt has a meta tensor, which has no numbers as 0.weight: save its plain, dense numbers instead",
    ),
    Shape(
        "a whole model, `torch.save(model)`",
        saved(network),
        f"model.pt contains pickled code (torch.nn.modules.container.Sequential), {WHOLE}, {NO_PICKLE}",
    ),
    Shape(
        "the same with `--trust-pickle`",
        saved(network),
        "read; what runs is said before",
        ReadingOptions(trust_pickle=True),
    ),
    Shape(
        "a state dict and a whole model for the average",
        saved(lambda: {"model": WEIGHTS, "ema": network()}),
        "model.pt holds several sets of weights, found model, ema (a whole pickled model): --key takes one of them by "
        "its name",
    ),
    Shape(
        "any function call in the pickle",
        saved({"model": WEIGHTS, "extra": Payload("marker")}),
        "model.pt contains pickled code (io.open); basinscope never runs it: save a state_dict or plain data instead, "
        + NO_PICKLE,
    ),
    Shape("TorchScript", torchscript, "model.pt is a TorchScript archive, which holds code: save a state_dict instead"),
    Shape("safetensors", safetensors, "read, without a checksum"),
    Shape("a folder of transformers, safetensors in parts", in_parts("safetensors", {"architectures": []}), "read"),
    Shape("a folder of transformers, .bin in parts", in_parts("bin", {"architectures": []}), "read"),
    Shape(
        "the same with `--key`",
        in_parts("bin", {"architectures": []}),
        "FOLDER is a folder of transformers, whose weights and names are fixed: leave --key and --strip-prefix out",
        ReadingOptions(key="model"),
    ),
    Shape("`someone/network` in the Hugging Face cache", on_the_hub, "read, without the network"),
    Shape(
        "`someone/else` that is not in it",
        lambda _: Path("someone/else"),
        "someone/else does not exist, nor has the Hugging Face cache FOLDER/hub a model of this name: fetch it first, "
        "with hf download someone/else",
    ),
    Shape("a folder of timm", timm, "read; `--task image-classifier:timm=NAME,...` builds the model"),
    Shape("a folder of accelerate, `save_state`", accelerate, "read, with its optimizer"),
    Shape("a folder of torch.distributed.checkpoint", distributed, "read, with its optimizer"),
    Shape(
        "a folder of DeepSpeed, ZeRO stage 1 or 2", deepspeed(2), "read: the float32 weights of the optimizer's parts"
    ),
    Shape("a folder of DeepSpeed, ZeRO stage 3", deepspeed(3), "read: the float32 weights of the optimizer's parts"),
    Shape(
        "the same without the part of one rank",
        deepspeed(3, left_out=1),
        "FOLDER has parts of 1 of 2 ranks: copy the others into it",
    ),
    Shape(
        "a LoRA adapter of PEFT",
        folder_with("adapter_config.json", "adapter_model.safetensors"),
        "FOLDER is an adapter of PEFT (LoRA), the difference to another model alone: merge it into that model "
        "(merge_and_unload), and save the whole",
    ),
    Shape(
        "a folder of checkpoints",
        folder_with("first.pt", "last.pt"),
        "FOLDER is a folder; name the checkpoint file inside it, such as first.pt, last.pt",
    ),
    Shape(
        "a file of Keras",
        archive("metadata.json"),
        f"model.keras is not a checkpoint of torch but a Keras file: {KERAS}",
    ),
    Shape(
        "HDF5",
        written(b"\x89HDF\r\n\x1a\n", "model.h5"),
        "model.h5 is not a checkpoint of torch but an HDF5 file, as Keras saves weights and basinscope its results: "
        f"{KERAS}, or name the checkpoint",
    ),
    Shape(
        "ONNX",
        written(b"\x08\x07\x12\x07pytorch", "model.onnx"),
        "model.onnx is not a checkpoint of torch but an ONNX model, which holds a graph without a torch model: save "
        "the state_dict of the model it came from",
    ),
    Shape(
        "a SavedModel of TensorFlow",
        folder_with("saved_model.pb"),
        f"FOLDER is a SavedModel of TensorFlow: {TENSORFLOW}",
    ),
    Shape(
        "arrays of numpy, .npz",
        archive("weight.npy"),
        "model.npz is not a checkpoint of torch but an archive of numpy arrays (.npz): put them into a state_dict and "
        "save that with torch",
    ),
    Shape(
        "a file of Git LFS that was not fetched",
        written(b"version https://git-lfs.github.com/spec/v1\n", "model.pt"),
        "model.pt is not a checkpoint of torch but a pointer of Git LFS to a file that was not fetched: run git "
        "lfs pull",
    ),
    Shape("half a file", truncated, "model.pt is truncated: its archive has no end"),
    Shape("an empty file", written(b"", "model.pt"), "model.pt is empty"),
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=[shape.title for shape in SHAPES])


@each_shape
@pytest.mark.filterwarnings("ignore")
def test_what_happens_to_each_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Shape) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    path, model = shape.save(tmp_path), network()
    nn.init.zeros_(model[0].weight)
    if shape.happens.startswith("read"):
        load_into(read_checkpoint(path, shape.reading), model)
        found = model.state_dict()
        assert found.keys() == shape.weights.keys()
        assert all(torch.equal(found[name].to(value.dtype), value) for name, value in shape.weights.items())
    else:
        with pytest.raises((UserError, OSError)) as refusal:
            load_into(read_checkpoint(path, shape.reading), model)
        said = str(refusal.value).replace(f"{tmp_path}/hub", "FOLDER/hub")
        said = said.replace(f"{tmp_path}/", "").replace(str(tmp_path), "FOLDER")
        assert said == shape.happens
    assert not (tmp_path / "marker").exists()


def test_the_page_has_this_table() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    assert len(SHAPES) >= 31
    assert rows == [(shape.title, shape.happens) for shape in SHAPES]
