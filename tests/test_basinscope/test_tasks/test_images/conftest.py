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
    specification = importlib.util.spec_from_file_location("image_models", Path(__file__).with_name("image_models.py"))
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
    """Saves a classifier, by default a small ConvNeXt V2 of three channels, with what it expects of images."""

    def save(model: nn.Module | None = None, name: str = "model", **stated: Any) -> Path:
        path = tmp_path / name
        (small.convnext() if model is None else model).save_pretrained(path)
        small.state_preparation(path, **stated)
        return path

    return save
