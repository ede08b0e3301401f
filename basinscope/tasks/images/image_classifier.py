"""Image classifiers: cross-entropy on labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from basinscope.tasks import TaskRow, check_counts
from basinscope.tasks.images.image_set import ImageSet
from basinscope.tasks.images.model import Classifier, load_classifier
from basinscope.tasks.images.source import read_images
from basinscope.tasks.images.timm_model import load_timm
from spectra.checkpoint import Checkpoint, is_model_folder, load_into
from spectra.costs import cross_entropy
from spectra.errors import UserError
from spectra.files import counted
from spectra.landscape import Landscape
from spectra.model import Batch


def image_classifier(
    checkpoint: Checkpoint,
    *,
    images: Path,
    split: str | None = None,
    count: int = 1024,
    size: int | None = None,
    batch: int = 64,
    model: Path | None = None,
    timm: str | None = None,
) -> Landscape:
    """The task ``image-classifier``: mean over images of the cross-entropy (or divergence from the anchor)."""
    check_counts("image-classifier", count=(count, 0), size=(size, 0), batch=(batch, 1))
    if not images.exists():
        raise FileNotFoundError(f"{images} does not exist")
    classifier = _sized(_classifier(checkpoint, model, timm), size)
    preparation = classifier.preparation
    found = read_images(
        images,
        classifier.channels,
        classes=classifier.names,
        split=split,
        count=count,
        size=preparation.size,
        resample=preparation.resample,
    )
    _check_labels(images, found, classifier)
    inputs, labels = preparation.inputs(found), torch.from_numpy(found.labels)
    batches = [
        Batch(part, targets)
        for part, targets in zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True)
    ]
    return Landscape(classifier.model, cross_entropy, batches, notes=_notes(images, found, classifier))


def _classifier(checkpoint: Checkpoint, model: Path | None, timm: str | None) -> Classifier:
    if model is not None and timm is not None:
        raise UserError("task image-classifier: options model and timm exclude each other: give one of them")
    if timm is not None:
        return load_timm(timm, checkpoint)
    if model is not None:
        classifier = load_classifier(model, filled_from=checkpoint)
        load_into(checkpoint, classifier.model)
        return classifier
    if not is_model_folder(checkpoint.path):
        raise UserError(
            f"{checkpoint.path} is a file of weights, which says nothing of the network: give the folder of its "
            "config.json as option model, or the name of timm's model as option timm"
        )
    return load_classifier(checkpoint.path)


def _sized(classifier: Classifier, size: int | None) -> Classifier:
    if size is None:
        return classifier
    edges = (size, size) if size else None
    return replace(classifier, preparation=replace(classifier.preparation, size=edges))


def _check_labels(path: Path, found: ImageSet, classifier: Classifier) -> None:
    wrong = found.labels[(found.labels < 0) | (found.labels >= classifier.classes)]
    if len(wrong):
        raise UserError(
            f"{path} has the label {wrong[0]}, but the classifier's classes are 0 to {classifier.classes - 1}"
        )


def _notes(path: Path, found: ImageSet, classifier: Classifier) -> tuple[str, ...]:
    _, channels, height, width = found.images.shape
    edges = classifier.preparation.size
    brought = f", brought to {edges[0]}x{edges[1]}" if edges is not None and edges != (height, width) else ""
    whole = f"{counted(len(found.labels), 'image')} of {channels}x{height}x{width} from {path.name}{brought}"
    return (whole, *found.notes, *classifier.notes)


ROWS = (TaskRow("image-classifier", image_classifier, architectures=("ForImageClassification",)),)
