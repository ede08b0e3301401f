"""Folders of classifiers and images of unknown origin: no code runs, nothing hangs, nothing is cast in silence."""

import io
import json
import os
import time
import warnings
import zipfile
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
Tried = Callable[..., tuple[int, str]]
MARKER = "ran.marker"


@pytest.fixture
def tried(
    tmp_path: Path, small: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tried:
    np.savez(tmp_path / "few.npz", images=small.pixels(3, edge=8), labels=np.array([1, 0, 2]))

    def run(path: Path, options: str = "", images: Path = tmp_path / "few.npz") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
        begun = time.monotonic()
        task = f"image-classifier:images={images}{',' if options else ''}{options}"
        words = ["spectrum", str(path), "--task", task, "--probes", "1", "--steps", "2", "--deflate", "0"]
        code = main([*words, "--strategy", "double-backward", "--json"])
        assert time.monotonic() - begun < 60.0
        assert not (tmp_path / MARKER).exists()
        printed = capsys.readouterr()
        if code:
            assert code == 2, printed.err
            assert printed.out == ""
            assert len(printed.err.strip().splitlines()) == 1
        return code, printed.err

    return run


def changed(path: Path, **entries: Any) -> None:
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, **entries}))


def plant(path: Path) -> None:
    code = f"open({str(path.parent / MARKER)!r}, 'w').close()\n"
    code += "from transformers import PretrainedConfig, PreTrainedModel\n"
    code += "class Config(PretrainedConfig):\n    model_type = 'planted'\nclass Model(PreTrainedModel):\n    pass\n"
    for name in ("planted.py", "__init__.py"):
        (path / name).write_text(code)


MAPS = {
    "config": {"AutoConfig": "planted.Config"},
    "model": {"AutoModelForImageClassification": "planted.Model"},
    "both": {"AutoConfig": "planted.Config", "AutoModelForImageClassification": "planted.Model"},
    "of another repository": {"AutoConfig": "other/repo--planted.Config"},
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("as_option", [False, True])
@pytest.mark.parametrize("kind", ["convnextv2", "planted"])
@pytest.mark.parametrize("name", MAPS)
def test_code_in_a_folder_never_runs(
    folder: Folder, small: ModuleType, tried: Tried, tmp_path: Path, name: str, kind: str, as_option: bool
) -> None:
    path = folder()
    plant(path)
    changed(path, auto_map=MAPS[name], model_type=kind)
    torch.save(small.convnext().state_dict(), tmp_path / "weights.pt")
    code, said = tried(tmp_path / "weights.pt", f"model={path}") if as_option else tried(path)
    if kind == "convnextv2":
        assert code == 0 or "never runs" in said
    else:
        assert code == 2
        assert "needs code of its own" in said or "transformers cannot read the model" in said


DECLARED = [
    *({"depths": depths} for depths in ([1, 10_000_000], [10**12, 1], [40_000, 40_000], [20_000, 1])),
    *({"hidden_sizes": sizes} for sizes in ([10_000_000, 6], [4, 10**9], [20_000, 20_000])),
    *({"num_channels": number} for number in (10**9, 10**12)),
    *({"num_labels": number} for number in (10_000_000, 10**12)),
    {"num_stages": 10_000_000},
    {"patch_size": 10**6},
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("as_option", [False, True])
@pytest.mark.parametrize("declared", DECLARED, ids=str)
def test_configs_that_declare_far_more_than_the_weights_have(
    folder: Folder, small: ModuleType, tried: Tried, tmp_path: Path, declared: dict[str, Any], as_option: bool
) -> None:
    path = folder()
    changed(path, **declared)
    torch.save(small.convnext().state_dict(), tmp_path / "weights.pt")
    code, _ = tried(tmp_path / "weights.pt", f"model={path}") if as_option else tried(path)
    assert code == 2 or declared == {"num_stages": 10_000_000}


@pytest.mark.parametrize("name", ["preprocessor_config.json", "model.safetensors", "generation_config.json", "x"])
def test_pipes_in_a_folder(folder: Folder, tried: Tried, name: str) -> None:
    path = folder()
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    code, said = tried(path)
    assert code == 2
    assert "not a regular file" in said or "holds no weights" in said


@pytest.mark.parametrize("kind", [torch.complex64, torch.int8, torch.int32, torch.bool], ids=str)
@pytest.mark.parametrize("form", ["safetensors", "bin", "file of weights"])
def test_weights_of_another_kind(
    folder: Folder, small: ModuleType, tried: Tried, tmp_path: Path, kind: torch.dtype, form: str
) -> None:
    path, name = folder(), "classifier.weight"
    weights = load_file(path / "model.safetensors")
    weights[name] = weights[name].to(kind)
    (path / "model.safetensors").unlink()
    if form == "safetensors":
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, path / "pytorch_model.bin" if form == "bin" else tmp_path / "weights.pt")
    code, said = tried(tmp_path / "weights.pt", f"model={path}") if form == "file of weights" else tried(path)
    assert code == 2
    assert name in said


def zipped(parts: dict[str, bytes], level: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def array(shape: str, data: bytes, kind: str = "|u1") -> bytes:
    """An array of numpy with whatever header."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


LABELS = array("(2,)", bytes(16), "<i8")
IMAGES: dict[str, Callable[[], bytes]] = {
    "a bomb": lambda: zipped({"images.npy": array("(1000, 1024, 1024)", bytes(2**30)), "labels.npy": LABELS}, 1),
    "exabytes declared": lambda: zipped({"images.npy": array("(10**9, 10**9, 3)", b"x"), "labels.npy": LABELS}),
    "exabytes in digits": lambda: zipped({"images.npy": array(f"({10**9}, {10**9}, 3)", b"x"), "labels.npy": LABELS}),
    "terabytes in digits": lambda: zipped({"images.npy": array(f"({10**6}, {10**6}, 3)", b"x"), "labels.npy": LABELS}),
    "negative shape": lambda: zipped({"images.npy": array("(-2, 8, 8, 3)", bytes(384)), "labels.npy": LABELS}),
    "nested shape": lambda: zipped({"images.npy": array("(" * 60 + "2" + ",)" * 60, bytes(9)), "labels.npy": LABELS}),
    "objects": lambda: zipped({"images.npy": array("(2,)", b"cos\nsystem\n.", "|O"), "labels.npy": LABELS}),
    "half of the pixels": lambda: zipped({"images.npy": array("(2, 8, 8, 3)", bytes(100)), "labels.npy": LABELS}),
    "no header": lambda: zipped({"images.npy": b"\x93NUMPY", "labels.npy": LABELS}),
    "a flipped bit": lambda: flipped(zipped({"images.npy": array("(2, 8, 8, 3)", bytes(384)), "labels.npy": LABELS})),
    "one array": lambda: array("(2, 8, 8, 3)", bytes(384)),
}


def flipped(content: bytes) -> bytes:
    place = content.index(b"images.npy") + 20
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


@pytest.mark.parametrize("name", IMAGES)
def test_archives_of_images(folder: Folder, tried: Tried, tmp_path: Path, name: str) -> None:
    (tmp_path / "odd.npz").write_bytes(IMAGES[name]())
    code, said = tried(folder(), images=tmp_path / "odd.npz")
    assert code == 2
    assert "odd.npz" in said


def test_a_picture_of_a_size_that_nobody_meant(folder: Folder, tried: Tried, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        with warnings.catch_warnings(action="ignore"):
            Image.new("1", (12_000, 10_000)).save(tmp_path / "images" / name / "1.png")
    code, said = tried(folder(), images=tmp_path / "images")
    assert code == 2
    assert "1.png cannot be read as an image: Pillow raised DecompressionBombWarning" in said


@pytest.mark.parametrize("name", ["few.npz", "data_batch_1", "test_batch.bin"])
def test_a_pipe_for_images(folder: Folder, tried: Tried, tmp_path: Path, name: str) -> None:
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / name)
    for images in (tmp_path / "pipes" / name, *([tmp_path / "pipes"] if name == "data_batch_1" else [])):
        code, said = tried(folder(), images=images)
        assert code == 2
        assert "is a named pipe, not a regular file" in said


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp", "../model", "a b", "x" * 200])
def test_names_of_timm_that_lead_elsewhere(tried: Tried, tmp_path: Path, name: str) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    code, said = tried(tmp_path / "weights.pt", f"timm={name}")
    assert code == 2
    assert "names of a hub or a folder are never followed" in said or "timm" in said
