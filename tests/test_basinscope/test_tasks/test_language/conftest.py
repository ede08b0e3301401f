import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "language_models", Path(__file__).with_name("language_models.py")
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_bars() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def folder(tmp_path: Path, small: ModuleType) -> Callable[..., Path]:
    """Saves a model, by default a small GPT-NeoX, with a tokenizer and a text."""

    def save(model: nn.Module | None = None, name: str = "model", **changes: Any) -> Path:
        return Path(small.saved(tmp_path / name, small.neox(**changes) if model is None else model))

    return save
