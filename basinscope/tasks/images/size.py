"""Images brought to another size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from spectra.errors import UserError

FILTERS = ("bilinear", "bicubic", "nearest")


def resized(images: NDArray[Any], size: tuple[int, int], resample: str = "bilinear") -> NDArray[Any]:
    """Images (images, channels, height, width) at another (height, width), smoothed where they shrink, never cropped.

    Bytes are rounded, as Pillow rounds them; ``resample`` is ``bilinear``, ``bicubic`` or ``nearest``.

    Raises:
        UserError: for another filter.

    >>> resized(np.array([[[[0.0, 1.0]]]], np.float32), (1, 4))
    array([[[[0.  , 0.25, 0.75, 1.  ]]]], dtype=float32)
    """
    if resample not in FILTERS:
        raise UserError(f"resample must be one of {', '.join(FILTERS)}, got {resample!r}")
    if images.shape[-2:] == size:
        return images
    given = torch.from_numpy(np.array(images, dtype=np.float32))
    if resample == "nearest":
        made = F.interpolate(given, size, mode="nearest-exact")
    else:
        made = F.interpolate(given, size, mode=resample, antialias=True, align_corners=False)
    # Cubics overshoot at edges, and bytes have no values there.
    found: NDArray[Any] = (
        made.round().clamp(0, 255).to(torch.uint8).numpy() if images.dtype == np.uint8 else made.numpy()
    )
    return found
