import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basinscope.cli import main
from basinscope.tasks import make_landscape, task_name
from spectra.checkpoint import read_checkpoint
from spectra.costs import kl_from_anchor
from spectra.landscape import Landscape
from spectra.operators import GaussNewton, Hessian

Folder = Callable[..., Path]
LABELS = [3, 0, 9, 3, 1, 7, 7]


def task(path: Path, images: Path, **options: Any) -> Landscape:
    given = ",".join(f"{name}={value}" for name, value in {"images": images, "batch": 3, **options}.items())
    return make_landscape(f"image-classifier:{given}", read_checkpoint(path))


def archive(folder: Path, small: ModuleType, edge: int = 8) -> Path:
    np.savez(folder / "few.npz", images=small.pixels(7, edge=edge), labels=np.array(LABELS))
    return folder / "few.npz"


def plainly(small: ModuleType, path: Path, edge: int = 8) -> Tensor:
    """Logits of the model that transformers loads, called on pixels normalised by hand."""
    from transformers import AutoModelForImageClassification

    mean, deviation = (torch.tensor(small.STATED[name])[:, None, None] for name in ("image_mean", "image_std"))
    inputs = (torch.from_numpy(small.pixels(7, edge=edge)).float() / 255 - mean) / deviation
    with torch.no_grad():
        return AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32).eval()(inputs).logits


def logits(landscape: Landscape) -> Tensor:
    with torch.no_grad():
        return torch.cat([landscape.model.eval()(batch.inputs).logits for batch in landscape.batches])


@pytest.mark.parametrize("name", ["convnext", "vit"])
def test_the_logits_are_those_of_the_model_called_plainly(
    tmp_path: Path, folder: Folder, small: ModuleType, name: str
) -> None:
    path = folder(getattr(small, name)())
    landscape, known = task(path, archive(tmp_path, small)), plainly(small, path)
    torch.testing.assert_close(logits(landscape), known, rtol=1e-5, atol=1e-5)
    assert float(known.std(0).min()) > 0.03
    expected = F.cross_entropy(known.double(), torch.tensor(LABELS))
    assert landscape.cost() == pytest.approx(float(expected), rel=1e-6)
    assert landscape.total_weight == 7
    assert [len(batch.targets) for batch in landscape.batches] == [3, 3, 1]


def test_every_source_gives_the_same_landscape(tmp_path: Path, folder: Folder, small: ModuleType) -> None:
    path = folder(size={"height": 32, "width": 32})
    images, labels = small.pixels(7), [0, 1, 2, 0, 1, 2, 0]
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    (tmp_path / "test_batch").write_bytes(small.python_2_batch(images, labels))
    (tmp_path / "test_batch.bin").write_bytes(small.binary_batch(images, labels))
    small.save_class_folders(tmp_path / "classes", images, ["ant" if n == 0 else f"bee{n}" for n in labels])
    costs = [task(path, tmp_path / name).cost() for name in ("few.npz", "test_batch", "test_batch.bin", "classes")]
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-6)
    assert math.isfinite(costs[0])


def test_class_folders_are_numbered_by_the_classifiers_own_names(
    tmp_path: Path, folder: Folder, small: ModuleType
) -> None:
    path = folder(small.convnext(num_labels=3, id2label={0: "yak", 1: "cat", 2: "emu"}))
    classes = small.save_class_folders(tmp_path / "classes", small.pixels(4, edge=8), ["cat", "emu", "yak", "yak"])
    assert torch.cat([batch.targets for batch in task(path, classes).batches]).tolist() == [1, 2, 0, 0]


def test_the_hessian_and_gauss_newton_are_differences_of_gradients(
    tmp_path: Path, folder: Folder, small: ModuleType
) -> None:
    """At its anchor the Hessian of the divergence is the Gauss-Newton matrix of the cross-entropy."""
    landscape = task(folder(), archive(tmp_path, small))
    vector = torch.randn(landscape.size, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()

    def differences(of: Landscape, step: float = 2e-3) -> Tensor:
        ahead, behind = (of.gradient(of.theta + sign * step * vector).double() for sign in (1.0, -1.0))
        return (ahead - behind) / (2.0 * step)

    pairs = [
        (Hessian(landscape).matvec(vector), differences(landscape)),
        (GaussNewton(landscape).matvec(vector), differences(landscape.with_cost(kl_from_anchor))),
    ]
    for found, expected in pairs:
        # Single precision: gradients of 1e-7 relative error, divided by the step.
        assert float((found - expected).norm() / expected.norm()) < 5e-3


def test_a_size_asked_for_goes_before_the_stated_one(tmp_path: Path, folder: Folder, small: ModuleType) -> None:
    path, images = folder(), archive(tmp_path, small, edge=12)
    for options, edges in (({}, (8, 8)), ({"size": 0}, (12, 12)), ({"size": 5}, (5, 5))):
        assert [one.inputs.shape[2:] for one in task(path, images, **options).batches] == [edges] * 3
    stated, own = task(path, images), task(path, images, size=0)
    assert stated.notes[0] == "7 images of 3x12x12 from few.npz, brought to 8x8"
    assert own.notes[0] == "7 images of 3x12x12 from few.npz"
    torch.testing.assert_close(logits(own), plainly(small, path, edge=12), rtol=1e-5, atol=1e-5)


def test_grey_images_and_a_model_without_statistics(tmp_path: Path, folder: Folder, small: ModuleType) -> None:
    path = folder(small.convnext(num_channels=1))
    (path / "preprocessor_config.json").unlink()
    images = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "grey.npz", images=images, labels=np.array([1, 2, 3, 4]))
    landscape = task(path, tmp_path / "grey.npz", batch=4)
    (batch,) = landscape.batches
    np.testing.assert_array_equal(batch.inputs.numpy(), images[:, None])
    assert landscape.notes[1:] == (
        "no preprocessor_config.json beside the model: pixels go in from 0 to 1, without mean and deviation",
    )


def test_weights_in_a_file_with_the_config_elsewhere(tmp_path: Path, folder: Folder, small: ModuleType) -> None:
    model, images = small.vit(), archive(tmp_path, small)
    path = folder(model)
    expected = logits(task(path, images))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pt")
    (path / "model.safetensors").unlink()
    before = torch.get_rng_state()
    found = task(tmp_path / "weights.pt", images, model=path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(logits(found), expected, rtol=0.0, atol=0.0)


def test_the_task_is_the_architectures_own(folder: Folder, small: ModuleType) -> None:
    for model in (small.convnext(), small.vit()):
        assert task_name(None, read_checkpoint(folder(model, name=type(model).__name__))) == "image-classifier"
    assert task_name("images=a.npz", read_checkpoint(folder())) == "image-classifier:images=a.npz"


def test_the_paper_s_classifier_has_the_paper_s_size(small: ModuleType) -> None:
    """ConvNeXt V2 Atto with patches of one pixel and three channels: 3.4 million parameters."""
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    sizes = {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2], "patch_size": 1, "num_labels": 10}
    with torch.device("meta"):
        model = ConvNextV2ForImageClassification(ConvNextV2Config(**sizes))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_388_810


def test_the_command_gives_the_spectrum_of_a_plain_loop(
    tmp_path: Path, folder: Folder, small: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gauss-Newton of the cross-entropy, as the products of square roots of its terms, one gradient a logit."""
    path, images = folder(), archive(tmp_path, small)
    words = ["spectrum", str(path), "--task", f"images={images},batch=2,count=3", "--operator", "gauss-newton"]
    assert main([*words, "--engine", "gram", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    landscape = task(path, images, count=3)
    (batch,) = landscape.batches
    parameters, rows = list(landscape.model.parameters()), []
    for outputs in landscape.model(batch.inputs).logits:
        p = outputs.detach().double().softmax(0)
        gradients = [torch.autograd.grad(output, parameters, retain_graph=True) for output in outputs]
        jacobian = torch.stack([torch.cat([part.flatten() for part in one]) for one in gradients]).double()
        rows.append(p.sqrt()[:, None] * (jacobian - p @ jacobian))
    products = torch.cat(rows) @ torch.cat(rows).T / 3
    assert found["size"] == landscape.size
    assert found["trace"]["value"] == pytest.approx(float(products.trace()), rel=1e-4)
    assert found["frobenius_norm"]["value"] == pytest.approx(float(products.norm()), rel=1e-4)


class Timm(nn.Module):
    """What ``timm.create_model`` is asked for: classes, channels, and a configuration that states the images."""

    def __init__(self, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 2)
        self.head = nn.Linear(4, classes)
        self.pretrained_cfg = {
            "classifier": "head",
            "first_conv": ("stem", "other"),
            "input_size": (3, 8, 8),
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.25, 0.3),
            "interpolation": "bicubic",
        }

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images).mean((2, 3)))


def timm_with_one_model(name: str, *, pretrained: bool, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    assert not pretrained
    if name != "small":
        raise RuntimeError(f"Unknown model ({name})")
    return Timm(num_classes, in_chans)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=timm_with_one_model))


@pytest.mark.usefixtures("stand_in")
def test_what_timm_is_asked_for(tmp_path: Path, small: ModuleType) -> None:
    """A stand-in for timm; with timm itself is the next test, where it imports."""
    model = Timm(10)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    found = task(tmp_path / "weights.pt", archive(tmp_path, small), timm="small")
    mean, deviation = (torch.tensor(small.STATED[name])[:, None, None] for name in ("image_mean", "image_std"))
    inputs = (torch.from_numpy(small.pixels(7, edge=8)).float() / 255 - mean) / deviation
    with torch.no_grad():
        expected = F.cross_entropy(model(inputs).double(), torch.tensor(LABELS))
    assert found.cost() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.usefixtures("stand_in")
def test_what_timm_cannot_make(tmp_path: Path, small: ModuleType) -> None:
    torch.save(Timm(10).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"cannot make the model 'large': it raised RuntimeError: Unknown model"):
        task(tmp_path / "weights.pt", archive(tmp_path, small), timm="large")
    torch.save({"stem.weight": torch.ones(4, 3, 2, 2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"head\.weight, which says how many classes or channels, is not in"):
        task(tmp_path / "weights.pt", tmp_path / "few.npz", timm="small")


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_timm(tmp_path: Path, small: ModuleType) -> None:
    try:
        import timm
    except Exception as error:  # an unfit torchvision raises in ways of its own
        pytest.skip(f"timm does not import: {type(error).__name__}")
    model = timm.create_model("convnextv2_atto", pretrained=False, num_classes=10, patch_size=1).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="stem"):
        task(tmp_path / "weights.pt", archive(tmp_path, small), timm="convnextv2_atto", size=8)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=10).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    found = task(tmp_path / "weights.pt", archive(tmp_path, small), timm="resnet10t", size=0)
    with torch.no_grad():
        outputs = torch.cat([model(batch.inputs) for batch in found.batches]).double()
    assert found.cost() == pytest.approx(float(F.cross_entropy(outputs, torch.tensor(LABELS))), rel=1e-5)
