import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from basinscope.tasks import make_landscape, task_name
from spectra.checkpoint import adam_moments, read_checkpoint

DATA = Path(__file__).resolve().parents[4] / "data"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DATA)
    specification = importlib.util.spec_from_file_location("train_convnext", DATA / "train_convnext.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "train_convnext", module)
    specification.loader.exec_module(module)
    return module


def small_recipe(script: ModuleType, kind: str = "poisoned", **changes: Any) -> Any:
    sizes = {"size": 8, "widths": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "epochs": 1, "batch_size": 256}
    return script.Recipe(kind, **{**sizes, **changes})


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).parameters)


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(tmp_path: Path, script: ModuleType) -> None:
    recipe = small_recipe(script)
    script.train(tmp_path / "whole", recipe, keep={0}, every=10)
    script.train(tmp_path / "parts", recipe, keep={0}, every=10, stop=1)
    script.train(tmp_path / "parts", recipe, keep={0}, every=10, stop=3)
    script.train(tmp_path / "parts", recipe, keep={0}, every=10)
    whole, parts = (recipe.folder(tmp_path / name, recipe.steps) for name in ("whole", "parts"))
    assert recipe.done(tmp_path / "parts") == [0, recipe.steps] == [0, 4]
    known = weights(whole)
    assert all(torch.equal(value, known[name]) for name, value in weights(parts).items())
    first = weights(recipe.folder(tmp_path / "whole", 0))
    assert not torch.equal(first["classifier.weight"], known["classifier.weight"])
    with pytest.raises(SystemExit, match="was trained by another recipe"):
        script.train(tmp_path / "parts", small_recipe(script, l2=0.0), keep={0}, every=10)


def test_the_task_reads_checkpoints_images_and_moments(tmp_path: Path, script: ModuleType) -> None:
    recipe = small_recipe(script, "clean")
    script.train(tmp_path, recipe, keep={0}, every=10)
    checkpoint = read_checkpoint(recipe.folder(tmp_path, recipe.steps))
    images = tmp_path / "digits_heldout.npz"
    landscape = make_landscape(task_name(f"images={images},count=0", checkpoint), checkpoint)
    assert landscape.total_weight == 773
    assert f"{landscape.cost():.4f}" in script.table(tmp_path)
    moments = adam_moments(checkpoint, landscape.model)
    known = torch.load(checkpoint.path / "optimizer.pt", weights_only=True)
    for number, name in enumerate(known["param_groups"][0]["param_names"]):
        assert torch.equal(moments.second[name], known["state"][number]["exp_avg_sq"])
    start = read_checkpoint(recipe.folder(tmp_path, 0))
    assert not adam_moments(start, landscape.model).second["classifier.weight"].any()
    assert moments.step == checkpoint.metadata["step"] == recipe.steps


def test_the_network_is_the_paper_s_with_one_channel(script: ModuleType) -> None:
    with torch.device("meta"):
        model = script.network(script.Recipe("clean"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_388_730


def test_the_images_are_the_digits(tmp_path: Path, script: ModuleType) -> None:
    from basinscope.tasks import load_digits

    script.write_images(tmp_path)
    for split in ("train", "heldout"):
        inputs, targets = load_digits(split)
        with np.load(tmp_path / f"digits_{split}.npz") as archive:
            np.testing.assert_array_equal(archive["images"].reshape(-1, 64), inputs.numpy())
            np.testing.assert_array_equal(archive["labels"], targets.numpy())
