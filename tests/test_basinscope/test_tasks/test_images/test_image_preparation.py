import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from basinscope.tasks.images import PROCESSOR, read_preparation
from basinscope.tasks.images.image_set import checked_set
from basinscope.tasks.images.preparation import Preparation
from basinscope.tasks.images.size import resized


def photograph(height: int, width: int, count: int = 2) -> NDArray[np.uint8]:
    """Noise of bytes, far enough from 0 and 255 that no filter leaves them."""
    return np.random.default_rng(0).integers(80, 176, (count, 3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (37, 11), (64, 48)])
@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
def test_pillow_makes_the_same_of_bytes(size: tuple[int, int], filter_name: str) -> None:
    """Pillow rounds after each axis, so a step of a byte or two may lie between."""
    from PIL import Image

    images = photograph(20, 30)
    found = resized(images, size, filter_name)
    assert found.dtype == np.uint8
    for image, one in zip(images, found, strict=True):
        whole = Image.fromarray(image.transpose(1, 2, 0))
        known = np.asarray(whole.resize(size[::-1], Image.Resampling[filter_name.upper()])).transpose(2, 0, 1)
        apart = np.abs(one.astype(int) - known.astype(int))
        assert apart.max() <= 2
        assert (apart > 0).mean() < 0.4
        assert abs(float((one.astype(int) - known.astype(int)).mean())) < 0.1


def test_nearest_is_pillows_own() -> None:
    from PIL import Image

    (image,) = photograph(20, 30, 1)
    known = Image.fromarray(image.transpose(1, 2, 0)).resize((17, 41), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resized(image[None], (41, 17), "nearest")[0], np.asarray(known).transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["ViTImageProcessorPil", "ConvNextImageProcessorPil"])
def test_the_inputs_are_those_of_transformers_processors(tmp_path: Path, name: str) -> None:
    """Bytes that are of the size already, so that all of it is arithmetic."""
    import transformers

    size = {"height": 400, "width": 400} if name.startswith("ViT") else {"shortest_edge": 400}
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    processor = getattr(transformers, name)(size=size, crop_pct=None, **statistics)
    processor.save_pretrained(tmp_path)
    images = photograph(400, 400)
    expected = processor([image.transpose(1, 2, 0) for image in images], return_tensors="pt")["pixel_values"]
    preparation = read_preparation(tmp_path)
    assert preparation is not None
    found = preparation.inputs(checked_set(tmp_path, images, np.array([0, 1])))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


def test_a_processor_that_changes_the_size(tmp_path: Path) -> None:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": 12, "width": 9}, resample=3)
    processor.save_pretrained(tmp_path)
    images = photograph(20, 30)
    expected = processor([image.transpose(1, 2, 0) for image in images], return_tensors="pt")["pixel_values"]
    found = read_preparation(tmp_path)
    assert found is not None
    assert (found.size, found.resample, found.notes) == ((12, 9), "bicubic", ())
    inputs = found.inputs(checked_set(tmp_path, images, np.array([0, 1])))
    torch.testing.assert_close(inputs, expected, rtol=0.0, atol=2.1 / 255 / 0.5)


def test_bytes_stay_bytes_where_a_cubic_overshoots() -> None:
    edge = np.repeat(np.array([0, 255], np.uint8), 4)[None, None, None].repeat(8, axis=2)
    found = resized(edge, (16, 16), "bicubic")
    assert (found.min(), found.max()) == (0, 255)
    assert found[0, 0, :, 6].tolist() == [0] * 16
    assert found[0, 0, :, 9].tolist() == [255] * 16


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    images = np.linspace(0.0, 1.0, 32).reshape(2, 1, 4, 4)
    found = Preparation(mean=(0.25,), deviation=(2.0,)).inputs(checked_set(tmp_path, images, np.array([0, 1])))
    torch.testing.assert_close(found, torch.from_numpy((images - 0.25) / 2.0).float(), rtol=0.0, atol=1e-7)


@pytest.mark.parametrize(
    "stated, expected",
    [
        ({"do_resize": False, "size": {"height": 8, "width": 8}}, {"size": None}),
        ({"do_rescale": False}, {"scale": 1.0}),
        ({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, {"mean": (), "deviation": ()}),
        ({"size": 16}, {"size": (16, 16)}),
        ({"size": {"shortest_edge": 24}, "resample": 0}, {"size": (24, 24), "resample": "nearest"}),
        ({"image_mean": 0.5, "image_std": 0.25}, {"mean": (0.5,), "deviation": (0.25,)}),
        (
            {"do_center_crop": True},
            {"notes": (f"{PROCESSOR} states a crop, which is not done: images are taken whole",)},
        ),
    ],
)
def test_what_a_file_states(tmp_path: Path, stated: dict[str, Any], expected: dict[str, Any]) -> None:
    (tmp_path / PROCESSOR).write_text(json.dumps(stated))
    found = read_preparation(tmp_path)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "stated, words",
    [
        ({"size": {"height": 8}}, "must state size as height and width or a shortest_edge in pixels"),
        ({"size": {"height": 0, "width": 8}}, "must state size"),
        ({"resample": 1}, r"must state resample as one of 0 \(nearest\), 2 \(bilinear\), 3 \(bicubic\), got 1"),
        ({"resample": []}, "must state resample as one of"),
        ({"rescale_factor": "1/255"}, "must state means, deviations and rescale_factor as numbers, got '1/255'"),
        ({"image_mean": [0.5], "image_std": [0.0]}, "must state positive deviations as image_std"),
        ({"image_mean": [0.5]}, "as numbers, got None"),
    ],
)
def test_what_a_file_must_not_state(tmp_path: Path, stated: dict[str, Any], words: str) -> None:
    (tmp_path / PROCESSOR).write_text(json.dumps(stated))
    with pytest.raises(ValueError, match=words):
        read_preparation(tmp_path)
