"""What is done to images before a classifier sees them: size, scale, mean and standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basinscope.tasks.images.image_set import ImageSet
from basinscope.tasks.images.size import resized
from spectra.checkpoint import read_json
from spectra.errors import UserError

PROCESSOR = "preprocessor_config.json"
# Pillow's numbers for its filters, which is how the file names them.
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preparation:
    """How images become a classifier's inputs, ``(scale * bytes - mean) / deviation``.

    Attributes:
        size: (height, width), or None for the images' own.
        scale: factor of bytes; floats are taken as they are.
        mean: what is subtracted, one number a channel; empty for nothing.
        deviation: what the difference is divided by, one number a channel.
        resample: filter where the size changes.
        notes: sentences on what else the model's files state and is not done.
    """

    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    resample: str = "bilinear"
    notes: tuple[str, ...] = ()

    def inputs(self, images: ImageSet) -> Tensor:
        """Inputs (images, channels, height, width) of the classifier in float32."""
        pixels = images.images if self.size is None else resized(images.images, self.size, self.resample)
        values = torch.from_numpy(np.array(pixels, dtype=np.float32))
        if pixels.dtype == np.uint8:
            values = values * self.scale
        if not self.mean:
            return values
        if not len(self.mean) == len(self.deviation) == values.shape[1]:
            raise UserError(
                f"{PROCESSOR} has {len(self.mean)} means and {len(self.deviation)} deviations, but the images have "
                f"{values.shape[1]} channels"
            )
        return (values - _planes(self.mean)) / _planes(self.deviation)


def read_preparation(folder: Path) -> Preparation | None:
    """The preparation that a model's folder states in its preprocessor_config.json.

    Args:
        folder: folder of the model.

    Returns:
        The preparation, or None where there is no such file. A crop that it states is not done, which a note says.

    Raises:
        UserError: if the file is damaged, or states a filter or numbers that cannot be used.

    >>> read_preparation(Path("/")) is None
    True
    """
    path = folder / PROCESSOR
    if not path.is_file():
        return None
    stated = read_json(path)
    normalise = stated.get("do_normalize", True) and "image_mean" in stated
    crops = stated.get("do_center_crop") or stated.get("crop_pct") is not None
    return Preparation(
        size=_size(path, stated) if stated.get("do_resize", True) else None,
        scale=_number(path, stated.get("rescale_factor", 1 / 255)) if stated.get("do_rescale", True) else 1.0,
        mean=_numbers(path, stated["image_mean"]) if normalise else (),
        deviation=_deviations(path, stated.get("image_std")) if normalise else (),
        resample=_resample(path, stated.get("resample", 2)),
        notes=(f"{PROCESSOR} states a crop, which is not done: images are taken whole",) if crops else (),
    )


def _planes(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _size(path: Path, stated: dict[str, Any]) -> tuple[int, int] | None:
    size = stated.get("size")
    if size is None:
        return None
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    pair = (edge, edge) if edge is not None else (size.get("height"), size.get("width"))
    if not all(type(one) is int and one > 0 for one in pair):
        raise UserError(f"{path} must state size as height and width or a shortest_edge in pixels, got {size!r}")
    return pair


def _resample(path: Path, number: Any) -> str:
    if type(number) is not int or number not in _FILTERS:
        known = ", ".join(f"{key} ({name})" for key, name in _FILTERS.items())
        raise UserError(f"{path} must state resample as one of {known}, got {number!r}")
    return _FILTERS[number]


def _number(path: Path, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{path} must state means, deviations and rescale_factor as numbers, got {value!r}")
    return float(value)


def _numbers(path: Path, values: Any) -> tuple[float, ...]:
    return tuple(_number(path, value) for value in (values if isinstance(values, list) else [values]))


def _deviations(path: Path, values: Any) -> tuple[float, ...]:
    found = _numbers(path, values)
    if not all(value > 0.0 for value in found):
        raise UserError(f"{path} must state positive deviations as image_std, got {values!r}")
    return found
