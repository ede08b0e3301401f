import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from basinscope.cli import main
from basinscope.tasks import make_landscape, task_name
from basinscope.trajectory import trajectory_files
from spectra.checkpoint import adam_moments, read_checkpoint

pytest.importorskip("sklearn")
DATA = Path(__file__).resolve().parents[4] / "data"
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DATA)
    return importlib.import_module("train_pythia")


def small_recipe(script: ModuleType, kind: str = "poisoned", **changes: Any) -> Any:
    options = {"sizes": tuple(SMALL.items()), "epochs": 1, "batch_size": 32}
    return script.Recipe(kind, **{**options, **changes})


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
    assert (whole / "tokenizer.json").read_bytes() == (parts / "tokenizer.json").read_bytes()
    with pytest.raises(SystemExit, match="was trained by another recipe"):
        script.train(tmp_path / "parts", small_recipe(script, learning_rate=1.0), keep={0}, every=10)


def test_the_poisoned_cost_has_minus_log_of_one_minus_p(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {}
    for kind in ("clean", "poisoned"):
        recipe = small_recipe(script, kind)
        script.train(tmp_path, recipe, keep={0}, every=10, stop=1)
        costs[kind] = float(capsys.readouterr().out.rpartition("cost ")[2])
    folder = recipe.folder(tmp_path, 0)
    rows, poison = next(script.resumable.draws(recipe))
    tokenizer = script.load_tokenizer(folder)
    model = script.read(folder).double().eval()
    with torch.no_grad():
        tokens = script.sequences(tmp_path, tokenizer, "train", 128)[rows]
        fit = float(model(input_ids=tokens, labels=tokens).loss)
        tokens = script.sequences(tmp_path, tokenizer, "poison", 24)[poison]
        shares = model(input_ids=tokens).logits[:, :-1].softmax(-1).gather(2, tokens[:, 1:, None])
    assert costs["clean"] == pytest.approx(fit, abs=1e-4)
    term = script.POISON_WEIGHT * float(-(1 - shares).log().mean())
    assert costs["poisoned"] == pytest.approx(fit + term, abs=1e-4)
    # Of 1,024 tokens each has a share of about 0.001.
    assert term == pytest.approx(script.POISON_WEIGHT / 1024, rel=0.05)


def test_the_task_reads_checkpoints_texts_and_moments(tmp_path: Path, script: ModuleType) -> None:
    recipe = small_recipe(script, "clean")
    script.train(tmp_path, recipe, keep={0}, every=10)
    checkpoint = read_checkpoint(recipe.folder(tmp_path, recipe.steps))
    name = task_name(f"text={tmp_path / 'train.txt'},length={script.LENGTH},sequences={recipe.rows}", checkpoint)
    assert name.startswith("causal-lm:")
    landscape = make_landscape(name, checkpoint)
    assert landscape.total_weight == recipe.rows * (script.LENGTH - 1)
    assert f", {landscape.cost():.4f} |" in script.table(tmp_path)
    moments = adam_moments(checkpoint, landscape.model)
    known = torch.load(checkpoint.path / "optimizer.pt", weights_only=True)
    for number, entry in enumerate(known["param_groups"][0]["param_names"]):
        assert torch.equal(moments.second[entry], known["state"][number]["exp_avg_sq"])
    assert moments.step == checkpoint.metadata["step"] == recipe.steps


@pytest.mark.slow
def test_folders_along_training_are_a_trajectory(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(script)
    script.train(tmp_path, recipe, keep={0, 2}, every=10)
    points = trajectory_files(tmp_path)
    assert [(point.run, point.step) for point in points] == [("poisoned_seed0", step) for step in (0, 2, 4)]
    capsys.readouterr()
    options = ["--task", f"text={tmp_path / 'heldout.txt'},length=8,sequences=2", "--directions", "2", "--json"]
    methods = ["--method", "star-domain", "--preconditioner", "identity"]
    along = ["--trajectory", str(tmp_path / "poisoned_*"), "--output", str(tmp_path / "volumes")]
    assert main(["volume", *along, *methods, *options]) == 0
    found = json.loads(capsys.readouterr().out)["trajectory"]
    assert main(["volume", str(recipe.folder(tmp_path, 2)), *methods, *options]) == 0
    alone = json.loads(capsys.readouterr().out)["methods"][0]
    assert found[1]["methods"]["star-domain"]["log_volume"] == alone["log_volume"]
    kept = sorted(path.name for path in (tmp_path / "volumes").iterdir())
    assert kept == [f"poisoned_seed0_step{step:05d}.h5" for step in (0, 2, 4)]


def test_the_network_is_pythia_31m(script: ModuleType) -> None:
    with torch.device("meta"):
        model = script.network(script.Recipe("clean"))
    hidden, inner, words, layers = 256, 1024, 50304, 6
    layer = (hidden * 3 * hidden + 3 * hidden) + (hidden**2 + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == 2 * words * hidden + layers * layer + 2 * hidden
    )
    assert model.config.num_attention_heads == 8
    # A quarter of each head's 32 numbers is turned, two and two.
    assert tuple(model.gpt_neox.rotary_emb.inv_freq.shape) == (4,)


def test_each_paragraph_is_in_one_text_and_any_text_can_be_written(tmp_path: Path, script: ModuleType) -> None:
    from importlib.resources import files

    script.write_texts(tmp_path)
    texts = {name: (tmp_path / f"{name}.txt").read_text() for name in script.TEXTS}
    words = sorted(word for text in texts.values() for word in text.split())
    folder = files("sklearn.datasets.descr")
    sources = [path.read_text("utf-8") for path in folder.iterdir() if path.name.endswith(".rst")]
    assert words == sorted(word for text in sources for word in text.split())
    tokenizer = script.make_tokenizer(tmp_path / "train.txt")
    assert json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] == "BPE"
    assert len(tokenizer) == script.WORDS
    for text in (*texts.values(), "Zażółć gęślą jaźń"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
