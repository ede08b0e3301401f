"""Checkpoint files: weights, optimizer state and metadata, without ever running code from the file."""

from __future__ import annotations

from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from spectra.checkpoint.candidates import Chosen, choose
from spectra.checkpoint.inert import UNCHECKED, read_torch
from spectra.checkpoint.names import AVERAGES
from spectra.checkpoint.reading import ReadingOptions
from spectra.checkpoint.strangers import stranger
from spectra.checkpoint.trusted import run_pickle
from spectra.errors import UserError
from spectra.files import PickledCodeError, about, open_regular, parse_object, plain_entries

_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim")
# The format's own limit on the length of its header, in bytes.
_SAFETENSORS_HEADER = 100_000_000
# Kinds of numbers that are not of floating point, as the format names them.
_KINDS = {"BOOL": torch.bool, "C64": torch.complex64, "U8": torch.uint8, "I8": torch.int8}
_KINDS |= {f"{sign}{bits}": torch.int64 for sign in "IU" for bits in (16, 32, 64)}
# Bytes at the beginning by which a file is known.
_HEAD = 512
# What is said of the integrity of such a file.
SAFETENSORS = f"safetensors {UNCHECKED}"


class Content(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        weights: the weights by name, as saved.
        extra: what modules keep as extra state that is no tensor, by name as saved.
        optimizer: its state dict, or None.
        metadata: plain values.
        integrity: how far damage to the file would have been noticed, in words.
        key: where the weights lie in the file; empty at the top.
        model: the whole model that was pickled, where its code was run.
    """

    weights: Mapping[str, Tensor]
    extra: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    integrity: str
    key: str = ""
    model: nn.Module | None = None


def read_content(path: Path, reading: ReadingOptions = ReadingOptions()) -> Content:  # noqa: B008  # frozen
    """The content, on the CPU, of a torch or safetensors file; its first bytes decide which it is, not its name.

    Raises:
        PickledCodeError: if its weights cannot be had without running its code, and that is not asked for.

    >>> import tempfile
    >>> import torch
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> torch.save({"model": {"weight": torch.eye(2)}, "step": 3}, path)
    >>> read_content(path).metadata
    {'step': 3}
    """
    with open_regular(path) as file, about(path):
        if _is_safetensors(path, file):
            return _read_safetensors(path, file, reading.key)
        try:
            found, integrity = read_torch(file)
            return content_of(choose(found, reading.key), integrity)
        except PickledCodeError as refusal:
            if not reading.trust_pickle:
                raise PickledCodeError(f"{refusal}, or give --trust-pickle if you trust who made it") from refusal
        found, integrity = run_pickle(path, file)
        return content_of(choose(found, reading.key), integrity)


def content_of(chosen: Chosen, integrity: str) -> Content:
    """Weights that were chosen in a file, with what lies beside them."""
    weights = {name: value for name, value in chosen.state.items() if isinstance(value, Tensor)}
    extra = {name: value for name, value in chosen.state.items() if not isinstance(value, Tensor)}
    metadata = _metadata(chosen.rest)
    for name in weights:
        if name.rpartition(".")[2] == AVERAGES and weights[name].ndim == 0:
            metadata.setdefault(AVERAGES, weights[name].item())
    return Content(weights, extra, _optimizer(chosen.rest), metadata, integrity, chosen.key, chosen.model)


def read_tensors(path: Path, *, mapped: bool = False) -> Any:
    """What torch.save wrote, of whatever shape; where that can be, ``mapped`` tensors stay in the file until used."""
    with open_regular(path) as file, about(path):
        _is_safetensors(path, file)
        return read_torch(file, mapped=mapped)[0]


def read_integrity(path: Path) -> str:
    """How far damage to a file of weights would be noticed; a file with checksums is held against them."""
    with open_regular(path) as file, about(path):
        return SAFETENSORS if _is_safetensors(path, file) else read_torch(file, mapped=True)[1]


def stored_kinds(path: Path) -> dict[str, torch.dtype]:
    """The kind of numbers of each weight in a file, without reading them.

    Args:
        path: an existing file.

    Returns:
        Kinds by name as saved.

    Raises:
        UserError: if the file cannot be read.
    """
    with open_regular(path) as file, about(path):
        if not _is_safetensors(path, file):
            state = choose(read_torch(file, mapped=True)[0], None).state
            return {name: value.dtype for name, value in state.items() if isinstance(value, Tensor)}
        header = parse_object(file.read(int.from_bytes(file.read(8), "little")))
        kinds = {name: entry["dtype"] for name, entry in header.items() if isinstance(entry, dict) and "dtype" in entry}
        return {name: _KINDS.get(kind, torch.float32) for name, kind in kinds.items()}


def _is_safetensors(path: Path, file: BufferedReader) -> bool:
    """Whether the first bytes are those of safetensors; refuses a file that is none of torch's either."""
    start = file.read(_HEAD)
    file.seek(0)
    if not start:
        raise UserError("is empty")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _SAFETENSORS_HEADER:
        return True
    if words := stranger(start, path.name):
        raise UserError(f"is not a checkpoint of torch but {words}")
    if not start.startswith((b"PK", b"\x80")):
        raise UserError("is not a checkpoint: neither a torch nor a safetensors file")
    return False


def _read_safetensors(path: Path, file: BufferedReader, key: str | None) -> Content:
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = dict(opened.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"is a truncated or damaged safetensors file ({error})") from None
    # The library takes the last of two tensors of one name.
    parse_object(file.read(int.from_bytes(file.read(8), "little")))
    if not tensors:
        raise UserError("is not a checkpoint: it holds no tensors")
    chosen = Chosen(tensors, "", {}) if key is None else choose(tensors, key)
    return Content(chosen.state, {}, None, metadata, SAFETENSORS, chosen.key)


def _optimizer(rest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    # Beside the weights or at the top.
    for part in (rest, *(value for value in rest.values() if isinstance(value, Mapping))):
        for key in _OPTIMIZERS:
            value = part.get(key)
            if isinstance(value, list | tuple) and value:
                value = value[0]
            if isinstance(value, Mapping) and value:
                return value
    return None


def _metadata(content: Mapping[Any, Any]) -> dict[str, Any]:
    rest = {str(name): value for name, value in content.items() if isinstance(name, str | int)}
    inner = rest.get("metadata")
    merged = {**inner, **rest} if isinstance(inner, Mapping) else dict(rest)
    if isinstance(inner, Mapping):
        del merged["metadata"]
    return plain_entries({key: value for key, value in merged.items() if key not in _OPTIMIZERS})
