"""A checkpoint and what a model takes from it: weights and Adam's moments."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectra.checkpoint_file import read_content
from spectra.checkpoint_folder import (
    GGUF_MAGIC,
    folder_digest,
    folder_metadata,
    folder_optimizer,
    folder_weights,
    is_model_folder,
)
from spectra.errors import UserError
from spectra.optimizer_order import optimized

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
        metadata: every plain value of the file (numbers, strings, None, lists and dicts of them), a
            dict called ``metadata`` merged into the rest; tensors that are not weights are left out.
    """

    path: Path
    sha256: str
    parameters: Mapping[str, Tensor] = field(repr=False)
    optimizer: Mapping[str, Any] | None = field(repr=False)
    metadata: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class AdamMoments:
    """Adam's running averages of a gradient and of its square.

    Attributes:
        first: ``exp_avg`` by parameter name, each with the parameter's shape; unit cost / parameter.
        second: ``exp_avg_sq`` likewise; unit (cost / parameter)^2.
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
        device: where the weights go.

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
        return Checkpoint(path, folder_digest(path), folder_weights(path), folder_optimizer(path), metadata)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the checkpoint file inside it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if _is_gguf(path):
        return Checkpoint(path, _digest(path), {}, None, {"format": "gguf"})
    content = read_content(path)
    parameters = {name: content.weights[wrapped].to(device) for name, wrapped in _unwrapped(content.weights).items()}
    return Checkpoint(path, _digest(path), parameters, content.optimizer, content.metadata)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _digest(path: Path) -> str:
    with path.open("rb") as file:
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
        UserError: if a name or a shape differs, naming the first that does in the model's order, or if
            parameters that the model ties have different values in the checkpoint.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"weight": torch.eye(2)}, path)
        >>> model = nn.Linear(2, 2, bias=False)
        >>> load_into(read_checkpoint(path), model)
        >>> model.weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    saved = checkpoint.parameters
    state = model.state_dict(keep_vars=True)
    names = _unwrapped(state)
    # Tied parameters are one object under several names.
    holders = {id(state[names[name]]): name for name in reversed(names) if name in saved}
    for name, wrapped in names.items():
        # A module's extra state may be no tensor.
        shape = tuple(getattr(state[wrapped], "shape", ()))
        holder = holders.get(id(state[wrapped]))
        if holder is None:
            raise UserError(f"{name}, of shape {shape} in the model, is not in {checkpoint.path}")
        if name not in saved:
            continue
        if tuple(saved[name].shape) != shape:
            raise UserError(
                f"{name} has shape {tuple(saved[name].shape)} in {checkpoint.path} but {shape} in the model"
            )
        if holder != name and not torch.equal(saved[name], saved[holder]):
            raise UserError(f"{holder} and {name} are one parameter in the model but differ in {checkpoint.path}")
    for name in saved:
        if name not in names:
            shape = tuple(saved[name].shape)
            raise UserError(f"{name}, of shape {shape} in {checkpoint.path}, is not in the model")
    model.load_state_dict({names[name]: value for name, value in saved.items()}, strict=False)


def adam_moments(checkpoint: Checkpoint, model: nn.Module) -> AdamMoments:
    """Adam's moments of a checkpoint, matched to a model's parameters.

    Matched by ``param_names`` where the optimizer state has them (an optimizer made from
    ``named_parameters()``), else by order: see ``spectra.optimizer_order``. By order, shapes are all that can be
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
    path, optimizer = checkpoint.path, checkpoint.optimizer or {}
    states, groups = optimizer.get("state"), optimizer.get("param_groups")
    if not states or not groups:
        raise UserError(f"{path} has no Adam state")
    keys = [key for group in groups for key in group["params"]]
    named = dict(model.named_parameters(remove_duplicate=False))
    by_name = {name: named[wrapped] for name, wrapped in _unwrapped(named).items()}
    saved = list(_unwrapped(name for group in groups for name in group.get("param_names", ())))
    parameters = optimized(path, optimizer, saved, by_name)
    first, second, steps = {}, {}, [0]
    for key, (name, parameter) in zip(keys, parameters, strict=True):
        if key not in states:
            continue
        state = states[key]
        if not {"exp_avg", "exp_avg_sq"} <= state.keys():
            raise UserError(f"{path} has no Adam state: its optimizer keeps {', '.join(state) or 'nothing'}")
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            if moment.shape != parameter.shape:
                raise UserError(
                    f"Adam's moments of {name} have shape {tuple(moment.shape)} in {path} "
                    f"but the parameter has {tuple(parameter.shape)} in the model"
                )
        first[name] = state["exp_avg"].to(parameter.device)
        second[name] = state["exp_avg_sq"].to(parameter.device)
        steps.append(int(state.get("step", 0)))
    return AdamMoments(first, second, max(steps))
