"""Checkpoint files: weights, optimizer state and metadata, without ever running code from the file."""

from __future__ import annotations

from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spectra.checkpoint.torch_file import UNCHECKED, read_torch
from spectra.errors import UserError
from spectra.files import Opaque, about, open_regular, parse_object, plain_entries, refused_call

_WEIGHTS = ("model", "state_dict", "model_state_dict", "module")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states")
# What torch.nn.Module calls what its get_extra_state() gave.
EXTRA_STATE = "_extra_state"
# The format's own limit on the length of its header, in bytes.
_SAFETENSORS_HEADER = 100_000_000
# Kinds of numbers that are not of floating point, as the format names them.
_KINDS = {"BOOL": torch.bool, "C64": torch.complex64, "U8": torch.uint8, "I8": torch.int8}
_KINDS |= {f"{sign}{bits}": torch.int64 for sign in "IU" for bits in (16, 32, 64)}
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
    """

    weights: Mapping[str, Tensor]
    extra: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    integrity: str


def read_content(path: Path) -> Content:
    """The content, on the CPU, of a torch or safetensors file; its first bytes decide which it is, not its name.

    >>> import tempfile
    >>> import torch
    >>> path = Path(tempfile.mkdtemp()) / "model.pt"
    >>> torch.save({"model": {"weight": torch.eye(2)}, "step": 3}, path)
    >>> read_content(path).metadata
    {'step': 3}
    """
    with open_regular(path) as file, about(path):
        if _is_safetensors(file):
            return _read_safetensors(path, file)
        found, integrity = read_torch(file)
        state, rest = _split(found)
        weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        extra = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
        return Content(weights, extra, _optimizer(rest), _metadata(rest), integrity)


def read_tensors(path: Path, *, mapped: bool = False) -> Any:
    """What torch.save wrote, of whatever shape; where that can be, ``mapped`` tensors stay in the file until used."""
    with open_regular(path) as file, about(path):
        _is_safetensors(file)
        return read_torch(file, mapped=mapped)[0]


def read_integrity(path: Path) -> str:
    """How far damage to a file of weights would be noticed; a file with checksums is held against them."""
    with open_regular(path) as file, about(path):
        return SAFETENSORS if _is_safetensors(file) else read_torch(file, mapped=True)[1]


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
        if not _is_safetensors(file):
            state, _ = _split(read_torch(file, mapped=True)[0])
            return {name: value.dtype for name, value in state.items() if isinstance(value, Tensor)}
        header = parse_object(file.read(int.from_bytes(file.read(8), "little")))
        kinds = {name: entry["dtype"] for name, entry in header.items() if isinstance(entry, dict) and "dtype" in entry}
        return {name: _KINDS.get(kind, torch.float32) for name, kind in kinds.items()}


def _is_safetensors(file: BufferedReader) -> bool:
    """Whether the first bytes are those of safetensors; refuses a file that is none of torch's either."""
    start = file.read(9)
    file.seek(0)
    if not start:
        raise UserError("is empty")
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _SAFETENSORS_HEADER:
        return True
    if not start.startswith((b"PK", b"\x80")):
        raise UserError("is not a checkpoint: neither a torch nor a safetensors file")
    return False


def _read_safetensors(path: Path, file: BufferedReader) -> Content:
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
    return Content(tensors, {}, None, metadata, SAFETENSORS)


def _is_state_dict(value: object) -> bool:
    """Whether a value is a dictionary of tensors by name; a module's extra state may be anything."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    kept = [entry for name, entry in value.items() if name.rpartition(".")[2] != EXTRA_STATE]
    return bool(kept) and all(isinstance(entry, Tensor) or _is_other_tensor(entry) for entry in kept)


def _is_other_tensor(value: object) -> bool:
    return isinstance(value, Opaque) and value.tensor


def _split(content: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The state dict, and everything else."""
    if _is_state_dict(content):
        return _readable(content), {}
    if not isinstance(content, Mapping):
        raise UserError(f"is not a checkpoint: it holds a {type(content).__name__}, not a state dict")
    for key in _WEIGHTS:
        if _is_state_dict(content.get(key)):
            rest = {str(name): value for name, value in content.items() if name != key and isinstance(name, str | int)}
            return _readable(content[key]), rest
    objects = [value for value in (content, *content.values()) if isinstance(value, Opaque)]
    if objects:
        raise refused_call(objects[0].name)
    found = ", ".join(repr(str(name)[:40]) for name in list(content)[:5] if isinstance(name, str | int)) or "nothing"
    raise UserError(f"is not a checkpoint: no state dict at the top or under {', '.join(_WEIGHTS)}; found {found}")


def _readable(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in state.items():
        if _is_other_tensor(value):
            raise UserError(f"has {value.words} as {name}: save its plain, dense numbers instead")
    return state


def _optimizer(rest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for key in _OPTIMIZERS:
        value = rest.get(key)
        if isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, Mapping) and value:
            return value
    return None


def _metadata(rest: Mapping[str, Any]) -> dict[str, Any]:
    inner = rest.get("metadata")
    merged = {**inner, **rest} if isinstance(inner, Mapping) else dict(rest)
    if isinstance(inner, Mapping):
        del merged["metadata"]
    return plain_entries({key: value for key, value in merged.items() if key not in _OPTIMIZERS})
