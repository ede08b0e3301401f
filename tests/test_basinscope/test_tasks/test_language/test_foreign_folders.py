"""Model folders of unknown origin: no code of theirs runs, none hangs, and what they declare is held to the weights."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from basinscope.cli import main

Folder = Callable[..., Path]
MARKER = "ran.marker"


@pytest.fixture
def tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Exit code and what is said of a folder, with "y" for an answer to whatever may be asked."""

    def run(path: Path, options: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
        begun = time.monotonic()
        task = f"causal-lm:text={path / 'text.txt'},length=10{',' if options else ''}{options}"
        words = ["spectrum", str(path), "--task", task, "--probes", "1", "--steps", "2", "--deflate", "0"]
        code = main([*words, "--strategy", "double-backward", "--json"])
        assert time.monotonic() - begun < 60.0
        assert not (tmp_path / MARKER).exists()
        printed = capsys.readouterr()
        assert "trust_remote_code" not in printed.err
        if code:
            assert code == 2
            assert printed.out == ""
            assert len(printed.err.strip().splitlines()) == 1
        return code, printed.err

    return run


def changed(path: Path, file: str, **entries: Any) -> None:
    content = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps({**content, **entries}))


def plant(path: Path) -> None:
    """Code that says that it ran, as modelling, configuration and tokenizer code."""
    code = f"open({str(path.parent / MARKER)!r}, 'w').close()\n"
    names = ("Config", "Model", "Tokenizer")
    code += "from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast\n"
    bases = dict(zip(names, ("PretrainedConfig", "PreTrainedModel", "PreTrainedTokenizerFast"), strict=True))
    code += "".join(f"class {name}({base}):\n    model_type = 'planted'\n" for name, base in bases.items())
    (path / "planted.py").write_text(code)
    (path / "__init__.py").write_text(code)


CONFIG, MODEL, TOKENIZER = "planted.Config", "planted.Model", ["planted.Tokenizer", "planted.Tokenizer"]
MAPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "config": ({"auto_map": {"AutoConfig": CONFIG}}, {}),
    "model": ({"auto_map": {"AutoModelForCausalLM": MODEL}}, {}),
    "both": ({"auto_map": {"AutoConfig": CONFIG, "AutoModelForCausalLM": MODEL}}, {}),
    "base model": ({"auto_map": {"AutoModel": MODEL}}, {}),
    "tokenizer": ({}, {"auto_map": {"AutoTokenizer": TOKENIZER}, "tokenizer_class": "PlantedTokenizer"}),
    "tokenizer as a list": ({}, {"auto_map": TOKENIZER, "tokenizer_class": "PlantedTokenizer"}),
    "tokenizer of a known class": ({}, {"auto_map": {"AutoTokenizer": TOKENIZER}}),
    "tokenizer in the config": ({"auto_map": {"AutoTokenizer": TOKENIZER}}, {"tokenizer_class": "PlantedTokenizer"}),
    "of another repository": ({"auto_map": {"AutoConfig": f"other/repo--{CONFIG}"}}, {}),
    "everything": (
        {"auto_map": {"AutoConfig": CONFIG, "AutoModelForCausalLM": MODEL, "AutoTokenizer": TOKENIZER}},
        {"auto_map": {"AutoTokenizer": TOKENIZER}},
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["gpt_neox", "planted", "absent"])
@pytest.mark.parametrize("name", MAPS)
def test_code_in_a_folder_never_runs(
    folder: Folder, tried: Callable[..., tuple[int, str]], name: str, kind: str
) -> None:
    path, (config, tokenizer) = folder(), MAPS[name]
    plant(path)
    changed(path, "config.json", **config, **({} if kind == "gpt_neox" else {"model_type": kind}))
    changed(path, "tokenizer_config.json", **tokenizer)
    if kind == "absent":
        content = json.loads((path / "config.json").read_text())
        del content["model_type"]
        (path / "config.json").write_text(json.dumps(content))
    code, said = tried(path)
    if kind == "gpt_neox" and "tokenizer_class" not in tokenizer and "repository" not in name:
        assert code == 0  # transformers' own classes read it
    elif code:
        assert "which basinscope never runs" in said or "transformers cannot read the" in said


@pytest.mark.parametrize("option", ["model", "tokenizer"])
def test_code_in_a_folder_that_an_option_names(
    folder: Folder, tried: Callable[..., tuple[int, str]], option: str
) -> None:
    path, other = folder(), folder(name="other")
    plant(other)
    changed(other, "config.json", model_type="planted", **MAPS["everything"][0])
    changed(other, "tokenizer_config.json", tokenizer_class="PlantedTokenizer", **MAPS["everything"][1])
    code, said = tried(path, f"{option}={other}")
    assert code == 2
    assert f"{other} needs code of its own" in said


def test_a_whole_process_with_yes_on_standard_input(folder: Folder, tmp_path: Path) -> None:
    path = folder()
    plant(path)
    changed(path, "config.json", model_type="planted", **MAPS["everything"][0])
    words = [sys.executable, "-m", "basinscope", "spectrum", str(path)]
    task = ["--task", f"causal-lm:text={path / 'text.txt'},length=10"]
    done = subprocess.run([*words, *task], input="y\n" * 20, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "needs code of its own" in done.stderr
    assert not (tmp_path / MARKER).exists()


KERNELS = ["kernels-community/flash-attn", "someone/kernel", "someone/kernel:function", "sdpa|someone/kernel"]


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_of_a_hub_are_not_fetched(
    folder: Folder, tried: Callable[..., tuple[int, str]], key: str, kernel: str
) -> None:
    path = folder()
    changed(path, "config.json", **{key: kernel})
    code, said = tried(path)
    assert code == 2
    assert "names a kernel to fetch" in said


NUMBERS = [10_000_000, 10**12, 300_000]
DECLARED = ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "num_labels", "num_attention_heads"]


@pytest.mark.parametrize("key", DECLARED)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", ["neox", "llama"])
def test_configs_that_declare_far_more_than_the_weights_have(
    folder: Folder, small: ModuleType, tried: Callable[..., tuple[int, str]], key: str, number: int, kind: str
) -> None:
    path = folder(getattr(small, kind)())
    changed(path, "config.json", **{key: number})
    code, said = tried(path)
    # Labels are no part of a language model.
    assert code == 2 or key == "num_labels"


def test_layers_that_are_declared_in_a_list(folder: Folder, tried: Callable[..., tuple[int, str]]) -> None:
    path = folder()
    changed(path, "config.json", num_hidden_layers=30_000)
    code, said = tried(path)
    assert code == 2
    assert "states a model of far more layers than its weights have (28 tensors)" in said or "layers" in said


NAMES = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"]
NAMES += ["added_tokens.json", "chat_template.jinja", "adapter_config.json", "model.safetensors", "text.txt", "x.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to a device"])
def test_pipes_and_devices_in_a_folder(
    folder: Folder, tried: Callable[..., tuple[int, str]], tmp_path: Path, name: str, kind: str
) -> None:
    path = folder()
    (path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path / name)
    else:
        os.mkfifo(tmp_path / "pipe")
        (path / name).symlink_to(tmp_path / "pipe" if kind == "link to a pipe" else "/dev/zero")
    code, said = tried(path)
    assert code == 2
    wanted = {"config.json": "is a folder", "model.safetensors": "holds no weights"}.get(name, "not a regular file")
    assert wanted in said


WHOLE = {
    "complex": lambda value: value + 0j,
    "int8": lambda value: value.to(torch.int8),
    "int64": lambda value: value.to(torch.int64),
    "uint8": lambda value: value.to(torch.uint8),
    "bool": lambda value: value.bool(),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ["gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "gpt_neox.final_layer_norm.bias"])
def test_weights_of_a_folder_that_are_of_another_kind(
    folder: Folder, tried: Callable[..., tuple[int, str]], kind: str, form: str, name: str
) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    weights[name] = WHOLE[kind](weights[name])
    (path / "model.safetensors").unlink()
    if form == "bin":
        torch.save(weights, path / "pytorch_model.bin")
    else:
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    code, said = tried(path)
    assert code == 2
    assert f"has {name} as" in said


@pytest.mark.sampled(5)
@pytest.mark.parametrize("place", [0, 50, 101])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_weights_with_a_checksum(
    folder: Folder, tried: Callable[..., tuple[int, str]], place: int, bit: int
) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert tried(path)[0] == 0
    content = bytearray((path / "pytorch_model.bin").read_bytes())
    numbers = weights["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"].numpy().tobytes()
    content[content.index(numbers) + place] ^= 1 << bit
    (path / "pytorch_model.bin").write_bytes(content)
    code, said = tried(path)
    assert code == 2
    assert "pytorch_model.bin is damaged: the checksum of its part data/" in said
