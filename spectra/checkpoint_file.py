"""Checkpoint files: weights, optimizer state and metadata, without ever running code from the file."""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spectra.errors import UserError

_WEIGHTS = ("model", "state_dict", "model_state_dict", "module")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states")
# The format's own limit on the length of its header, in bytes.
_SAFETENSORS_HEADER = 100_000_000


class Content(NamedTuple):
    """Weights by name as saved, the optimizer's state dict or None, and plain metadata."""

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] | None
    metadata: Mapping[str, Any]


def read_content(path: Path) -> Content:
    """Read a torch or safetensors file; its first bytes decide which it is, not its name.

    Args:
        path: an existing file.

    Returns:
        Its content, on the CPU.

    Raises:
        UserError: if the file is empty, truncated, TorchScript, a pickle with code in it, or no checkpoint.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"model": {"weight": torch.eye(2)}, "step": 3}, path)
        >>> read_content(path).metadata
        {'step': 3}
    """
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise UserError(f"{path} is empty")
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _SAFETENSORS_HEADER:
        return _read_safetensors(path)
    weights, rest = _split(path, _read_torch(path, start))
    return Content(weights, _optimizer(rest), _metadata(rest))


def read_tensors(path: Path, *, mapped: bool = False) -> Any:
    """What torch.save wrote, of whatever shape, with tensors and plain values alone.

    Args:
        path: an existing file.
        mapped: whether the tensors stay in the file until they are used, where its format allows.

    Returns:
        Its content, on the CPU.

    Raises:
        UserError: if the file is empty, truncated, TorchScript, or a pickle with code in it.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise UserError(f"{path} is empty")
    return _read_torch(path, start, mapped=mapped)


def _read_safetensors(path: Path) -> Content:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path} is a truncated or damaged safetensors file ({error})") from None
    if not tensors:
        raise UserError(f"{path} is not a checkpoint: it holds no tensors")
    return Content(tensors, None, metadata)


def _read_torch(path: Path, start: bytes, *, mapped: bool = False) -> Any:
    if start.startswith(b"PK"):
        _check_archive(path)
    elif not start.startswith(b"\x80"):
        raise UserError(f"{path} is not a checkpoint: neither a torch nor a safetensors file")
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it may not read; where it does not, we raise.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and start.startswith(b"PK"))
    except Exception as error:  # torch raises many types on bytes it cannot read
        name = _code_name(path, error)
        if name:
            problem = f"contains pickled code ({name}); basinscope never runs it: save a state_dict instead"
        elif "Invalid magic number" in str(error):
            problem = "is not a checkpoint: a pickle that torch.save did not write"
        else:
            problem = f"is truncated or damaged: torch cannot read it ({type(error).__name__})"
        raise UserError(f"{path} {problem}") from None


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is cut short, TorchScript, or not torch's."""
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated: its archive has no end")
    with zipfile.ZipFile(path) as archive:
        members = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in members:
        raise UserError(f"{path} is a TorchScript archive, which holds code: save a state_dict instead")
    if "data.pkl" not in members:
        raise UserError(f"{path} is not a checkpoint: a zip archive that torch.save did not write")


def _code_name(path: Path, error: Exception) -> str | None:
    """Name of the function or class that torch refused to import, if that is what went wrong."""
    if type(error).__name__ != "UnpicklingError":
        return None
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return found[1].rstrip(".")
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            # Reads the operations one by one and runs none; protocol 4 pushes module and name as strings.
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except ValueError:
        pass  # Not one whole pickle: an archive, or cut short.
    return None


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items())
    )


def _split(path: Path, content: Any) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Weights, and everything else."""
    if _is_state_dict(content):
        return content, {}
    if not isinstance(content, Mapping):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a state dict")
    for key in _WEIGHTS:
        if _is_state_dict(content.get(key)):
            return content[key], {str(name): value for name, value in content.items() if name != key}
    found = ", ".join(repr(name) for name in list(content)[:5]) or "nothing"
    raise UserError(
        f"{path} is not a checkpoint: no state dict at the top or under {', '.join(_WEIGHTS)}; found {found}"
    )


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
    scalars = {
        str(key): value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
        for key, value in merged.items()
        if key not in _OPTIMIZERS
    }
    return {key: value for key, value in scalars.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)
