"""Image classifiers of timm by name, where timm imports; weights come from the checkpoint alone."""

from __future__ import annotations

import re
from typing import Any

from basinscope.tasks.images.model import Classifier
from basinscope.tasks.images.preparation import Preparation
from spectra.checkpoint import Checkpoint, load_into
from spectra.errors import UserError, foreign
from spectra.model import preserved_random_state


def load_timm(name: str, checkpoint: Checkpoint) -> Classifier:
    """A classifier of timm with a checkpoint's weights, whose first and last layer say its channels and classes."""
    if not re.fullmatch(r"[\w.]+", name):
        raise UserError(f"timm={name!r:.80} is no name of timm's own: names of a hub or a folder are never followed")
    timm = _timm(name)
    with foreign(f"timm cannot make the model {name!r}: it"), preserved_random_state():
        stated = timm.create_model(name, pretrained=False).pretrained_cfg
    last = _first(checkpoint, stated["classifier"], "weight")
    first = _first(checkpoint, stated["first_conv"], "weight")
    with preserved_random_state():
        model = timm.create_model(name, pretrained=False, num_classes=last.shape[0], in_chans=first.shape[1])
    load_into(checkpoint, model)
    return Classifier(
        model,
        classes=last.shape[0],
        channels=first.shape[1],
        preparation=Preparation(
            size=tuple(stated["input_size"][1:]),
            mean=tuple(stated["mean"]),
            deviation=tuple(stated["std"]),
            resample=stated.get("interpolation", "bilinear"),
        ),
    )


def _timm(name: str) -> Any:
    # An unfit torchvision fails in ways of its own, such as RuntimeError.
    with foreign(
        f"timm={name} needs timm, which does not import here (ConvNeXt V2 and others come from transformers too: "
        "give a folder that it saved): its import"
    ):
        import timm
    return timm


def _first(checkpoint: Checkpoint, layers: Any, part: str) -> Any:
    """Weight of the layer that timm names, or of the first of several."""
    layer = layers if isinstance(layers, str) else layers[0]
    found = checkpoint.parameters.get(f"{layer}.{part}")
    if found is None or found.ndim < 2:
        raise UserError(f"{layer}.{part}, which says how many classes or channels, is not in {checkpoint.path}")
    return found
