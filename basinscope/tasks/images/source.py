"""Images by where they are: class folders, CIFAR-10's batches or an npz archive."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from basinscope.tasks.images.archive import read_archive
from basinscope.tasks.images.cifar import is_cifar_folder, read_cifar_batch, read_cifar_folder
from basinscope.tasks.images.folder import read_class_folders
from basinscope.tasks.images.image_set import ImageSet
from spectra.errors import UserError
from spectra.files import check_regular

_CIFAR_CHANNELS = 3


def read_images(
    path: Path,
    channels: int,
    *,
    classes: Mapping[str, int] | None = None,
    split: str | None = None,
    count: int = 0,
    size: tuple[int, int] | None = None,
    resample: str = "bilinear",
) -> ImageSet:
    """Labelled images from a folder or a file, in an order that the source fixes; what it is decides how it is read.

    It may be a folder of class folders (``classes``, ``size`` and ``resample`` are for it), a folder of CIFAR-10
    batches (``split`` is for it), one such batch, or an npz archive. ``count`` is the most images to take; 0 takes all.

    Raises:
        UserError: if there is nothing that can be read, or it is not what is wanted.
    """
    if not path.is_dir():
        check_regular(path)
    cifar = path.is_dir() and is_cifar_folder(path)
    if split is not None and not cifar:
        raise UserError(f"split={split} is for a folder of CIFAR-10 batches, and {path} is none")
    if cifar:
        found = read_cifar_folder(path, split or "train", count)
    elif path.is_dir():
        return read_class_folders(path, channels, classes=classes, count=count, size=size, resample=resample)
    elif zipfile.is_zipfile(path) or path.suffix == ".npz":
        return read_archive(path, channels).first(count)
    else:
        found = read_cifar_batch(path)
    if channels != _CIFAR_CHANNELS:
        raise UserError(f"{path} has images of {_CIFAR_CHANNELS} channels, but the classifier takes {channels}")
    return found.first(count)
