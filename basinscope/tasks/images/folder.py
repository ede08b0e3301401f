"""A folder of class folders with image files in them, read with Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basinscope.tasks.images.image_set import ImageSet, checked_set
from basinscope.tasks.images.size import resized
from spectra.errors import UserError, foreign

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_GREY, _COLOURED, _TRANSPARENT = {"L", "1"}, {"RGB", "P", "CMYK", "YCbCr"}, {"RGBA", "LA", "PA"}


def read_class_folders(
    path: Path,
    channels: int,
    *,
    classes: Mapping[str, int] | None = None,
    count: int = 0,
    size: tuple[int, int] | None = None,
    resample: str = "bilinear",
) -> ImageSet:
    """Images from a folder with one folder a class.

    Classes are numbered by ``classes`` where it has all of the folders' names, else in the order of their names, as
    everybody's ``ImageFolder`` does. The order of the images is fixed: the first of each class by name, then the second
    of each, so that the first ones of the set are of all classes.

    Raises:
        UserError: if there are no class folders with images, or one alone, or an image cannot be read as asked.
    """
    files, notes = _files(path)
    if len(files) < 2:
        have = f"one class folder alone, {next(iter(files))}" if files else "no class folders with images in them"
        raise UserError(f"{path} has {have}: expected one folder a class, with images ({', '.join(sorted(_ENDINGS))})")
    known = _numbers(path, files, classes or {})
    turns = zip_longest(*([(file, known[name]) for file in some] for name, some in files.items()))
    order = [pair for pair in chain.from_iterable(turns) if pair is not None]
    taken = order[:count] if count else order
    if len(taken) < len(order):
        left = f"{len(order) - len(taken):,} more are left out by count={count}"
        notes.append(f"the first {count:,} images, of each class in turn, are taken, {left}")
    images = [_read(file, channels, size, resample) for file, _ in taken]
    _check_one_size(path, images)
    return checked_set(path, np.stack(images), np.array([label for _, label in taken]), tuple(notes))


def _numbers(path: Path, files: Mapping[str, list[Path]], classes: Mapping[str, int]) -> Mapping[str, int]:
    """Number of each class: the classifier's own where it knows their names, else by order."""
    unknown = [name for name in files if name not in classes]
    if unknown and len(unknown) < len(files):
        raise UserError(f"{path} has the class {unknown[0]}, which is none of the classifier's ({', '.join(classes)})")
    return {name: number for number, name in enumerate(files)} if unknown else classes


def _files(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Image files by class, names in order, and a note on what is no image."""
    files, others = {}, 0
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
        found = [entry for entry in entries if entry.suffix.lower() in _ENDINGS]
        files[folder.name] = found
        others += len(entries) - len(found)
    empty = [name for name, found in files.items() if not found]
    if empty and len(empty) < len(files):
        # Left out, it would shift the numbers of the classes after it.
        raise UserError(f"{path / empty[0]} has no images in it: fill the class folder or take it away")
    note = f"files in the class folders of {path} that are no images by their names and left out: {others}"
    return {name: found for name, found in files.items() if found}, [note] if others else []


def _read(path: Path, channels: int, size: tuple[int, int] | None, resample: str) -> NDArray[Any]:
    """(channels, height, width), bytes."""
    from PIL import Image

    # Pillow warns of pictures whose size nobody meant; here that is an error.
    with (
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        foreign(f"{path} cannot be read as an image: Pillow"),
        Image.open(path) as image,
    ):
        image.load()
        mode = _mode(path, image, channels)
        pixels = np.asarray(image.convert(mode))
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return planes if size is None else resized(planes[None], size, resample)[0]


def _mode(path: Path, image: Any, channels: int) -> str:
    """What Pillow is to convert to, where that loses nothing."""
    if image.mode in _TRANSPARENT and image.getchannel("A").getextrema() != (255, 255):
        raise UserError(f"{path} has transparent pixels: lay it on a background first")
    if image.mode not in _GREY | _COLOURED | _TRANSPARENT:
        raise UserError(f"{path} has pixels of the kind {image.mode}: expected grey or coloured ones of 8 bits")
    if channels == 3:
        return "RGB"
    if channels == 1 and (image.mode in _GREY or image.mode == "LA"):
        return "L"
    raise UserError(f"{path} is coloured, but the classifier takes {channels} channels")


def _check_one_size(path: Path, images: list[NDArray[Any]]) -> None:
    sizes = sorted({image.shape[1:] for image in images})
    if len(sizes) > 1:
        few = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
        raise UserError(f"{path} has images of {len(sizes)} sizes ({few}, ...): give size, to which all are brought")
