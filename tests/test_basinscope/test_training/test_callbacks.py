"""Callbacks in the trainers themselves where they are installed, and in a stand-in with the hooks of Lightning's."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from basinscope.training import lightning_callback, transformers_callback
from basinscope.training.loggers import logger
from spectra.errors import UserError

Data = tuple[Tensor, Tensor]
LITTLE: dict[str, Any] = {"every": 2, "share": None, "quantities": ("eigenvalues",), "eigenvalues": 1}


class Log:
    """A logger that remembers, in the ways of TensorBoard, Lightning and wandb."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, int]] = []


class Writer(Log):
    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))


class Metrics(Log):
    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.told += [(name, value, step) for name, value in values.items()]


class Run(Log):
    def log(self, values: dict[str, float], step: int) -> None:
        self.told += [(name, value, step) for name, value in values.items()]


def test_numbers_go_to_any_logger() -> None:
    logs: list[Any] = [Writer(), Metrics(), Run()]
    plain: list[dict[str, float]] = []
    with_step: list[tuple[dict[str, float], int]] = []

    def takes_a_step(values: dict[str, float], step: int) -> None:
        with_step.append((values, step))

    logger([*logs, plain.append, takes_a_step])({"trace": 2.5}, 7)
    assert all(one.told == [("curvature/trace", 2.5, 7)] for one in logs)
    assert plain == [{"curvature/trace": 2.5, "step": 7}]
    assert with_step == [({"curvature/trace": 2.5}, 7)]


def train_with_the_hooks_of_lightning(callback: Any, model: nn.Module, data: Data) -> list[tuple[str, float, int]]:
    """Two batches to an optimizer step, as with accumulated gradients."""
    log, optimizer = Metrics(), torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = SimpleNamespace(loggers=[log], optimizers=[optimizer], global_step=0)
    callback.on_train_start(trainer, model)
    for batch in range(8):
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        if batch % 2:
            optimizer.step()
            optimizer.zero_grad()
            trainer.global_step += 1
        callback.on_train_batch_end(trainer, model, None, data, batch)
    callback.on_train_end(trainer, model)
    return log.told


def test_lightning_is_told_of_optimizer_steps(
    network: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = ModuleType("lightning.pytorch")
    library.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning.pytorch", library)
    callback = lightning_callback(nn.CrossEntropyLoss(), data, output=tmp_path / "run.h5", **LITTLE)
    assert isinstance(callback, library.Callback)
    told = train_with_the_hooks_of_lightning(callback, network, data)
    curves = callback.tracker.curves
    assert curves.steps.tolist() == [0, 2, 4]
    assert [value for name, value, _ in told if name == "curvature/eigenvalue_1"] == curves.eigenvalues[:, 0].tolist()
    assert [step for name, _, step in told if name == "curvature/stability_limit"] == [0, 2, 4]


def test_what_is_not_installed_is_named(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install lightning"):
        lightning_callback(nn.CrossEntropyLoss(), data)
    with pytest.raises(UserError, match="pip install transformers"):
        transformers_callback([])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightnings_own_trainer(data: Data) -> None:
    library = pytest.importorskip("lightning.pytorch")
    inputs, targets = data[0].float(), data[1]

    class Module(library.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs)  # type: ignore[no-any-return]

        def training_step(self, batch: Data, _: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    def trained(callbacks: list[Any]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = Module()
        rows = torch.utils.data.TensorDataset(inputs, targets)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = library.Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, **quiet)
        trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True))
        return module.state_dict()

    callback = lightning_callback(nn.CrossEntropyLoss(), (inputs, targets), **LITTLE)
    with_one, without = trained([callback]), trained([])
    assert all(torch.equal(one, without[name]) for name, one in with_one.items())
    assert callback.tracker.curves.steps.tolist() == [0, 2, 4, 6]
    assert callback.tracker.curves.column("stability_limit").tolist() == [4.0] * 4


@pytest.mark.slow
def test_transformers_own_trainer(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    ids = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in ids]

    def trained(callbacks: list[Any]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
        model = library.GPT2LMHeadModel(library.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
        plan = library.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        library.Trainer(model=model, args=plan, train_dataset=rows, callbacks=callbacks).train()
        return model.state_dict()  # type: ignore[no-any-return]

    callback = transformers_callback([{"input_ids": ids, "labels": ids}], **LITTLE)
    with_one, without = trained([callback]), trained([])
    assert all(torch.equal(one, without[name]) for name, one in with_one.items())
    curves = callback.tracker.curves
    assert curves.steps.tolist() == [0, 2, 4]
    assert "the labels are shifted by one place" in curves.notes[0]
    assert (curves.column("preconditioned_eigenvalue")[1:] > 0.0).all()
    assert curves.column("preconditioned_limit")[1] == pytest.approx(38.0 / curves.column("learning_rate")[1])
