"""Image classifiers of transformers, from a folder as it saves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.tasks import (
    Weights,
    check_folder,
    import_transformers,
    in_a_sentence,
    load_pretrained,
    no_larger_than,
    quiet,
)
from basinscope.tasks.images.preparation import Preparation, read_preparation
from spectra.checkpoint import Checkpoint, is_model_folder
from spectra.errors import UserError
from spectra.model import preserved_random_state

_NO_STATISTICS = "no preprocessor_config.json beside the model: pixels go in from 0 to 1, without mean and deviation"


@dataclass(frozen=True)
class Classifier:
    """A classifier and what it expects.

    Attributes:
        model: the network, from (images, channels, height, width) to (images, classes).
        classes: how many classes it tells apart.
        channels: number of channels of its images.
        preparation: what is done to its images before.
        names: class numbers by name, where it has names of its own.
        notes: sentences on what is not known of it.
    """

    model: nn.Module
    classes: int
    channels: int
    preparation: Preparation
    names: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_classifier(home: Path, *, filled_from: Checkpoint | None = None) -> Classifier:
    """A classifier of transformers in float32, from local files; weights to be filled from a checkpoint are drawn."""
    if not is_model_folder(home):
        raise UserError(f"{home} is no folder of a model: expected one with a config.json")
    transformers = import_transformers("image-classifier", home, "vision")
    model = _loaded(transformers, home) if filled_from is None else _drawn(transformers, home, filled_from)
    config = model.config
    if config.num_labels < 2:
        raise UserError(
            f"{home} is no classifier: expected at least two classes in its config, got {config.num_labels}"
        )
    stated = read_preparation(home)
    preparation = stated or Preparation()
    if stated is None and (size := _pair(getattr(config, "image_size", None))) is not None:
        preparation = replace(preparation, size=size)
    return Classifier(
        model,
        classes=config.num_labels,
        channels=getattr(config, "num_channels", 3),
        preparation=preparation,
        names=_names(config.id2label),
        notes=stated.notes if stated is not None else (_NO_STATISTICS,),
    )


def _loaded(transformers: Any, home: Path) -> Any:
    kind = "AutoModelForImageClassification"
    return load_pretrained(transformers, kind, home, str(home.resolve()), dtype=torch.float32)


def _drawn(transformers: Any, home: Path, checkpoint: Checkpoint) -> Any:
    check_folder(home)
    tensors = checkpoint.parameters.values()
    weights = Weights(home, {}, len(tensors), sum(one.numel() * one.itemsize for one in tensors))
    with quiet(), in_a_sentence(home, "model"), preserved_random_state(), no_larger_than(weights):
        config = transformers.AutoConfig.from_pretrained(
            str(home.resolve()), local_files_only=True, trust_remote_code=False
        )
        return transformers.AutoModelForImageClassification.from_config(
            config, trust_remote_code=False, dtype=torch.float32
        )


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return (size, size)
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None


def _names(classes: Mapping[int, str]) -> dict[str, int]:
    """Numbers by names that somebody gave; what transformers makes up says nothing."""
    made_up = all(name == f"LABEL_{number}" for number, name in classes.items())
    return {} if made_up else {str(name): int(number) for number, name in classes.items()}
