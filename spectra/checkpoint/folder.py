"""A folder as transformers saves it: config.json, weights in a file or several, a Trainer's optimizer beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from spectra.checkpoint.candidates import choose
from spectra.checkpoint.deepspeed import deepspeed_parts, is_deepspeed_folder, read_deepspeed
from spectra.checkpoint.distributed import distributed_parts, is_distributed_folder, read_distributed
from spectra.checkpoint.file import SAFETENSORS, Content, content_of, read_content, read_integrity, read_tensors
from spectra.checkpoint.strangers import ADAPTER, strange_folder
from spectra.errors import UserError
from spectra.files import about, open_regular, parse_object, read_whole

CONFIG, TRAINER = "config.json", "trainer_state.json"
# What a Trainer and accelerate call an optimizer.
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
# In the order in which transformers looks for them.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_ANOTHER = re.compile(r"(model|pytorch_model)_\d+\.(safetensors|bin)(\.index\.json)?")
# Endings of checkpoint files that a folder is searched for.
_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".gguf")
# Bytes of a JSON file; the largest are tokenizers of some 30 MB.
_MOST_JSON = 2**28


class Later(Mapping[str, Any]):
    """A mapping that is read from its files when something in it is asked for.

    >>> dict(Later(lambda: {"a": 1}))
    {'a': 1}
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        """Reads nothing yet; ``read`` will."""
        self._read = read
        self._found: Mapping[str, Any] | None = None

    def _whole(self) -> Mapping[str, Any]:
        if self._found is None:
            self._found = self._read()
        return self._found

    def __getitem__(self, key: str) -> Any:
        """What is stored under a name."""
        return self._whole()[key]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._whole())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._whole())


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder with a model's config.json.

    Args:
        path: any path.

    Returns:
        Whether it is one.

    >>> is_model_folder(Path("/"))
    False
    """
    return path.is_dir() and (path / CONFIG).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, in the order that transformers prefers.

    Args:
        folder: a folder with a config.json.

    Returns:
        One file, or all that the index names.

    Raises:
        UserError: if there are none, or a file that the index names is missing or lies elsewhere.
    """
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder} is an adapter of PEFT (LoRA), the difference to another model alone: merge it into that model "
            "(merge_and_unload), and save the whole"
        )
    found = _weights_of(folder)
    if found is None:
        words = strange_folder(folder) or f"holds no weights: expected one of {', '.join(_WEIGHTS)}"
        if is_deepspeed_folder(folder):
            words = "holds parts of DeepSpeed: make weights of them, with its zero_to_fp32.py"
        raise UserError(f"{folder} {words}")
    if found.suffix != ".json":
        return [found]
    named = read_json(found).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    if not names:
        raise UserError(f"{found} names no files of weights")
    for name in names:
        # A folder of unknown origin must not point anywhere else.
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{found} names {name}, which is not in {folder}")
    return [folder / name for name in names]


def _weights_of(folder: Path) -> Path | None:
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def read_folder(folder: Path, key: str | None) -> tuple[str, Content]:
    """The digest and the content of a folder without a config.json.

    Args:
        folder: folder that accelerate, DeepSpeed or torch.distributed.checkpoint saved.
        key: where the weights lie in it, or None.

    Returns:
        Both.

    Raises:
        IsADirectoryError: if it holds no checkpoint of a known kind.
        UserError: if it cannot be read.
    """
    if is_distributed_folder(folder):
        content, integrity = read_distributed(folder)
        with about(folder):
            return digest_of(distributed_parts(folder)), content_of(choose(content, key), integrity)
    # A config that is there and no regular file makes this no model's folder.
    if (folder / ADAPTER).is_file() or (_weights_of(folder) is not None and not (folder / CONFIG).exists()):
        # accelerate numbers the models after the first.
        if others := sorted(one.name for one in folder.iterdir() if _ANOTHER.fullmatch(one.name)):
            first = _weights_of(folder)
            names = ", ".join([*([first.name] if first else []), *others][:4])
            raise UserError(f"{folder} holds the weights of several models, found {names}: name one of these files")
        weights, optimizer = dict(folder_weights(folder)), folder_optimizer(folder)
        with about(folder):
            found = content_of(choose(weights, key), folder_integrity(folder))
        return folder_digest(folder), found._replace(optimizer=optimizer)
    if is_deepspeed_folder(folder):
        content, integrity = read_deepspeed(folder)
        with about(folder):
            return digest_of(deepspeed_parts(folder)), content_of(choose(content, key), integrity)
    if words := strange_folder(folder):
        raise UserError(f"{folder} {words}")
    inside = sorted(path.name for path in folder.iterdir() if path.suffix in _FILES)
    such = f", such as {', '.join(inside[:3])}" if inside else ""
    raise IsADirectoryError(f"{folder} is a folder; name the checkpoint file inside it{such}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        path: the file.

    Returns:
        The object.

    Raises:
        UserError: if the file holds none.
    """
    content = read_whole(path, _MOST_JSON, "a JSON file")
    with about(path):
        return parse_object(content)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the config, if there is one, and the weights of a folder, names included."""
    config = folder / CONFIG
    return digest_of([*([config] if config.is_file() else []), *weight_files(folder)])


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 over files, names included."""
    whole = hashlib.sha256()
    for path in files:
        with open_regular(path) as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return whole.hexdigest()


def folder_metadata(folder: Path) -> dict[str, Any]:
    """``format``, ``architectures``, ``model_type``, and a Trainer's ``step`` and ``epoch``, where they are there."""
    config = read_json(folder / CONFIG)
    metadata: dict[str, Any] = {key: config[key] for key in ("architectures", "model_type") if key in config}
    if (folder / TRAINER).is_file():
        state = read_json(folder / TRAINER)
        names = {"global_step": "step", "epoch": "epoch"}
        metadata |= {new: state[old] for old, new in names.items() if isinstance(state.get(old), int | float)}
    # timm's configs say what to build by another name.
    kind = "timm" if "architecture" in config and "architectures" not in config else "transformers"
    metadata |= {key: config[key] for key in ("architecture",) if kind == "timm"}
    return {"format": kind, **metadata}


def folder_weights(folder: Path) -> Mapping[str, Tensor]:
    """Weights by name, read when they are asked for."""

    def read() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path in weight_files(folder):
            weights = read_content(path).weights
            if twice := found.keys() & weights.keys():
                raise UserError(f"{folder} has {min(twice)} in two of its files of weights")
            found |= weights
        return found

    return Later(read)


def folder_integrity(folder: Path) -> str:
    """How far damage to the weights of a folder would have been noticed, in words; checksums are checked."""
    found = {SAFETENSORS if path.suffix == ".safetensors" else read_integrity(path) for path in weight_files(folder)}
    return "; ".join(sorted(found))


def folder_optimizer(folder: Path) -> Mapping[str, Any] | None:
    """The optimizer's state dict that a Trainer saved, mapped from the file when it is asked for; None without one."""
    path = next((folder / name for name in _OPTIMIZERS if (folder / name).is_file()), None)
    if path is None:
        return None

    def read() -> Mapping[str, Any]:
        found = read_tensors(path, mapped=True)
        if not isinstance(found, Mapping) or "state" not in found:
            raise UserError(f"{path} is not the state of an optimizer")
        return found

    return Later(read)
