"""Small classifiers and small sets of images for the tests, written in the formats that others write."""

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

CLASSES = 10
STATED = {
    "size": {"height": 8, "width": 8},
    "resample": 2,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "rescale_factor": 1 / 255,
}


def convnext(**changes: Any) -> nn.Module:
    """ConvNeXt V2 with patches of one pixel."""
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    torch.manual_seed(0)
    sizes = {"patch_size": 1, "hidden_sizes": [4, 6], "depths": [1, 1], "num_stages": 2, "image_size": 8}
    model = ConvNextV2ForImageClassification(ConvNextV2Config(**({**sizes, "num_labels": CLASSES} | changes)))
    return _loud(model)


def vit(**changes: Any) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_size": 8, "patch_size": 4, "num_labels": CLASSES}
    return _loud(ViTForImageClassification(ViTConfig(**({**sizes, **images} | changes))))


def _loud(model: nn.Module) -> nn.Module:
    # As made the outputs are nearly constant: a classifier that tells images apart has larger weights.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10.0)
    return model


def state_preparation(folder: Path, **changes: Any) -> None:
    stated = {key: value for key, value in (STATED | changes).items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def pixels(count: int, seed: int = 0, edge: int = 32) -> NDArray[np.uint8]:
    """(count, 3, edge, edge), bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, edge, edge), dtype=np.uint8)


def binary_batch(images: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A label in one byte, then the planes of red, green and blue, row by row."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def python_batch(images: NDArray[np.uint8], labels: list[int], protocol: int = 2) -> bytes:
    """As Python 3 pickles the dict."""
    content = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": labels,
        b"data": images.reshape(len(images), -1),
        b"filenames": [f"leptodactylus_pentadactylus_s_{number:06d}.png".encode() for number in range(len(images))],
    }
    return pickle.dumps(content, protocol)


def python_2_batch(images: NDArray[np.uint8], labels: list[int]) -> bytes:
    """As cPickle of Python 2 wrote the published batches: protocol 2, strings of one byte a sign."""
    places = iter(range(1, 10_000))

    def put() -> bytes:
        return b"q" + struct.pack("<B", next(places))

    def text(value: bytes) -> bytes:
        return b"U" + struct.pack("<B", len(value)) + value + put()

    def number(value: int) -> bytes:
        return b"K" + struct.pack("<B", value) if value < 256 else b"M" + struct.pack("<H", value)

    data = images.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
    array += number(0) + b"\x85" + put() + text(b"b") + b"\x87" + put() + b"R" + put()
    shape = number(len(images)) + number(images[0].size) + b"\x86" + put()
    dtype = b"cnumpy\ndtype\n" + put() + text(b"u1") + number(0) + number(1) + b"\x87" + put() + b"R" + put()
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + number(0) + b"t" + put() + b"b"
    array += b"(" + number(1) + shape + dtype + b"\x89" + b"T" + struct.pack("<I", len(data)) + data + put()
    array += b"t" + put() + b"b"
    names = b"]" + put() + b"(" + b"".join(text(b"camion_s_%06d.png" % place) for place in range(len(images))) + b"e"
    listed = b"]" + put() + b"(" + b"".join(number(label) for label in labels) + b"e"
    whole = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + listed
    return b"\x80\x02}" + put() + b"(" + whole + text(b"data") + array + text(b"filenames") + names + b"u."


def save_class_folders(folder: Path, images: NDArray[np.uint8], labels: list[str]) -> Path:
    from PIL import Image

    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / label / f"{place:03d}.png")
    return folder
