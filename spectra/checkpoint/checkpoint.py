"""A checkpoint and what a model takes from it: weights and Adam's moments."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectra.checkpoint.adam_state import read_adam_state
from spectra.checkpoint.file import read_content
from spectra.checkpoint.folder import (
    folder_digest,
    folder_integrity,
    folder_metadata,
    folder_optimizer,
    folder_weights,
    is_model_folder,
)
from spectra.checkpoint.gguf_header import MAGIC
from spectra.checkpoint.optimizer_order import optimized
from spectra.checkpoint.torch_file import UNCHECKED
from spectra.errors import UserError
from spectra.files import Opaque, about, open_regular
from spectra.words import dtype_title

# What DistributedDataParallel and torch.compile put before every name.
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file, or the folder.
        sha256: SHA-256 of its bytes, in hexadecimal.
        parameters: the state dict, parameters and buffers, by name without wrapper prefixes; of a GGUF file nothing,
            for its names and numbers are those of another format, which the task ``causal-lm`` translates.
        optimizer: the optimizer's state dict as saved, on the CPU, or None.
        metadata: every plain value of the file (numbers, strings, None, lists and dicts of them), a dict called
            ``metadata`` merged into the rest; tensors that are not weights are left out.
        extra: extra state of modules that is no tensor, by name.
        integrity: how far damage to the file would have been noticed when it was read, in words.
    """

    path: Path
    sha256: str
    parameters: Mapping[str, Tensor] = field(repr=False)
    optimizer: Mapping[str, Any] | None = field(repr=False)
    metadata: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    integrity: str = ""


@dataclass(frozen=True, eq=False)
class AdamMoments:
    """Adam's running averages of a gradient and of its square.

    Attributes:
        first: ``exp_avg`` by parameter name, each with the parameter's shape; unit cost / parameter.
        second: ``exp_avg_sq`` in the same form; unit (cost / parameter)^2.
        step: number of optimizer steps behind them, the largest over parameters.
    """

    first: Mapping[str, Tensor] = field(repr=False)
    second: Mapping[str, Tensor] = field(repr=False)
    step: int


def read_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a torch state dict, a training checkpoint, a safetensors or GGUF file, or a folder that transformers saved.

    The content decides what the file is, not its name. Weights are found at the top or under ``model``,
    ``state_dict``, ``model_state_dict`` or ``module``; the optimizer under ``optimizer``,
    ``optimizer_state_dict`` or, first of a list, ``optimizer_states``. The prefixes ``module.`` and
    ``_orig_mod.`` are taken off where every name has them. Of a folder with a config.json the weights are those
    beside it, the optimizer is a Trainer's ``optimizer.pt``, and both are read when they are asked for.

    Args:
        path: the file or folder.
        device: device that the weights go to.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if the path is a folder without a config.json.
        UserError: if the file is empty, truncated, TorchScript, a pickle with code in it, or no checkpoint.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"state_dict": {"module.weight": torch.eye(2)}, "epoch": 3}, path)
        >>> checkpoint = read_checkpoint(path)
        >>> checkpoint.parameters["weight"].shape, checkpoint.metadata
        (torch.Size([2, 2]), {'epoch': 3})
    """
    path = Path(path)
    if is_model_folder(path):
        metadata = folder_metadata(path)
        parts = folder_digest(path), folder_weights(path), folder_optimizer(path), metadata
        return Checkpoint(path, *parts, integrity=folder_integrity(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the checkpoint file inside it")
    with open_regular(path) as file:
        gguf = file.read(len(MAGIC)) == MAGIC
    if gguf:
        return Checkpoint(path, _digest(path), {}, None, {"format": "gguf"}, integrity=f"GGUF {UNCHECKED}")
    content = read_content(path)
    names = _unwrapped([*content.weights, *content.extra])
    return Checkpoint(
        path,
        _digest(path),
        {name: content.weights[saved].to(device) for name, saved in names.items() if saved in content.weights},
        content.optimizer,
        content.metadata,
        {name: content.extra[saved] for name, saved in names.items() if saved in content.extra},
        content.integrity,
    )


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Each name without the prefixes that all names share -> the name as it was."""
    whole = list(names)
    short = whole
    while prefix := next((p for p in _WRAPPERS if short and all(s.startswith(p) for s in short)), None):
        short = [name.removeprefix(prefix) for name in short]
    return dict(zip(short, whole, strict=True))


def load_into(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copy a checkpoint's parameters and buffers into a model, all of them or none.

    Values take the model's dtype and device. Of tied parameters the checkpoint may hold one or all.

    Args:
        checkpoint: the checkpoint.
        model: the model; wrappers around it (DistributedDataParallel, torch.compile) do not matter.

    Raises:
        UserError: if a name, a shape or the kind of numbers differs, naming the first that does in the model's order,
            or if parameters that the model ties have different values in the checkpoint.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"weight": torch.eye(2)}, path)
        >>> model = nn.Linear(2, 2, bias=False)
        >>> load_into(read_checkpoint(path), model)
        >>> model.weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    saved, extra, path = checkpoint.parameters, checkpoint.extra, checkpoint.path
    state = model.state_dict(keep_vars=True)
    names = _unwrapped(state)
    # Tied parameters are one object under several names.
    holders = {id(state[names[name]]): name for name in reversed(names) if name in saved}
    for name, wrapped in names.items():
        value = state[wrapped]
        if name in extra:
            _check_extra(path, name, extra[name])
            continue
        # A module's extra state may be no tensor.
        shape = tuple(getattr(value, "shape", ()))
        holder = name if name in saved else holders.get(id(value))
        if holder is None:
            raise UserError(f"{name}, of shape {shape} in the model, is not in {path}")
        if name not in saved:
            continue
        if tuple(saved[name].shape) != shape and isinstance(value, Tensor):
            raise UserError(f"{name} has shape {tuple(saved[name].shape)} in {path} but {shape} in the model")
        if isinstance(value, Tensor):
            check_kind(path, name, saved[name], value.dtype)
        first = holders[id(value)]
        if first != name and not torch.equal(saved[name], saved[first]):
            raise UserError(f"{first} and {name} are one parameter in the model but differ in {path}")
    for name, one in {**saved, **extra}.items():
        if name not in names:
            raise UserError(f"{name}, of shape {tuple(getattr(one, 'shape', ()))} in {path}, is not in the model")
    model.load_state_dict({names[name]: value for name, value in {**saved, **extra}.items()}, strict=False)


def check_kind(path: Path, name: str, saved: Tensor, dtype: torch.dtype) -> None:
    """Refuse numbers that would not be the same ones in the model."""
    if dtype.is_floating_point or dtype.is_complex:
        fits = saved.is_floating_point() or (dtype.is_complex and saved.is_complex())
    else:
        fits = not saved.is_complex() and torch.equal(saved.to(dtype).to(saved.dtype), saved)
    if not fits:
        kinds = f"{dtype_title(saved.dtype)} in {path} but {dtype_title(dtype)}"
        raise UserError(f"{name} is {kinds} in the model, where its values would be others: convert it when saving")


def _check_extra(path: Path, name: str, value: Any) -> None:
    held = [value, *(value.values() if isinstance(value, Mapping) else ())]
    if unread := [one for one in held if isinstance(one, Opaque)]:
        raise UserError(f"{name} in {path} is or holds {unread[0].words}, which is not read: save plain data there")


def adam_moments(checkpoint: Checkpoint, model: nn.Module) -> AdamMoments:
    """Adam's moments of a checkpoint, matched to a model's parameters.

    Matched by ``param_names`` where the optimizer state has them (an optimizer made from
    ``named_parameters()``), else by order: see ``optimizer_order``. By order, shapes are all that can be
    checked: two parameters of one shape that the optimizer held in another order are not told apart.

    Args:
        checkpoint: the checkpoint.
        model: the model it was saved from.

    Returns:
        The moments, on each parameter's device in the saved dtype. Parameters that the optimizer never
        stepped, having had no gradient, are absent.

    Raises:
        UserError: if there is no Adam state, or it does not fit the model.

    Reference:
        Kingma and Ba (2015), Adam: a method for stochastic optimization.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.Adam(model.named_parameters())
        >>> model(torch.tensor([1.0, 2.0])).sum().backward()
        >>> optimizer.step()
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        >>> moments = adam_moments(read_checkpoint(path), model)
        >>> moments.first["weight"], moments.step  # (1 - 0.9) times the gradient
        (tensor([[0.1000, 0.2000]]), 1)
    """
    path = checkpoint.path
    named = dict(model.named_parameters(remove_duplicate=False))
    by_name = {name: named[wrapped] for name, wrapped in _unwrapped(named).items()}
    with about(path):
        state = read_adam_state(checkpoint.optimizer or {})
        parameters = optimized(state, list(_unwrapped(state.names)), by_name)
    first, second, steps = {}, {}, [0]
    for key, (name, parameter) in zip(state.keys, parameters, strict=True):
        if key not in state.moments:
            continue
        *moments, step = state.moments[key]
        if moments[0].shape != parameter.shape:
            raise UserError(
                f"Adam's moments of {name} have shape {tuple(moments[0].shape)} in {path} "
                f"but the parameter has {tuple(parameter.shape)} in the model"
            )
        first[name], second[name] = (moment.to(parameter.device) for moment in moments)
        steps.append(step)
    return AdamMoments(first, second, max(steps))
