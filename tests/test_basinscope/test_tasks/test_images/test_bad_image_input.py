import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from basinscope.cli import main

Folder = Callable[..., Path]
Said = Callable[..., str]


@pytest.fixture
def said(tmp_path: Path, small: ModuleType, capsys: pytest.CaptureFixture[str]) -> Said:
    """The one sentence of ``basinscope spectrum`` on a checkpoint and images."""
    np.savez(tmp_path / "few.npz", images=small.pixels(3, edge=8), labels=np.array([1, 0, 2]))

    def run(path: Path, options: str = "", images: Path = tmp_path / "few.npz") -> str:
        given = options if "images=" in options else f"images={images}{',' if options else ''}{options}"
        code = main(["spectrum", str(path), "--task", f"image-classifier:{given}"])
        printed = capsys.readouterr()
        assert code == 2
        assert printed.out == ""
        assert len(printed.err.strip().splitlines()) == 1
        return printed.err

    return run


@pytest.mark.parametrize(
    "options, words",
    [
        ("images=nowhere", "nowhere does not exist"),
        ("images=", "option images must be a path, got nothing"),
        ("image=a.npz", "has no option 'image': it takes images, split, count, size, batch, model, timm"),
        ("batch=0", "option batch must be at least 1, got 0"),
        ("count=-1", "option count must be at least 0, got -1"),
        ("size=-8", "option size must be at least 0, got -8"),
        ("size=big", "option size must be a whole number, got 'big'"),
        ("split=test", "split=test is for a folder of CIFAR-10 batches"),
        ("model=nowhere", "nowhere is no folder of a model: expected one with a config.json"),
        ("model=a,timm=b", "options model and timm exclude each other"),
    ],
)
def test_wrong_options(folder: Folder, said: Said, options: str, words: str) -> None:
    assert words in said(folder(), options)


def test_no_images(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spectrum", str(folder())]) == 2
    assert "task image-classifier needs images: give --task image-classifier:images=..." in capsys.readouterr().err


def arrays(**given: Any) -> dict[str, Any]:
    return {"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.array([0, 1])} | given


@pytest.mark.parametrize(
    "content, words",
    [
        (arrays(labels=np.array([0, 10])), "has the label 10, but the classifier's classes are 0 to 9"),
        (arrays(labels=np.array([0, -1])), "has the label -1, but the classifier's classes are 0 to 9"),
        (arrays(labels=np.array([0.0, 1.0])), "must have whole numbers of shape (images,) as labels, got float64"),
        (arrays(labels=np.array([[0], [1]])), "as labels, got int64 of shape (2, 1)"),
        (arrays(labels=np.array([0])), "has 2 images but 1 labels"),
        (arrays(labels=np.array([0, None], dtype=object)), "cannot be read as an npz archive"),
        (arrays(images=np.zeros((0, 8, 8, 3), np.uint8), labels=np.array([], int)), "has no images"),
        (arrays(images=np.zeros((2, 8, 8, 4), np.uint8)), "but the classifier takes 3 channels: expected (images, 3,"),
        (arrays(images=np.zeros((2, 8, 8), np.uint8)), "has images of shape (2, 8, 8), but the classifier takes 3"),
        (arrays(images=np.zeros((2, 8, 8, 3), np.int64)), "must have images of bytes (uint8) or of floats, got int64"),
        (arrays(images=np.full((2, 8, 8, 3), np.nan)), "has images with values that are not finite"),
        ({"x": np.zeros(3)}, "it holds x, but no images and no labels"),
    ],
)
def test_archives_that_are_wrong(
    tmp_path: Path, folder: Folder, said: Said, content: dict[str, Any], words: str
) -> None:
    np.savez(tmp_path / "wrong.npz", **content)
    assert words in said(folder(), images=tmp_path / "wrong.npz")


def test_an_archive_that_is_none(tmp_path: Path, folder: Folder, said: Said) -> None:
    whole = (tmp_path / "few.npz").read_bytes()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:200] + bytes(50) + whole[250:]):
        (tmp_path / "wrong.npz").write_bytes(content)
        assert "wrong.npz cannot be read as an npz archive of images and labels" in said(
            folder(), images=tmp_path / "wrong.npz"
        )


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.remove, (str(self.victim),)


def test_a_batch_with_code_in_it(tmp_path: Path, folder: Folder, said: Said) -> None:
    victim, path = tmp_path / "victim", tmp_path / "cifar"
    path.mkdir()
    victim.write_text("still here")
    (path / "data_batch_1").write_bytes(pickle.dumps({b"data": Malicious(victim), b"labels": [1]}, 2))
    assert "data_batch_1 contains pickled code" in said(folder(), images=path)
    assert "data_batch_1 contains pickled code" in said(folder(), images=path / "data_batch_1")
    assert victim.read_text() == "still here"


DATA = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    "content, words",
    [
        (pickle.dumps({b"data": DATA, b"labels": [1, 2]}, 2)[:-40], "data_batch_1 is truncated or damaged"),
        (pickle.dumps({b"data": DATA}, 2), "expected a dict with data and labels, labels is missing"),
        (pickle.dumps([1, 2], 2), "expected a dict with data and labels, data is missing"),
        (pickle.dumps({b"data": DATA, b"labels": [1]}, 2), "has 2 images but 1 labels"),
        (pickle.dumps({b"data": DATA, b"labels": [1, 10]}, 2), "it has the label 10, outside 0 to 9"),
        (pickle.dumps({b"data": DATA, b"labels": [1, 2.0]}, 2), "expected a list of whole numbers as labels"),
        (pickle.dumps({b"data": DATA, b"labels": (1, 2)}, 2), "expected a list of whole numbers as labels"),
        (pickle.dumps({b"data": DATA[:, 1:], b"labels": [1, 2]}, 2), "got uint8 of shape (2, 3071)"),
        (pickle.dumps({b"data": DATA * 1.0, b"labels": [1, 2]}, 2), "got float64 of shape (2, 3072)"),
        (pickle.dumps({b"data": [1, 2], b"labels": [1, 2]}, 2), "data of bytes and shape (images, 3,072), got list"),
        (pickle.dumps({b"data": DATA[:0], b"labels": []}, 4), "has no images"),
        (b"no pickle", "data_batch_1 is truncated or damaged"),
    ],
)
def test_python_batches_that_are_wrong(tmp_path: Path, folder: Folder, said: Said, content: bytes, words: str) -> None:
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "data_batch_1").write_bytes(content)
    assert words in said(folder(), images=tmp_path / "cifar")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is truncated or no binary batch of CIFAR-10: its 0 bytes are not whole records of 3,073"),
        (bytes(3073 + 5), "its 3,078 bytes are not whole records of 3,073"),
        (b"\x0a" + bytes(3072), "it has the label 10, outside 0 to 9"),
    ],
)
def test_binary_batches_that_are_wrong(tmp_path: Path, folder: Folder, said: Said, content: bytes, words: str) -> None:
    (tmp_path / "test_batch.bin").write_bytes(content)
    assert words in said(folder(), images=tmp_path / "test_batch.bin")


def test_cifar_for_a_classifier_of_grey_images(tmp_path: Path, folder: Folder, small: ModuleType, said: Said) -> None:
    (tmp_path / "test_batch.bin").write_bytes(small.binary_batch(small.pixels(2), [0, 1]))
    words = said(folder(small.convnext(num_channels=1)), images=tmp_path / "test_batch.bin")
    assert "has images of 3 channels, but the classifier takes 1" in words


def test_a_folder_without_images(tmp_path: Path, folder: Folder, small: ModuleType, said: Said) -> None:
    (tmp_path / "classes").mkdir()
    assert "has no class folders with images in them" in said(folder(), images=tmp_path / "classes")
    small.save_class_folders(tmp_path / "classes", small.pixels(1, edge=8), ["cat"])
    assert "has one class folder alone, cat: expected one folder a class" in said(folder(), images=tmp_path / "classes")


def test_more_classes_than_the_classifier_has(tmp_path: Path, folder: Folder, small: ModuleType, said: Said) -> None:
    small.save_class_folders(tmp_path / "classes", small.pixels(3, edge=8), ["ant", "bee", "cat"])
    words = said(folder(small.convnext(num_labels=2)), images=tmp_path / "classes")
    assert "has the label 2, but the classifier's classes are 0 to 1" in words


def test_statistics_of_another_number_of_channels(folder: Folder, said: Said) -> None:
    path = folder(image_mean=[0.5], image_std=[0.5])
    words = "preprocessor_config.json has 1 means and 1 deviations, but the images have 3 channels"
    assert words in said(path)
    (path / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json is not JSON" in said(path)


def test_a_size_that_the_model_does_not_take(folder: Folder, small: ModuleType, said: Said) -> None:
    assert "doesn't match model" in said(folder(small.vit()), "size=9")


def test_weights_that_are_missing_too_many_or_of_another_shape(folder: Folder, said: Said) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    for changed, words in (
        ({key: value for key, value in weights.items() if key != "classifier.bias"}, "lacks classifier.bias"),
        (weights | {"other.weight": torch.ones(1)}, "holds what is not in the model: other.weight"),
        (weights | {"classifier.bias": torch.ones(9)}, "a parameter has another shape in the weights than in the"),
    ):
        save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        assert words in said(path)


def test_folders_of_other_models(folder: Folder, small: ModuleType, said: Said) -> None:
    path = folder()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "zork"}))
    assert "transformers cannot read the model" in said(path)
    (path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert "transformers cannot read the model" in said(path)
    path = folder(small.convnext(num_labels=1), name="one")
    assert "is no classifier: expected at least two classes in its config, got 1" in said(path)


def test_a_file_of_weights_alone(tmp_path: Path, folder: Folder, small: ModuleType, said: Said) -> None:
    torch.save(small.convnext().state_dict(), tmp_path / "weights.pt")
    words = said(tmp_path / "weights.pt")
    assert "is a file of weights, which says nothing of the network: give the folder of its config.json" in words
    words = said(tmp_path / "weights.pt", f"model={folder(small.vit(), name='other')}")
    assert "vit.embeddings.cls_token, of shape (1, 1, 8) in the model, is not in" in words


def test_without_transformers(folder: Folder, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "needs transformers for" in said(path)


def test_without_timm(tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    monkeypatch.setitem(sys.modules, "timm", None)
    words = said(tmp_path / "weights.pt", "timm=resnet10t")
    assert "timm=resnet10t needs timm, which does not import here" in words
