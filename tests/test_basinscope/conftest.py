import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from basinscope.__main__ import main

TASK_FILE = Path(__file__).with_name("tiny_task.py")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    specification = importlib.util.spec_from_file_location("tiny_task", TASK_FILE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path, tiny: ModuleType) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save({"model": tiny.network().state_dict(), "metadata": {"width": 8}}, path)
    return path


@pytest.fixture
def spectrum(checkpoint: Path) -> Callable[..., int]:
    """Run ``basinscope spectrum`` on the tiny checkpoint, sampling; later options win."""

    def run(*options: str | Path, task: str = "tiny") -> int:
        words = ["spectrum", str(checkpoint), "--task", f"{TASK_FILE}:{task}"]
        # A fixed strategy: timing the candidates takes longer than the computing here, and chooses.
        words += ["--engine", "slq", "--steps", "12", "--strategy", "double-backward"]
        return main([*words, *map(str, options)])

    return run
