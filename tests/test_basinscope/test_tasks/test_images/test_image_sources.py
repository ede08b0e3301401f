import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from basinscope.tasks.images.source import read_images

Writer = Callable[..., bytes]
LABELS = [3, 0, 9, 3, 1]


def five_batches(folder: Path, small: ModuleType, write: Writer, ending: str = "") -> tuple[Any, list[int]]:
    """All batches of different lengths; the pixels and labels of the training ones in their order."""
    folder.mkdir()
    images = [small.pixels(count, seed=count) for count in (2, 3, 4, 5, 6)]
    labels = [[(count + place) % 10 for place in range(count)] for count in (2, 3, 4, 5, 6)]
    for number, (some, classes) in enumerate(zip(images, labels, strict=True), start=1):
        (folder / f"data_batch_{number}{ending}").write_bytes(write(some, classes))
    (folder / f"test_batch{ending}").write_bytes(write(small.pixels(5, seed=99), LABELS))
    (folder / f"batches.meta{ending and '.txt'}").write_bytes(b"airplane\n")
    return np.concatenate(images), sum(labels, [])


@pytest.mark.parametrize("name, ending", [("binary_batch", ".bin"), ("python_batch", ""), ("python_2_batch", "")])
def test_cifar_folders(tmp_path: Path, small: ModuleType, name: str, ending: str) -> None:
    path = tmp_path / "cifar"
    images, labels = five_batches(path, small, getattr(small, name), ending)
    train, test = read_images(path, 3), read_images(path, 3, split="test")
    np.testing.assert_array_equal(train.images, images)
    assert train.labels.tolist() == labels
    assert train.notes == ()
    np.testing.assert_array_equal(test.images, small.pixels(5, seed=99))
    assert test.labels.tolist() == LABELS
    few = read_images(path, 3, count=4)
    np.testing.assert_array_equal(few.images, images[:4])
    assert few.labels.tolist() == labels[:4]
    assert few.notes == (
        f"3 further batches of {path} are not read",
        "the first 4 images are taken, 1 more are left out by count=4",
    )
    single = read_images(path / f"data_batch_3{ending}", 3)
    np.testing.assert_array_equal(single.images, images[5:9])


def test_the_planes_of_a_batch_are_red_green_blue(tmp_path: Path) -> None:
    """The published description: 1,024 bytes of red, of green, of blue, each row by row."""
    row = np.zeros(3072, np.uint8)
    row[0:32], row[1024], row[2048 + 32] = 1, 2, 3
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": row[None], "labels": [4]}, 2))
    (image,) = read_images(tmp_path, 3, split="test").images
    assert image[0, 0].tolist() == [1] * 32
    assert (image[1, 0, 0], image[2, 1, 0], int(image.sum())) == (2, 3, 37)


def test_a_folder_that_lacks_batches(tmp_path: Path, small: ModuleType) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(small.binary_batch(small.pixels(2), [0, 1]))
    assert read_images(tmp_path, 3).notes == (f"{tmp_path} holds 1 of CIFAR-10's 5 training batches",)
    with pytest.raises(ValueError, match="holds no test_batch of CIFAR-10"):
        read_images(tmp_path, 3, split="test")
    (tmp_path / "data_batch_3.bin").write_bytes(small.binary_batch(small.pixels(2), [0, 1]))
    with pytest.raises(ValueError, match="lacks data_batch_2 of CIFAR-10"):
        read_images(tmp_path, 3)
    (tmp_path / "data_batch_2").write_bytes(small.python_batch(small.pixels(2), [0, 1]))
    with pytest.raises(ValueError, match="both python and binary batches"):
        read_images(tmp_path, 3)


@pytest.mark.parametrize("edge, channels", [(5, 1), (5, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_archives(tmp_path: Path, edge: int, channels: int, kind: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, channels, edge, edge)).astype(kind)
    for number, shaped in enumerate([images, np.moveaxis(images, 1, -1), *([images[:, 0]] if channels == 1 else [])]):
        path = tmp_path / f"{number}.npz"
        np.savez_compressed(path, images=shaped, labels=np.array([1, 0, 2, 1], np.uint8))
        found = read_images(path, channels, count=3)
        np.testing.assert_array_equal(found.images, images[:3])
        assert found.images.dtype == kind
        assert found.labels.tolist() == [1, 0, 2]
        assert found.notes == ("the first 3 images are taken, 1 more are left out by count=3",)


def test_an_archive_of_which_the_channels_are_not_clear(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 3, 3), np.uint8), labels=np.array([0, 1]))
    with pytest.raises(ValueError, match="which axis is that of the 3 channels"):
        read_images(tmp_path / "a.npz", 3)


def test_class_folders_are_numbered_by_name_and_taken_in_turns(tmp_path: Path, small: ModuleType) -> None:
    images = small.pixels(6, edge=4)
    names = ["dog", "cat", "cat", "emu", "cat", "dog"]
    path = small.save_class_folders(tmp_path / "images", images, names)
    found = read_images(path, 3)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 0]
    np.testing.assert_array_equal(found.images, images[[1, 0, 3, 2, 5, 4]])
    few = read_images(path, 3, count=4)
    assert few.labels.tolist() == [0, 1, 2, 0]
    assert few.notes == ("the first 4 images, of each class in turn, are taken, 2 more are left out by count=4",)
    known = read_images(path, 3, classes={"emu": 0, "dog": 5, "cat": 7, "yak": 9})
    assert known.labels.tolist() == [7, 5, 0, 7, 5, 7]
    with pytest.raises(ValueError, match=r"the class cat, which is none of the classifier's \(dog, emu\)"):
        read_images(path, 3, classes={"dog": 0, "emu": 1})
    (path / "cat" / "notes.txt").write_text("no image")
    (path / "cat" / ".hidden.png").write_text("no image")
    note = f"files in the class folders of {path} that are no images by their names and left out: 1"
    assert read_images(path, 3).notes == (note,)


def test_pillow_reads_the_same(tmp_path: Path) -> None:
    """Grey, coloured, with a palette, opaque, and another format; sizes differ and are brought to one."""
    from PIL import Image

    plain = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    saved = {"a/1.png": plain, "a/2.bmp": plain.convert("P"), "b/1.png": plain.convert("RGBA")}
    saved |= {"b/2.PNG": plain.convert("L"), "b/3.jpg": plain}
    for name, image in saved.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    found = read_images(tmp_path, 3)
    order = ["a/1.png", "b/1.png", "a/2.bmp", "b/2.PNG", "b/3.jpg"]
    for name, pixels in zip(order, found.images, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / name).convert("RGB")).transpose(2, 0, 1))
    plain.resize((30, 20)).save(tmp_path / "a/3.png")
    with pytest.raises(ValueError, match=r"images of 2 sizes \(6x9, 20x30, ...\): give size"):
        read_images(tmp_path, 3)
    assert read_images(tmp_path, 3, size=(5, 7)).images.shape == (6, 3, 5, 7)
    with pytest.raises(ValueError, match="is coloured, but the classifier takes 1 channels"):
        read_images(tmp_path, 1)


def broken_image(folder: Path) -> None:
    (folder / "a" / "1.png").write_bytes((folder / "a" / "1.png").read_bytes()[:-30])


def transparent_image(folder: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (4, 4), (1, 2, 3, 128)).save(folder / "a" / "1.png")


def deep_image(folder: Path) -> None:
    from PIL import Image

    Image.new("I;16", (4, 4)).save(folder / "a" / "1.png")


def empty_class(folder: Path) -> None:
    (folder / "aa").mkdir()


@pytest.mark.parametrize(
    "change, words",
    [
        (broken_image, "1.png cannot be read as an image"),
        (transparent_image, "1.png has transparent pixels"),
        (deep_image, "1.png has pixels of the kind I;16"),
        (empty_class, "aa has no images in it"),
    ],
)
def test_class_folders_that_are_wrong(
    tmp_path: Path, small: ModuleType, change: Callable[[Path], None], words: str
) -> None:
    path = small.save_class_folders(tmp_path / "images", small.pixels(2, edge=4), ["a", "b"])
    (path / "a" / "000.png").rename(path / "a" / "1.png")
    change(path)
    with pytest.raises(ValueError, match=words):
        read_images(path, 3)
