"""What a model's config states, held against its weights before and while the model is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.checkpoint import CONFIG, GgufHeader, read_gguf_header, read_json, stored_kinds, weight_files
from spectra.errors import UserError
from spectra.files import check_regular
from spectra.words import dtype_title

if TYPE_CHECKING:
    import torch
    from torch import nn

# Entries of a config that say how many parts a model has; Python makes lists of as many before it builds anything.
_PARTS = re.compile(r"layer|block|depth|stage|expert|head|group|label|codebook|band|channel|level", re.IGNORECASE)
_MOST_PARTS = 1_000_000
_DEEPEST = 50


def check_folder(folder: Path) -> None:
    """Refuses what transformers would wait for, build without end, or fetch code for, before it opens the folder.

    Args:
        folder: folder of a model or a tokenizer.

    Raises:
        UserError: if a file in it is no regular file, or its config names more parts than any model has, or a kernel.
    """
    for path in folder.iterdir():
        if not path.is_dir():
            check_regular(path)
    if (folder / CONFIG).exists():
        _check_config(folder / CONFIG, read_json(folder / CONFIG))


def _check_config(path: Path, config: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise UserError(f"{path} is nested too deeply for a config")
    for name, value in config.items() if isinstance(config, dict) else ():
        numbers = value if isinstance(value, list) else [value]
        if _PARTS.search(name) and any(type(number) is int and number > _MOST_PARTS for number in numbers):
            raise UserError(f"{path} states {name} as {value!r:.80}, more than any model has ({_MOST_PARTS:,})")
        if "attn_implementation" in name and "/" in str(value)[:1000]:
            raise UserError(
                f"{path} names a kernel to fetch as {name} ({value!r:.80}), which is never run: take it out"
            )
        for part in numbers:
            _check_config(path, part, depth + 1)


@dataclass(frozen=True)
class Weights:
    """What can be known of weights without reading them.

    Attributes:
        path: file or folder of the weights.
        kinds: kind of numbers by name, where the file says so.
        tensors: how many tensors they are.
        size: their bytes.
    """

    path: Path
    kinds: Mapping[str, torch.dtype]
    tensors: int
    size: int


def examined(path: Path) -> Weights:
    """What can be known of the weights of a model folder or a GGUF file without reading them.

    Args:
        path: the folder, with a config.json, or the file.

    Returns:
        It.

    Raises:
        UserError: if they are truncated, damaged, complex or contain code, or a GGUF file states more layers than
            tensors.
    """
    if path.is_dir():
        check_folder(path)
        files = weight_files(path)
        kinds = {name: kind for file in files for name, kind in stored_kinds(file).items()}
        if twofold := [name for name, kind in kinds.items() if kind.is_complex]:
            raise UserError(
                f"{path} has {twofold[0]} as complex numbers, of which a model would keep the real part alone"
            )
        return Weights(path, kinds, len(kinds), sum(file.stat().st_size for file in files))
    header = read_gguf_header(path) or GgufHeader()
    for name, number in header.numbers.items():
        if name.endswith(".block_count") and number > len(header.tensors):
            raise UserError(f"{path} states {number:,} layers ({name}), more than its {len(header.tensors):,} tensors")
    return Weights(path, {}, len(header.tensors), path.stat().st_size)


@contextmanager
def no_larger_than(weights: Weights) -> Iterator[None]:
    """Ends the building of a model as soon as it has far more parts or parameters than its weights.

    Args:
        weights: what the model is for.

    Yields:
        Nothing.

    Raises:
        UserError: then.
    """
    from torch.nn.modules import module

    # Modules without tensors are some two to each tensor; the fewest bits a parameter has in a file are one or two.
    left = {"layers": 10 * weights.tensors + 10_000, "parameters": 8 * weights.size + 10**7}

    def take(what: str, count: int) -> None:
        left[what] -= count
        if left[what] < 0:
            raise UserError(
                f"{weights.path} states a model of far more {what} than its weights have ({weights.tensors:,} tensors)"
            )

    hooks = (
        module.register_module_module_registration_hook(lambda *_: take("layers", 1)),
        module.register_module_parameter_registration_hook(
            lambda *parts: take("parameters", 0 if parts[2] is None else parts[2].numel())
        ),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_kinds(weights: Weights, model: nn.Module) -> None:
    """Refuses weights that are no numbers of floating point where the model's are: transformers would convert them."""
    floats = [name for name, value in model.state_dict().items() if value.is_floating_point()]
    for name, kind in weights.kinds.items():
        if kind.is_floating_point:
            continue
        of_model = any(own == name or own.endswith(f".{name}") or name.endswith(f".{own}") for own in floats)
        if of_model:
            raise UserError(
                f"{weights.path} has {name} as {dtype_title(kind)}, but it is of floating point in the model: "
                "save it as such"
            )
