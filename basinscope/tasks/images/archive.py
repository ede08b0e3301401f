"""Images and labels from an npz archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basinscope.tasks.images.image_set import ImageSet, checked_set
from spectra.errors import UserError
from spectra.files import open_regular

# Unpacked bytes that are read at most: so many, and so many a byte of the file.
_SPARE, _RATIO = 2**28, 100
# What numpy makes of damaged archives; lack of memory too, where a part states a shape that it does not have.
_DAMAGE = (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError, SyntaxError)


def read_archive(path: Path, channels: int) -> ImageSet:
    """The arrays ``images`` and ``labels`` of an npz archive; pickled arrays in it are refused.

    Args:
        path: the file, as ``numpy.savez`` writes it.
        channels: number of channels of the images wanted; says which axis of ``images`` they are.

    Returns:
        The images, in the order of the archive. Bytes are 0 to 255, floats as they are.

    Raises:
        UserError: if an array is missing or cannot be read, or ``images`` is not (images, height, width) for one
            channel, or (images, height, width, channels) or (images, channels, height, width).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "few.npz"
    >>> np.savez(path, images=np.zeros((2, 8, 8), np.uint8), labels=np.array([3, 1]))
    >>> read_archive(path, 1).images.shape
    (2, 1, 8, 8)
    """
    try:
        _check_size(path)
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("images", "labels") if name not in archive.files]
            if missing:
                raise UserError(f"it holds {', '.join(archive.files) or 'nothing'}, but no {' and no '.join(missing)}")
            images, labels = archive["images"], archive["labels"]
    except _DAMAGE as error:
        raise UserError(f"{path} cannot be read as an npz archive of images and labels: {error}") from None
    return checked_set(path, _channels_first(path, images, channels), labels)


def _check_size(path: Path) -> None:
    """Refuses parts that unpack to far more than images do."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        size, unpacked = path.stat().st_size, sum(part.file_size for part in archive.infolist())
    if unpacked > _SPARE + _RATIO * size:
        raise UserError(f"its {size:,} bytes unpack to {unpacked:,}, more than images do")


def _channels_first(path: Path, images: NDArray[Any], channels: int) -> NDArray[Any]:
    if images.ndim == 3 and channels == 1:
        return images[:, None]
    first, last = (images.shape[axis] == channels if images.ndim == 4 else False for axis in (1, -1))
    if first and last:
        raise UserError(f"{path} has images of shape {images.shape}: which axis is that of the {channels} channels?")
    if not first and not last:
        raise UserError(
            f"{path} has images of shape {images.shape}, but the classifier takes {channels} "
            f"channel{'s' if channels > 1 else ''}: expected (images, {channels}, height, width) or "
            f"(images, height, width, {channels})"
        )
    return images if first else np.moveaxis(images, -1, 1)
