"""CIFAR-10 as published: the python batches, read without pickle, and the binary batches."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basinscope.tasks.images.image_set import ImageSet, checked_set
from spectra.checkpoint import read_pickle
from spectra.errors import UserError
from spectra.files import about, read_whole

SPLITS = ("train", "test")
_CLASSES = 10
_TRAINING_BATCHES = 5
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
# A record of a binary batch is a label in one byte and the pixels, red plane first, row by row.
_RECORD = 1 + _PIXELS
# Bytes of a batch; the published ones have 31 million.
_MOST = 2**30
_PATTERN = re.compile(r"(data_batch_(?P<number>\d+)|test_batch)(?P<binary>\.bin)?")


def is_cifar_folder(path: Path) -> bool:
    """Whether a folder holds batches of CIFAR-10, by their names.

    >>> is_cifar_folder(Path("/"))
    False
    """
    return any(_PATTERN.fullmatch(entry.name) for entry in path.iterdir())


def read_cifar_folder(path: Path, split: str = "train", count: int = 0) -> ImageSet:
    """The first ``count`` (0: all) training or test images of a folder of CIFAR-10 batches, in the batches' order."""
    if split not in SPLITS:
        raise UserError(f"split must be train or test, got {split!r}")
    batches, read, found = _batches(path, split), [], 0
    for batch in batches:
        if count and found >= count:
            break
        read.append(_read_batch(batch))
        found += len(read[-1][1])
    notes: list[str] = []
    if split == "train" and len(batches) < _TRAINING_BATCHES:
        notes.append(f"{path} holds {len(batches)} of CIFAR-10's {_TRAINING_BATCHES} training batches")
    if len(read) < len(batches):
        notes.append(f"{len(batches) - len(read)} further batches of {path} are not read")
    images, labels = (np.concatenate(parts) for parts in zip(*read, strict=True))
    return checked_set(path, images, labels, tuple(notes))


def read_cifar_batch(path: Path) -> ImageSet:
    """One batch of CIFAR-10; a name that ends in .bin says binary."""
    return checked_set(path, *_read_batch(path))


def _batches(path: Path, split: str) -> list[Path]:
    found = {entry: name for entry in path.iterdir() if (name := _PATTERN.fullmatch(entry.name))}
    if len({name["binary"] for name in found.values()}) > 1:
        raise UserError(f"{path} holds both python and binary batches of CIFAR-10: give a folder with one of them")
    if split == "test":
        tests = [entry for entry, name in found.items() if name["number"] is None]
        if not tests:
            raise UserError(f"{path} holds no test_batch of CIFAR-10")
        return tests
    numbered = {int(name["number"]): entry for entry, name in found.items() if name["number"] is not None}
    missing = next((number for number in range(1, max(numbered, default=1)) if number not in numbered), None)
    if not numbered or missing is not None:
        raise UserError(f"{path} lacks data_batch_{missing or 1} of CIFAR-10")
    return [numbered[number] for number in sorted(numbered)]


def _read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = (_binary if path.suffix == ".bin" else _python)(path)
    wrong = next((label for label in labels if not 0 <= label < _CLASSES), None)
    if wrong is not None:
        raise UserError(f"{path} is no batch of CIFAR-10: it has the label {wrong}, outside 0 to {_CLASSES - 1}")
    return images.reshape(-1, *_SHAPE), np.array(labels, dtype=np.int64)


def _binary(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    content = np.frombuffer(read_whole(path, _MOST, "a batch of CIFAR-10"), dtype=np.uint8)
    if len(content) == 0 or len(content) % _RECORD:
        raise UserError(
            f"{path} is truncated or no binary batch of CIFAR-10: its {len(content):,} bytes are not whole records of "
            f"{_RECORD:,}"
        )
    records = content.reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0].tolist()


def _python(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    whole = read_whole(path, _MOST, "a batch of CIFAR-10")
    with about(path):
        content = read_pickle(BytesIO(whole), len(whole))
    pixels, labels = _entry(path, content, "data"), _entry(path, content, "labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise UserError(
            f"{path} is no python batch of CIFAR-10: expected data of bytes and shape (images, {_PIXELS:,}), got "
            f"{_described(pixels)}"
        )
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{path} is no python batch of CIFAR-10: expected a list of whole numbers as labels")
    if len(labels) != len(pixels):
        raise UserError(f"{path} has {len(pixels)} images but {len(labels)} labels")
    return pixels, labels


def _entry(path: Path, content: Any, name: str) -> Any:
    if isinstance(content, dict):
        for key in (name, name.encode()):
            if key in content:
                return content[key]
    raise UserError(f"{path} is no python batch of CIFAR-10: expected a dict with data and labels, {name} is missing")


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
