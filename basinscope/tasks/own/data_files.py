"""Files and folders of data, read without running anything in them: named arrays, tables, images, saved data sets."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basinscope.tasks import read_table
from basinscope.tasks.images import Preparation, read_images
from basinscope.tasks.own.call import refuse_unknown
from basinscope.tasks.own.columns import Rows, checked, told_apart
from spectra.checkpoint import read_tensors
from spectra.errors import UserError, foreign
from spectra.files import Opaque, about, check_regular, open_regular

_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
_COLUMNS, _ALL = ("inputs", "targets"), ("rows", "batch", "divide")


def read_data(path: Path, options: Mapping[str, Any], known: tuple[str, ...]) -> Rows:
    """Inputs and targets from a file or a folder.

    Args:
        path: it; what it is called says how it is read.
        options: what was typed after it, ``rows``, ``batch`` and ``divide`` left out.
        known: names of what the model's forward pass takes.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: if there is nothing.
        UserError: if it cannot be read, or told what is what.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        if any((path / name).exists() for name in _SAVED):
            return _read_data_set(path, options, known)
        return _read_images(path, options)
    check_regular(path)
    if path.suffix == ".csv":
        _takes(path, options, ("targets",))
        with about(path):
            inputs, targets = read_table(path, str(options.get("targets", "")))
        return checked(str(path), Rows(inputs, targets, notes=(f"rows of {path.name}",)))
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"{path} is none of the files that are read as data, {', '.join((*_READERS, '.csv'))}")
    _takes(path, options, _COLUMNS)
    # safetensors puts names in an order of its own.
    return told_apart(path.name, reader(path), known, options, ordered=path.suffix != ".safetensors")


def _takes(path: Path, options: Mapping[str, Any], names: tuple[str, ...]) -> None:
    refuse_unknown(f"--data {path}", options, (*names, *_ALL))


def _read_npz(path: Path) -> dict[str, Any]:
    with open_regular(path) as file, foreign(f"{path} cannot be read as an archive of arrays: numpy"):
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise UserError(f"{path} holds one array alone: save inputs and targets together with numpy.savez")
        with found as archive:
            return {name: archive[name] for name in archive.files}


def _read_pt(path: Path) -> dict[str, Any]:
    found = read_tensors(path)
    if isinstance(found, Opaque):
        raise UserError(
            f"{path} holds {found.words}, which is not built: save its tensors, torch.save((inputs, targets), ...)"
        )
    if isinstance(found, Mapping):
        return {str(name): value for name, value in found.items()}
    if isinstance(found, tuple | list) and all(isinstance(one, Tensor | np.ndarray) for one in found):
        return {str(place): value for place, value in enumerate(found)}
    kind = f"a {type(found).__name__}" if not isinstance(found, tuple | list) else "a list of other things than tensors"
    raise UserError(f"{path} holds {kind}: save a pair (inputs, targets) of tensors, or a dictionary of them")


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    with foreign(f"{path} cannot be read: safetensors"):
        return dict(load_file(path))


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": _read_safetensors,
}


def _read_data_set(path: Path, options: Mapping[str, Any], known: tuple[str, ...]) -> Rows:
    """A data set of Hugging Face's datasets, as ``save_to_disk`` writes it."""
    _takes(path, options, (*_COLUMNS, "split"))
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{path} is a data set as save_to_disk writes it, which needs the package datasets: install it")
    with foreign(f"{path} cannot be read: datasets"):
        datasets: Any = importlib.import_module("datasets")
        found = datasets.load_from_disk(str(path))
        if isinstance(found, Mapping):
            split = options.get("split")
            if split not in found:
                raise UserError(f"{path} has the splits {', '.join(found)}: add ?split=NAME to it")
            found = found[split]
        return told_apart(path.name, columns_of(found), known, options)


def columns_of(data_set: Any) -> dict[str, Any]:
    """Columns of a data set of Hugging Face's datasets, as arrays."""
    whole = data_set.with_format("numpy")
    return {name: whole[name][:] for name in data_set.column_names}


def _read_images(path: Path, options: Mapping[str, Any]) -> Rows:
    """Images from a folder with one folder a class, or of CIFAR-10; pixels from 0 to 1, less mean, over std."""
    _takes(path, options, ("size", "channels", "split", "mean", "std"))
    size, mean, std = options.get("size"), _numbers(path, options, "mean"), _numbers(path, options, "std")
    edges = (size, size) if isinstance(size, int) else size
    if edges is not None and not (
        isinstance(edges, tuple) and len(edges) == 2 and all(type(one) is int for one in edges)
    ):
        raise UserError(f"{path}: size must be a number of pixels, or height and width as 32,48; got {size!r}")
    channels, split = options.get("channels", 3), options.get("split")
    if not len(mean) == len(std) in (0, channels):
        raise UserError(f"{path}: mean and std go together: give both, {channels} numbers, one a channel, or neither")
    found = read_images(path, channels, split=split, count=int(options.get("rows", 0)), size=edges)
    preparation = Preparation(size=edges, mean=mean, deviation=std)
    how = "" if mean else ", without mean and std: give ?mean=...&std=... where it was trained with them"
    notes = (f"pixels of {path.name} go in from 0 to 1{how}", *found.notes)
    return Rows(preparation.inputs(found), torch.from_numpy(found.labels), notes=notes)


def _numbers(path: Path, options: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = options.get(name, ())
    values = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(one, int | float) and (name == "mean" or one > 0) for one in values):
        raise UserError(
            f"{path}: {name} must be numbers with commas between{', above zero' * (name == 'std')}; got {value!r}"
        )
    return tuple(map(float, values))
