import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spectra.checkpoint import adam_moments, load_into, read_checkpoint


class Block(nn.Module):
    """Names and kinds of parameters as in a transformer: matrices, biases, norms of two kinds, one norm of a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.input_layernorm = nn.LayerNorm(4)
        self.dense = nn.Linear(4, 4)
        self.q_norm = nn.RMSNorm(4)
        self.head = nn.Linear(4, 5, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.dense(self.input_layernorm(self.embed(tokens)))
        found: torch.Tensor = self.head(self.q_norm(hidden))
        return found


def stepped(groups: list[dict[str, Any]], model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(groups)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([[0, 1, 2, 3, 4]])).square().sum().backward()
        optimizer.step()
    return optimizer


def trainers_groups(model: nn.Module) -> list[dict[str, Any]]:
    plain = [name for name, _ in model.named_parameters() if "bias" in name or "norm" in name]
    named = dict(model.named_parameters())
    decayed = [parameter for name, parameter in named.items() if name not in plain]
    return [{"params": decayed}, {"params": [named[name] for name in plain], "weight_decay": 0.0}]


def save_folder(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["TinyForCausalLM"], "model_type": "tiny"}))
    save_file(model.state_dict(), folder / "model.safetensors")
    if optimizer is not None:
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3, "epoch": 0.5}))
    return folder


def test_weights_metadata_and_the_optimizer_of_a_trainers_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Block()
    path = save_folder(tmp_path / "checkpoint-3", model, stepped(trainers_groups(model), model))
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == {
        "format": "transformers",
        "architectures": ["TinyForCausalLM"],
        "model_type": "tiny",
        "step": 3,
        "epoch": 0.5,
    }
    other = Block()
    load_into(checkpoint, other)
    for name, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter)


@pytest.mark.parametrize("layout", ["trainer", "matrices", "one group", "named"])
def test_adams_moments_are_matched_by_the_groups_of_the_usual_trainers(tmp_path: Path, layout: str) -> None:
    torch.manual_seed(0)
    model = Block()
    groups = {
        "trainer": trainers_groups(model),
        "matrices": [{"params": [p for p in model.parameters() if (p.dim() >= 2) is kept]} for kept in (True, False)],
        "one group": [{"params": list(model.parameters())}],
        "named": [{"params": list(reversed(list(model.named_parameters())))}],
    }[layout]
    optimizer = stepped(groups, model)
    moments = adam_moments(read_checkpoint(save_folder(tmp_path / "run", model, optimizer)), model)
    assert moments.step == 3
    for name, parameter in model.named_parameters():
        assert torch.equal(moments.first[name], optimizer.state[parameter]["exp_avg"])
        assert torch.equal(moments.second[name], optimizer.state[parameter]["exp_avg_sq"])


def test_the_same_layouts_in_a_training_checkpoint_of_one_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Block()
    optimizer = stepped(trainers_groups(model), model)
    for number, layout in enumerate(("optimizer", "optimizer_state_dict")):
        path = tmp_path / f"{number}.pt"
        torch.save({"model_state_dict": model.state_dict(), layout: optimizer.state_dict()}, path)
        moments = adam_moments(read_checkpoint(path), model)
        assert all(torch.equal(moments.first[n], optimizer.state[p]["exp_avg"]) for n, p in model.named_parameters())


def test_an_order_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    """By name the scale decays, by dimension the matrix called bias; the one that has moments tells nothing."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(2, 1))
            self.scale = nn.Parameter(torch.ones(2))
            self.weight = nn.Parameter(torch.ones(3, 1))

    model, moments = Three(), dict.fromkeys(("exp_avg", "exp_avg_sq"), torch.zeros(3, 1))
    optimizer = {"state": {1: moments}, "param_groups": [{"params": [0, 1]}, {"params": [2]}]}
    torch.save({"model": model.state_dict(), "optimizer": optimizer}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="in an order that cannot be told"):
        adam_moments(read_checkpoint(tmp_path / "model.pt"), model)


def test_several_files_and_their_digest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Block()
    path = save_folder(tmp_path / "whole", model)
    whole = read_checkpoint(path)
    weights = model.state_dict()
    names = list(weights)
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, path / file)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    parts = read_checkpoint(path)
    assert parts.sha256 != whole.sha256
    assert set(parts.parameters) == set(names)
    assert all(torch.equal(parts.parameters[name], weights[name]) for name in names)
    shards = ["config.json", *sorted(set(files.values()))]
    lines = [f"{name}\0{hashlib.sha256((path / name).read_bytes()).hexdigest()}\0" for name in shards]
    assert parts.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_weights_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "run", Block())
    (path / "optimizer.pt").write_bytes(b"\x80nothing")
    (path / "model.safetensors").write_bytes(b"damaged")
    checkpoint = read_checkpoint(path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        len(checkpoint.parameters)
    with pytest.raises(ValueError, match="optimizer.pt is truncated or damaged"):
        adam_moments(checkpoint, Block())


def test_an_optimizer_file_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = save_folder(tmp_path / "run", Block())
    torch.save({"state": {0: Payload()}, "param_groups": []}, path / "optimizer.pt")
    with pytest.raises(ValueError, match=r"contains pickled code \(\w+\.mkdir\); basinscope never runs it"):
        adam_moments(read_checkpoint(path), Block())
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; name the checkpoint file inside it"):
        read_checkpoint(tmp_path)


def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"GGUF rest")
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == {"format": "gguf"}
    assert checkpoint.sha256 == hashlib.sha256(b"GGUF rest").hexdigest()
    assert len(checkpoint.parameters) == 0
