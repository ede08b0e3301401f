"""A checkpoint and what a model takes from it: weights and Adam's moments."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectra.checkpoint.adam_state import read_adam_state
from spectra.checkpoint.file import Content, read_content
from spectra.checkpoint.folder import (
    folder_digest,
    folder_integrity,
    folder_metadata,
    folder_optimizer,
    folder_weights,
    is_model_folder,
    read_folder,
)
from spectra.checkpoint.gguf_header import MAGIC
from spectra.checkpoint.hub_cache import located
from spectra.checkpoint.inert import UNCHECKED
from spectra.checkpoint.names import LIGHTNING_MARK, fitting, parts_with, renamed, unwrapped
from spectra.checkpoint.optimizer_order import optimized
from spectra.checkpoint.reading import ReadingOptions
from spectra.errors import UserError
from spectra.files import Opaque, about, open_regular
from spectra.words import dtype_title

_DEFAULT = ReadingOptions()


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
        key: where in the file the weights lie; empty at the top.
        prefix: what was taken off all names, beside what wrappers put into them.
        model: the whole model, where one was pickled and its code was run.
    """

    path: Path
    sha256: str
    parameters: Mapping[str, Tensor] = field(repr=False)
    optimizer: Mapping[str, Any] | None = field(repr=False)
    metadata: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    integrity: str = ""
    key: str = ""
    prefix: str = ""
    model: nn.Module | None = field(default=None, repr=False)

    @property
    def weights(self) -> str:
        """Which weights of the file were read, in words, for the record."""
        return (self.key or "all") + (f" without {self.prefix}" if self.prefix else "")


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


def read_checkpoint(
    path: str | Path, reading: ReadingOptions = _DEFAULT, *, device: str | torch.device = "cpu"
) -> Checkpoint:
    """Read a torch, safetensors or GGUF file, or a folder as transformers, accelerate or torch.distributed save them.

    The content decides what the file is, not its name. Weights are the one dictionary of tensors in it, at whatever
    key; where there are several, such as averaged ones beside the others, the reading has to name one. The optimizer
    lies under ``optimizer``, ``optim``, ``optimizer_state_dict`` or, first of a list, ``optimizer_states``. What
    wrappers put into names is taken out: ``module.`` where every name has it, ``_orig_mod.`` anywhere, and ``model.``
    or ``net.`` of Lightning's files where every name has it. Of a folder with a config.json the weights are those
    beside it, the optimizer is a Trainer's ``optimizer.pt``, and both are read when they are asked for.

    Args:
        path: the file or folder, or the name ``owner/model`` of one in this machine's cache of Hugging Face.
        reading: which weights, under which names, and whether pickled code may run.
        device: device that the weights go to.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if the path is a folder that holds no checkpoint of a known kind.
        UserError: if the file is empty, truncated, TorchScript, a pickle with code in it, no checkpoint, or has several
            sets of weights and the reading names none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"state_dict": {"module.weight": torch.eye(2)}, "epoch": 3}, path)
        >>> checkpoint = read_checkpoint(path)
        >>> checkpoint.parameters["weight"].shape, checkpoint.metadata
        (torch.Size([2, 2]), {'epoch': 3})
    """
    path = located(Path(path))
    if is_model_folder(path):
        _refuse_choice(path, reading, "a folder of transformers")
        metadata = folder_metadata(path)
        parts = folder_digest(path), folder_weights(path), folder_optimizer(path), metadata
        return Checkpoint(path, *parts, integrity=folder_integrity(path))
    if path.is_dir():
        digest, content = read_folder(path, reading.key)
        return _checkpoint(path, digest, content, reading, device)
    with open_regular(path) as file:
        gguf = file.read(len(MAGIC)) == MAGIC
    if gguf:
        _refuse_choice(path, reading, "a GGUF file")
        return Checkpoint(path, _digest(path), {}, None, {"format": "gguf"}, integrity=f"GGUF {UNCHECKED}")
    return _checkpoint(path, _digest(path), read_content(path, reading), reading, device)


def _refuse_choice(path: Path, reading: ReadingOptions, what: str) -> None:
    if reading.key is not None or reading.strip_prefix:
        raise UserError(f"{path} is {what}, whose weights and names are fixed: leave --key and --strip-prefix out")


def _checkpoint(
    path: Path, digest: str, content: Content, reading: ReadingOptions, device: str | torch.device
) -> Checkpoint:
    with about(path):
        names, prefix = renamed(
            [*content.weights, *content.extra], reading.strip_prefix, lightning=LIGHTNING_MARK in content.metadata
        )
    return Checkpoint(
        path,
        digest,
        {name: content.weights[saved].to(device) for name, saved in names.items() if saved in content.weights},
        content.optimizer,
        content.metadata,
        {name: content.extra[saved] for name, saved in names.items() if saved in content.extra},
        content.integrity,
        content.key,
        prefix,
        content.model,
    )


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_into(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copy a checkpoint's parameters and buffers into a model, all of them or none.

    Values take the model's dtype and device. Of tied parameters the checkpoint may hold one or all. Names may have a
    first part that all share and the model's have not (such as ``model.``), where all others fit.

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
    path, state = checkpoint.path, model.state_dict(keep_vars=True)
    names = unwrapped(state)
    fits = fitting([*checkpoint.parameters, *checkpoint.extra], names, checkpoint.prefix)
    saved, extra = (
        {fits[name]: one for name, one in part.items()} for part in (checkpoint.parameters, checkpoint.extra)
    )
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
            raise UserError(f"{name}, of shape {shape} in the model, is not in {path}{_hint(checkpoint, names)}")
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
            shape = tuple(getattr(one, "shape", ()))
            raise UserError(f"{name}, of shape {shape} in {path}, is not in the model")
    model.load_state_dict({names[name]: value for name, value in {**saved, **extra}.items()}, strict=False)


def _hint(checkpoint: Checkpoint, names: Mapping[str, str]) -> str:
    """The keys under which all of a model's names are found, as the end of a sentence."""
    parts = parts_with([*checkpoint.parameters, *checkpoint.extra], names)
    start = f"{checkpoint.key}." if checkpoint.key else ""
    keys = " or ".join(f"--key {start}{checkpoint.prefix}{part}" for part in parts)
    return f", but all of the model's names are under another: {keys}" if keys else ""


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
    by_name = {name: named[wrapped] for name, wrapped in unwrapped(named).items()}
    with about(path):
        state = read_adam_state(checkpoint.optimizer or {})
        names = list(unwrapped(state.names))
        fits = fitting(names, by_name, "")
        parameters = optimized(state, [fits[name] for name in names], by_name)
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
