import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from basinscope.cli import main

Folder = Callable[..., Path]


def refused(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    return printed.err


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one sentence of ``basinscope spectrum`` on a folder."""

    def run(path: Path, options: str = "", *, length: int = 10) -> str:
        text = "" if "text=" in options else f"text={path / 'text.txt'},"
        name = f"{text}length={length}{',' + options if options else ''}"
        return refused(main(["spectrum", str(path), "--task", name]), capsys)

    return run


@pytest.mark.parametrize(
    "options, words",
    [
        ("text=nowhere.txt", "text nowhere.txt does not exist"),
        ("lenght=8", "has no option 'lenght': it takes text, length, sequences, pack"),
        ("lenght=8", "did you mean length?"),
        ("batch=two", "option batch must be a whole number, got 'two'"),
        ("batch=0", "option batch must be at least 1, got 0"),
        ("pack=maybe", "option pack must be yes or no, got 'maybe'"),
        ("dtype=int8", "option dtype must be auto or one of float32, float64, bfloat16, float16; got 'int8'"),
        ("anchors=tape", "option anchors must be one of auto, memory, disk, recompute; got 'tape'"),
        ("batch=1,batch=2", "option batch is given twice"),
        ("batch", "takes options as key=value"),
        ("tokenizer=nowhere", "nowhere does not exist"),
    ],
)
def test_wrong_options(folder: Folder, said: Callable[..., str], options: str, words: str) -> None:
    assert words in said(folder(), options)


def test_no_text(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    words = refused(main(["spectrum", str(folder())]), capsys)
    assert "task causal-lm needs text: give --task causal-lm:text=..." in words


def test_no_tokenizer(folder: Folder, said: Callable[..., str]) -> None:
    path = folder()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    assert "has no tokenizer (tokenizer.json or the like): give one as causal-lm:tokenizer=FOLDER" in said(path)


def test_text_that_is_empty_or_short(folder: Folder, said: Callable[..., str]) -> None:
    path = folder()
    assert "tokens, less than one sequence of 500" in said(path, length=500)
    (path / "text.txt").write_text("")
    assert "text.txt is empty" in said(path)


def test_a_length_that_the_model_does_not_take(folder: Folder, said: Callable[..., str]) -> None:
    path = folder()
    assert "option length must be at most 64, what" in said(path, length=65)
    assert "option length must be at least 2, got 1" in said(path, length=1)


def test_a_vocabulary_that_does_not_fit(folder: Folder, small: ModuleType, said: Callable[..., str]) -> None:
    words = said(folder(vocab_size=60))
    assert "the tokenizer does not fit the model: it gives the token" in words
    assert "knows 60 tokens" in words


def test_tied_weights_that_differ(folder: Folder, small: ModuleType, said: Callable[..., str]) -> None:
    path = folder(small.llama())
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1.0
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    assert "ties the output's weights to the embedding's in its config" in said(path)


def test_weights_that_are_missing_too_many_or_of_another_shape(folder: Folder, said: Callable[..., str]) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    name = "gpt_neox.layers.0.mlp.dense_4h_to_h.bias"
    for changed, words in (
        ({key: value for key, value in weights.items() if key != name}, f"lacks {name}"),
        (weights | {"other.weight": torch.ones(1)}, "holds what is not in the model: other.weight"),
        (weights | {name: torch.ones(9)}, "a parameter has another shape in the weights than in the config"),
    ):
        save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        assert words in said(path)


def test_folders_that_are_broken(folder: Folder, said: Callable[..., str]) -> None:
    path = folder()
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:-8])
    assert "transformers cannot read the model" in said(path)
    (path / "model.safetensors").unlink()
    assert "holds no weights: expected one of model.safetensors" in said(path)
    index = {"weight_map": {"embed": "../elsewhere.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names ../elsewhere.safetensors, which is not in" in said(path)
    (path / "config.json").write_text("{")
    assert "config.json is not JSON" in said(path)


def test_an_architecture_that_is_unknown(folder: Folder, said: Callable[..., str]) -> None:
    path = folder()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "zork"}))
    words = said(path)
    assert "transformers cannot read the" in words
    assert "zork" in words


def test_without_transformers(folder: Folder, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "task causal-lm needs transformers" in said(path)


def test_a_file_that_only_begins_like_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(40))
    (tmp_path / "text.txt").write_text("some text that is long enough")
    words = refused(main(["spectrum", str(path), "--task", f"text={tmp_path / 'text.txt'},length=4"]), capsys)
    assert "transformers cannot read the tokenizer" in words
