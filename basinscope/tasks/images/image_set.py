"""Images with labels as they were read: the noun, and what every source of them has to hold to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, channels first.

    Attributes:
        images: (images, channels, height, width), as bytes 0 to 255 or as floats, in the order of the source.
        labels: (images,) class numbers, int64.
        notes: sentences on what the source holds that was not taken.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def first(self, count: int) -> ImageSet:
        """The first images, with a note on the rest; 0 takes all."""
        left = len(self.labels) - count
        if count == 0 or left <= 0:
            return self
        note = f"the first {count:,} images are taken, {left:,} more are left out by count={count}"
        return ImageSet(self.images[:count], self.labels[:count], (*self.notes, note))


def checked_set(path: Path, images: NDArray[Any], labels: NDArray[Any], notes: tuple[str, ...] = ()) -> ImageSet:
    """Images (images, channels, height, width) and labels (images,) that fit one another; ``path`` is for messages.

    Raises:
        UserError: if there are none, their numbers differ, labels are no whole numbers, or pixels are neither bytes
            nor finite floats.

    >>> checked_set(Path("a.npz"), np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 3])).labels
    array([0, 3])
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{path} must have whole numbers of shape (images,) as labels, got {labels.dtype} of shape {labels.shape}"
        )
    if len(images) != len(labels):
        raise UserError(f"{path} has {len(images)} images but {len(labels)} labels")
    if images.size == 0:
        raise UserError(f"{path} has no images")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise UserError(f"{path} must have images of bytes (uint8) or of floats, got {images.dtype}")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise UserError(f"{path} has images with values that are not finite")
    return ImageSet(images, labels.astype(np.int64), notes)
