from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.data import Dataset

from basinscope.cli import main
from basinscope.tasks import make_landscape
from spectra.checkpoint import adam_moments, read_checkpoint

pytest.importorskip("accelerate")
Folder = Callable[..., Path]


class Rows(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 256, (12,), generator=torch.Generator().manual_seed(number))
        return {"input_ids": tokens, "labels": tokens}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adams_moments_of_a_folder_that_transformers_trainer_saved(
    small: ModuleType, folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import Trainer, TrainingArguments

    model = small.neox()
    options = {"per_device_train_batch_size": 2, "save_steps": 3, "report_to": [], "disable_tqdm": True}
    arguments = TrainingArguments(str(tmp_path / "run"), max_steps=3, use_cpu=True, **options)
    trainer = Trainer(model, arguments, train_dataset=Rows())
    trainer.train()
    path = tmp_path / "run" / "checkpoint-3"
    small.save_tokenizer(path)
    (path / "text.txt").write_text(small.TEXT)
    checkpoint = read_checkpoint(path)
    landscape = make_landscape(f"causal-lm:text={path / 'text.txt'},length=10", checkpoint)
    moments = adam_moments(checkpoint, landscape.model)
    known = trainer.optimizer.state
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(landscape.parameters.unflatten(landscape.theta)[name], parameter)
        assert torch.equal(moments.first[name], known[parameter]["exp_avg"])
        assert torch.equal(moments.second[name], known[parameter]["exp_avg_sq"])
    assert moments.step == checkpoint.metadata["step"] == 3
    capsys.readouterr()
    words = ["volume", str(path), "--task", f"text={path / 'text.txt'},length=10", "--method", "star-domain"]
    assert main([*words, "--directions", "3", "--preconditioner", "adam-second", "--json"]) == 0
